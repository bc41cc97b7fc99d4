"""The fields of KubeRay's objects that cluster/kuberay.yaml may use, and a check against them.

Taken from the API reference of KubeRay 1.7.0 (ray.io/v1, docs/reference/api.md, generated from the CRD's types).
Kubernetes' own parts inside them are named by the kind and field whose schema holds for them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

POD, RESOURCES, SECURITY, ENV, MOUNTS = "pod template", "resources", "securityContext", "env", "volumeMounts"
"""Parts that are Kubernetes' own: a PodTemplateSpec, and fields of a container."""

TEXTS = "map of texts"

FIELDS: Mapping[str, Mapping[str, Any]] = {
    "RayCluster": {"apiVersion": ("ray.io/v1",), "kind": str, "metadata": "Metadata", "spec": "RayClusterSpec"},
    "RayJob": {"apiVersion": ("ray.io/v1",), "kind": str, "metadata": "Metadata", "spec": "RayJobSpec"},
    "Metadata": {"name": str, "namespace": str, "labels": TEXTS, "annotations": TEXTS},
    "RayClusterSpec": {
        "rayVersion": str,
        "authOptions": "AuthOptions",
        "autoscalerOptions": "AutoscalerOptions",
        "enableInTreeAutoscaling": bool,
        "headServiceAnnotations": TEXTS,
        "suspend": bool,
        "headGroupSpec": "HeadGroupSpec",
        "workerGroupSpecs": ["WorkerGroupSpec"],
    },
    "AuthOptions": {"enableK8sTokenAuth": bool, "secretName": str, "mode": ("disabled", "token")},
    "AutoscalerOptions": {
        "resources": RESOURCES,
        "image": str,
        "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
        "securityContext": SECURITY,
        "idleTimeoutSeconds": int,
        "upscalingMode": ("Default", "Aggressive", "Conservative"),
        "version": ("v1", "v2"),
        "env": ENV,
        "volumeMounts": MOUNTS,
    },
    "HeadGroupSpec": {
        "template": POD,
        "enableIngress": bool,
        "resources": TEXTS,
        "labels": TEXTS,
        "rayStartParams": TEXTS,
        "serviceType": ("ClusterIP", "NodePort", "LoadBalancer"),
    },
    "WorkerGroupSpec": {
        "groupName": str,
        "replicas": int,
        "minReplicas": int,
        "maxReplicas": int,
        "idleTimeoutSeconds": int,
        "priority": int,
        "numOfHosts": int,
        "resources": TEXTS,
        "labels": TEXTS,
        "rayStartParams": TEXTS,
        "template": POD,
    },
    "RayJobSpec": {
        "activeDeadlineSeconds": int,
        "backoffLimit": int,
        "rayClusterSpec": "RayClusterSpec",
        "submitterPodTemplate": POD,
        "metadata": TEXTS,
        "clusterSelector": TEXTS,
        "submitterConfig": "SubmitterConfig",
        "entrypoint": str,
        "runtimeEnvYAML": str,
        "jobId": str,
        "submissionMode": ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
        "entrypointResources": str,
        "entrypointNumCpus": float,
        "entrypointNumGpus": float,
        "ttlSecondsAfterFinished": int,
        "preRunningDeadlineSeconds": int,
        "shutdownAfterJobFinishes": bool,
        "suspend": bool,
    },
    "SubmitterConfig": {"backoffLimit": int},
}

REQUIRED = {
    "RayCluster": ("apiVersion", "kind", "metadata", "spec"),
    "RayJob": ("apiVersion", "kind", "metadata", "spec"),
    "Metadata": ("name",),
    "RayClusterSpec": ("headGroupSpec",),
    "HeadGroupSpec": ("template",),
    "WorkerGroupSpec": ("groupName", "template"),
    "RayJobSpec": (),
}


def problems(value: Any, kind: Any, place: str = "") -> Iterator[str]:
    """What is wrong with a value that should be of a kind: a name of FIELDS, a type, one of some texts, a list."""
    if isinstance(kind, list):
        if not isinstance(value, list):
            yield f"{place}: expected a list"
            return
        for i, part in enumerate(value):
            yield from problems(part, kind[0], f"{place}[{i}]")
    elif kind in FIELDS:
        yield from _object_problems(value, kind, place)
    elif kind == TEXTS:
        if not (isinstance(value, dict) and all(isinstance(text, str) for text in value.values())):
            yield f"{place}: expected texts"
    elif isinstance(kind, tuple):
        if value not in kind:
            yield f"{place}: expected one of {kind}, found {value!r}"
    elif isinstance(kind, type) and type(value) is not kind:
        yield f"{place}: expected {kind.__name__}, found {value!r}"


def _object_problems(value: Any, kind: str, place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place}: expected a {kind}"
        return
    yield from (f"{place}: {key} is missing" for key in REQUIRED.get(kind, ()) if key not in value)
    for key, part in value.items():
        if key not in FIELDS[kind]:
            yield f"{place}.{key}: a {kind} has no such field"
        else:
            yield from problems(part, FIELDS[kind][key], f"{place}.{key}")


def kubernetes_parts(value: Any, kind: Any) -> Iterator[dict[str, Any]]:
    """A PodTemplateSpec for every part of a KubeRay object that is Kubernetes' own."""
    if isinstance(kind, list):
        for part in value:
            yield from kubernetes_parts(part, kind[0])
    elif kind in FIELDS:
        for key, part in value.items():
            yield from kubernetes_parts(part, FIELDS[kind].get(key))
    elif kind == POD:
        yield value
    elif kind in (RESOURCES, SECURITY, ENV, MOUNTS):
        yield {"spec": {"containers": [{"name": "part", kind: value}]}}
