"""cluster/aws.yaml and gcp.yaml against Ray's launcher and EC2, and what they promise of nodes and access."""

import copy
import re
import subprocess
from functools import cache
from typing import Any

import pytest

from tests.cluster.deployed import LAUNCHED, Deployed, misspelt, places_of_keys

every_launched = pytest.mark.parametrize("file", LAUNCHED, ids=lambda file: file.path.name)


def prepared(file: Deployed) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config

    found: dict[str, Any] = prepare_config(copy.deepcopy(file.documents[0]))
    return found


@every_launched
def test_ray_takes_the_file_with_its_own_defaults(file: Deployed) -> None:
    from ray.autoscaler._private.util import validate_config

    validate_config(prepared(file))


@every_launched
def test_ray_sees_a_misspelt_key(file: Deployed) -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import validate_config

    known = prepared(file)
    for place in (("max_workers",), ("docker", "image"), ("available_node_types", "gpu", "min_workers")):
        with pytest.raises(ValidationError):
            validate_config(misspelt(known, place))


@every_launched
def test_workers_come_from_none_on_spot_and_the_head_stays(file: Deployed) -> None:
    config = file.documents[0]
    head, gpu = (config["available_node_types"][name] for name in ("head", "gpu"))
    assert config["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0}
    assert gpu["min_workers"] == 0
    assert gpu["max_workers"] == config["max_workers"] > 0
    for node, spot in ((head, False), (gpu, True)):
        market = node["node_config"].get("InstanceMarketOptions", {}).get("MarketType", "")
        provisioning = node["node_config"].get("scheduling", {}).get("provisioningModel", "")
        assert ("spot" in (market, provisioning.lower())) is spot


@every_launched
def test_every_node_asks_for_the_token_and_the_head_listens_to_itself_alone(file: Deployed) -> None:
    config = prepared(file)
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    hosts = re.findall(r"--(?:dashboard-)?host=(\S+)", "\n".join(config["head_start_ray_commands"]))
    assert hosts == ["127.0.0.1", "127.0.0.1"]


@every_launched
def test_every_command_is_one_that_a_shell_reads(file: Deployed) -> None:
    found = [(key, line) for key, lines in prepared(file).items() if key.endswith("_commands") for line in lines]
    assert len(found) > 10
    for key, line in found:
        done = subprocess.run(["bash", "-n", "-c", line], check=False, capture_output=True, text=True)
        assert done.returncode == 0, (key, line, done.stderr)


@every_launched
def test_what_nodes_install_is_constrained(file: Deployed) -> None:
    installs = [line for line in file.strings() if "pip install" in line]
    assert len(installs) == 2
    assert all("-c constraints.txt" in line for line in installs)


def test_ec2_takes_the_nodes() -> None:
    for name, config in aws_nodes().items():
        assert ec2_problems(config) == "", name


def test_ec2_sees_a_misspelt_key() -> None:
    gpu = aws_nodes()["gpu"]
    for place in places_of_keys(gpu):
        assert "Unknown parameter" in ec2_problems(misspelt(gpu, place)), place


def aws_nodes() -> dict[str, dict[str, Any]]:
    (file,) = [file for file in LAUNCHED if file.path.name == "aws.yaml"]
    return {name: node["node_config"] for name, node in file.documents[0]["available_node_types"].items()}


def ec2_problems(node: dict[str, Any]) -> str:
    """What EC2's own description of RunInstances says against a node's parameters, offline."""
    from botocore.validate import ParamValidator

    report: str = ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, run_instances()).generate_report()
    return report


@cache
def run_instances() -> Any:
    """The parameters that the call takes."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model("ec2", "service-2")).operation_model("RunInstances").input_shape
