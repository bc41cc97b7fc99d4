"""The files of cluster/ that describe machines, as tests read them: documents, placeholders, commands."""

import copy
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
PLACEHOLDER = re.compile(r"<FILL-IN-[A-Z-]+>")
COMMANDS = ("docker", "gcloud", "aws", "kubectl", "ray", "python")
"""First words of the commands that headers show."""


@dataclass(frozen=True)
class Deployed:
    """One YAML file: its header (the comment it begins with) and its body."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def header(self) -> str:
        return "\n".join(self.comment_lines())

    @property
    def body(self) -> str:
        return "\n".join(self.text.splitlines()[len(self.comment_lines()) :])

    def comment_lines(self) -> list[str]:
        lines = self.text.splitlines()
        first = next(i for i, line in enumerate(lines) if not line.startswith("#"))
        return [line[1:] for line in lines[:first]]

    @cached_property
    def documents(self) -> list[dict[str, Any]]:
        """Every object of the body; those of a Kubernetes List one by one."""
        found = []
        for document in yaml.safe_load_all(self.body):
            found += document["items"] if document.get("kind") == "List" else [document]
        return found

    def strings(self) -> Iterator[str]:
        """Every text value of the body."""
        for document in self.documents:
            yield from texts_in(document)

    def told_commands(self) -> list[list[str]]:
        """The commands of the header, as words. A line that is indented further goes on with the one above."""
        told: list[str] = []
        for line in self.comment_lines():
            words = line.strip().removesuffix("\\").split("   ")[0]
            if words.split(" ")[0] in COMMANDS:
                told.append(words)
            elif told and line.startswith("     ") and line.lstrip().startswith(("--", "/")):
                told[-1] += f" {words.strip()}"
        return [shlex.split(words) for words in told]


FILES = [Deployed(path) for path in sorted(FOLDER.glob("*.yaml"))]
LAUNCHED = [file for file in FILES if "provider" in file.documents[0]]
"""The files for Ray's own launcher."""
KUBERAY = Deployed(FOLDER / "kuberay.yaml")
DOCKERFILE = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINNED = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
)


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in KUBERAY.documents if document["kind"] == kind]


def clusters() -> list[dict[str, Any]]:
    """The Ray clusters of the file: the one that stays, and the job's own."""
    kinds = {document["kind"]: document.get("spec", {}) for document in KUBERAY.documents}
    return [kinds["RayCluster"], kinds["RayJob"]["rayClusterSpec"]]


def pods() -> list[tuple[str, dict[str, Any]]]:
    """Every pod template with the name of what makes it."""
    cluster = clusters()[0]
    found = [(d["metadata"]["name"], d["spec"]["template"]) for d in [*of_kind("StatefulSet"), *of_kind("Deployment")]]
    found += [("head", cluster["headGroupSpec"]["template"])]
    found += [(group["groupName"], group["template"]) for group in cluster["workerGroupSpecs"]]
    return [*found, ("submitter", of_kind("RayJob")[0]["spec"]["submitterPodTemplate"])]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """All containers of a pod template."""
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def texts_in(value: Any) -> Iterator[str]:
    """The strings in a tree of dictionaries and lists, keys left out."""
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts_in(part)


def module_commands(text: str, module: str) -> list[list[str]]:
    """The arguments of every `python -m MODULE …` in a text, up to the quote, operator or line that ends it."""
    found = re.findall(rf"python -m {re.escape(module)} ([^'\"\n;&|]*)", text)
    return [shlex.split(arguments) for arguments in found]


FREE = {"labels", "matchLabels", "selector", "annotations", "rayStartParams", "requests", "limits"}
"""Keys under which one may write what one likes."""


def places_of_keys(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every key stands that has a meaning."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(value, dict):
            yield (*place, key)
        if key not in FREE:
            yield from places_of_keys(part, (*place, key))


def misspelt(document: dict[str, Any], place: tuple[Any, ...]) -> dict[str, Any]:
    wrong = copy.deepcopy(document)
    parent = wrong
    for key in place[:-1]:
        parent = parent[key]
    parent[f"{place[-1]}x"] = parent.pop(place[-1])
    return wrong
