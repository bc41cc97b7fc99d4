"""A search's order: what a cluster says of itself, held against all that the search needs of it."""

from pathlib import Path

from cluster.order import Order
from cluster.sending import Surroundings
from cluster.target import Target
from tests.cluster.test_checks import WELL, told
from tune.search import parser, requests_of


def order(folder: Path) -> Order:
    """Of track B under the laptop profile, whose trial wants 64 CPUs."""
    words = ["--track", "b", "--profile", "laptop", "--name", "x", "--storage", str(folder), "--cpus-per-worker", "64"]
    options = parser().parse_args([*words, "--tracking-uri", "http://m:5000"])
    target = Target.__new__(Target)  # nobody is asked
    return Order(options, target, requests_of(options), Surroundings.__new__(Surroundings), (), None, (), ())


def test_all_that_is_wrong_with_a_cluster_is_told_at_once(tmp_path: Path) -> None:
    node = {
        "python": "3.1.9",
        "packages": {**WELL["packages"], "peft": None},
        "missing_paths": ["/data/pairs.jsonl"],
        "storage_error": "read-only",
    }
    failures = order(tmp_path)._failures(told(node, None, storage="read-only", tracking="refused"))
    said = "\n".join(map(str, failures))
    for fault in ("host-1 started no worker", "Python 3.1", "peft", "/data/pairs.jsonl", "read-only", "refused", "64"):
        assert fault in said
    assert len(failures) == len(set(failures)) == 7
    assert all(failure.cure for failure in failures)
