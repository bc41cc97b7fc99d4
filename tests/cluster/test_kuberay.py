"""cluster/kuberay.yaml against the schemas of Kubernetes and KubeRay, and what it promises of access and rights."""

import re
from typing import Any

import pytest

from tests.cluster.deployed import KUBERAY, clusters, containers, misspelt, of_kind, places_of_keys, pods

KUBERNETES = "1.37"


def check(document: dict[str, Any]) -> None:
    """Raises ValueError where Kubernetes or KubeRay would not take the object, or would pass over a part of it."""
    from kubernetes_validate import ValidationError, validate

    from tests.cluster.kuberay_fields import kubernetes_parts, problems

    parts = [document]
    if document.get("apiVersion") == "ray.io/v1":
        wrong = list(problems(document, document["kind"], document["kind"]))
        if wrong:
            raise ValueError("\n".join(wrong))
        pods = kubernetes_parts(document, document["kind"])
        parts = [
            {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "part"}, "template": pod} for pod in pods
        ]
    try:
        for part in parts:
            validate(part, KUBERNETES, strict=True)
    except ValidationError as error:
        raise ValueError(error.message) from error


@pytest.mark.parametrize("document", KUBERAY.documents, ids=lambda d: f"{d['kind']}-{d['metadata']['name']}")
def test_kubernetes_takes_every_object(document: dict[str, Any]) -> None:
    check(document)


def test_a_misspelt_key_is_seen_wherever_it_stands() -> None:
    every = [
        (document, place)
        for document in KUBERAY.documents
        for place in places_of_keys(document)
        if place[0] not in ("kind", "apiVersion")  # by these the schema is found
    ]
    assert len(every) > 300
    for document, place in every[::12]:  # each costs a tenth of a second
        with pytest.raises(ValueError, match=r"\S"):
            check(misspelt(document, place))


def test_the_job_brings_the_cluster_that_stays() -> None:
    stays, own = clusters()
    assert own == stays


def test_every_object_belongs_to_one_of_the_parts_that_the_header_names() -> None:
    named = set(re.findall(r"-l phasegpt/part=(\w+)", KUBERAY.header))
    assert {d["metadata"]["labels"]["phasegpt/part"] for d in KUBERAY.documents} == named
    assert {d["kind"] for d in KUBERAY.documents if d["metadata"]["labels"]["phasegpt/part"] == "search"} == {"RayJob"}


def test_gpu_workers_come_from_none_and_ask_for_a_token() -> None:
    (cluster, _), (job,) = clusters(), of_kind("RayJob")
    (workers,) = cluster["workerGroupSpecs"]
    assert cluster["enableInTreeAutoscaling"]
    assert (workers["minReplicas"], workers["replicas"]) == (0, 0)
    assert cluster["authOptions"]["mode"] == "token"
    assert job["spec"]["backoffLimit"] == 0
    assert job["spec"]["shutdownAfterJobFinishes"]
    assert ";" not in job["spec"]["entrypoint"]
    assert "&" not in job["spec"]["entrypoint"]  # the submitter pastes it into a shell


@pytest.mark.parametrize(("name", "pod"), pods(), ids=[name for name, _ in pods()])
def test_no_pod_runs_as_root_or_may_become_it_and_each_says_what_it_needs(name: str, pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] > 0
    for container in containers(pod):
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        profile = own.get("seccompProfile") or spec["securityContext"].get("seccompProfile")
        assert profile == {"type": "RuntimeDefault"}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]


def test_services_are_probed() -> None:
    for name in ("postgres", "mlflow"):
        (container,) = dict(pods())[name]["spec"]["containers"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)


def test_passwords_and_tokens_come_from_secrets_that_the_header_makes() -> None:
    asked = {"phasegpt-ray/auth_token"} if clusters()[0]["authOptions"]["secretName"] == "phasegpt-ray" else set()
    for _, pod in pods():
        for entry in (entry for container in containers(pod) for entry in container.get("env", ())):
            reference = entry.get("valueFrom", {}).get("secretKeyRef")
            assert bool(re.search("PASSWORD|TOKEN|SECRET", entry["name"])) is (reference is not None)
            asked |= {f"{reference['name']}/{reference['key']}"} if reference else set()
    made = re.findall(r"create secret generic (\S+) --from-literal=(\w+)=", KUBERAY.header)
    assert asked == {f"{name}/{key}" for name, key in made}
    assert of_kind("Secret") == []


def may(source: dict[str, str], target: dict[str, str], port: int) -> bool:
    """Whether the network policies let a pod of this namespace reach a port of another, by their labels."""

    def fits(selector: dict[str, Any], labels: dict[str, str]) -> bool:
        return selector.get("matchLabels", {}).items() <= labels.items()

    rules = [
        rule
        for policy in of_kind("NetworkPolicy")
        if fits(policy["spec"]["podSelector"], target)
        for rule in policy["spec"].get("ingress", ())
    ]
    return any(
        any(fits(peer["podSelector"], source) for peer in rule["from"])
        and ("ports" not in rule or port in [each["port"] for each in rule["ports"]])
        for rule in rules
    )


def test_who_may_reach_whom() -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in pods()}
    labels["operator"] = {"app.kubernetes.io/name": "kuberay-operator"}
    labels["stranger"] = {"app": "stranger"}
    ports = {"postgres": 5432, "mlflow": 5000, "head": 8265, "gpu": 10002}
    found = {(a, b) for a in labels for b, port in ports.items() if may(labels[a], labels[b], port)}
    assert found == {
        ("mlflow", "postgres"),
        ("head", "mlflow"),
        ("gpu", "mlflow"),
        *((a, b) for a in ("head", "gpu") for b in ("head", "gpu")),
        ("operator", "head"),
        ("submitter", "head"),
    }
    assert not may(labels["submitter"], labels["head"], 6379)


def test_nothing_is_open_to_the_outside() -> None:
    assert {service["spec"].get("type", "ClusterIP") for service in of_kind("Service")} == {"ClusterIP"}
    assert of_kind("Ingress") == []
    closed = [p for p in of_kind("NetworkPolicy") if p["spec"]["podSelector"] == {} and "ingress" not in p["spec"]]
    assert len(closed) == 1
