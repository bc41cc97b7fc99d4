"""A YAML file + a profile + overrides -> a typed config, or every problem at once with its file:line.

Values are laid on one another as plain values and typed after, so a searched value passes the same checks as a
hand-written one. Knows nothing of the command lines' options, and imports neither torch nor ray.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from phasegpt.config import KEYS, MAY_BE_UNUSED, Config, config_hash, unused, value_at
from phasegpt.config_errors import ConfigError, Problem, describe, nearest
from phasegpt.config_sections import is_registered
from phasegpt.files import write_text
from phasegpt.key_paths import KeyPath, drop, get, lay, leaves, show, split
from phasegpt.yaml_places import plain_scalar, read_file, read_text

try:
    from yaml import CSafeDumper as _SafeDumper  # six times as quick, where PyYAML was built with libyaml
except ImportError:
    from yaml import SafeDumper as _SafeDumper  # type: ignore[assignment]

Override = str | tuple[str, Any, str]
"""`key.path=value` as a user types it, or (key path, value, origin)."""

SHIPPED = Path(__file__).parents[1] / "configs"
TRACKS = {"a": "dpo_extended_100pairs.yaml", "b": "kto_regularized.yaml", "c": "qwen25_1.5b.yaml"}
FILES = ("training.preference_dataset", "evaluation.prompts", "evaluation.fluency_text")


def files_of(config: Config) -> tuple[str, ...]:
    """The keys of FILES that a run of `config` reads: neutral prose is for perplexity alone."""
    return FILES if "perplexity" in config.evaluation.metrics else FILES[:-1]


NEVER_ADDED = (("training", "phase_a"), ("training", "phase_b"), ("search", "parameters", "*"))
"""What a profile changes in a track that has it, and never adds to one that has not; * is any key."""

STAND_INS: dict[KeyPath, dict[str, Any]] = {
    ("model", "base_model"): {"model.base_model": "-"},
    ("training", "method"): {"training.method": "kto", "training.kto_lambda": 0.1},  # kto reads every key
    ("training", "kto_lambda"): {"training.kto_lambda": 0.1},
    ("training", "preference_dataset"): {"training.preference_dataset": "-"},
    ("training", "gradient_accumulation_steps"): {"training.gradient_accumulation_steps": 1},  # kto_unpaired refuses 8
}
"""What stands in for a refused value that has no default, or one that may be refused too, for the next look."""

PASSES = 5
"""Looks taken at a config, each after dropping what the last one refused: keys, sections, then the whole."""


def project_root() -> Path:
    """The folder that relative paths in configs count from: $PHASEGPT_ROOT, or the one that holds pyproject.toml."""
    return Path(os.environ.get("PHASEGPT_ROOT") or Path(__file__).parents[1])


def resolve(path: str | Path) -> Path:
    """An absolute path as it is; a relative one from the project root."""
    return project_root() / path


def track_config(track: str) -> Path:
    """The shipped file of track a, b or c; another name is a KeyError. It lies beside the code, whatever the root."""
    return SHIPPED / "v14" / TRACKS[track]


def load_config(path: str | Path, profile: str | None = None, overrides: Sequence[Override] = ()) -> Config:
    """The typed config of a file with a profile (laptop, gpu or None), then overrides laid on it; or ConfigError."""
    return load_tree(path, profile, overrides).typed()


def load_tree(path: str | Path, profile: str | None = None, overrides: Sequence[Override] = ()) -> "Tree":
    """The same before typing. What cannot be read as YAML is a ConfigError at once; all else waits for `typed()`."""
    tree = _read(Path(path))
    if profile is not None:
        tree = tree.with_profile(_profile(profile))
    for override in overrides:
        tree = tree.with_override(override)
    return tree


def write_resolved(config: Config, path: Path) -> None:
    """Write every value of a config as YAML, its hash in the first line, whole or not at all; it loads back equal."""
    write_text(path, f"# resolved config, hash {config_hash(config)}\n{as_yaml(config.dump())}")


def as_yaml(values: Mapping[str, Any]) -> str:
    """The plain values of a config as YAML that loads back equal."""
    return str(yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


@dataclass(frozen=True)
class Tree:
    """A config's plain values and the place of each key. Never changed: every `with_…` gives a new Tree."""

    source: str
    values: Mapping[str, Any]
    places: Mapping[KeyPath, str]
    overridden: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    def place(self, path: KeyPath) -> str:
        """Where the key at `path`, or else the nearest section around it, was written."""
        around = (path[:length] for length in range(len(path), 0, -1))
        return next((self.places[part] for part in around if part in self.places), f"{self.source}:1")

    def with_values(self, values: Mapping[str, Any], origin: str) -> "Tree":
        """Values laid on key paths, as {"training.beta": 0.2}; `origin`, such as "trial 3", stands for file:line."""
        tree = self
        for key, value in values.items():
            path = split(key)
            around = [path[:length] for length in range(1, len(path))]
            replaced = [part for part in around if not isinstance(get(tree.values, part), Mapping | None)]
            tree = tree._laid(path, value, dict.fromkeys([*replaced, path], origin))
        return replace(tree, overridden=(*self.overridden, *values))

    def with_override(self, override: Override) -> "Tree":
        """One override laid on; the text after = is YAML, so 5e-5 is a number and [1, 2] a list."""
        if not isinstance(override, str):
            key, value, origin = override
            return self.with_values({key: value}, origin)
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            problem = Problem((), f"--set {override}", "expected key.path=value, as in training.beta=0.2")
            return replace(self, problems=(*self.problems, problem))
        return self._with_text(key.strip(), text)

    def _with_text(self, key: str, text: str) -> "Tree":
        origin = f"--set {key}"
        try:
            reading = read_text(text, lambda line: origin)
        except ConfigError as error:
            return replace(self, problems=(*self.problems, *error.problems))
        problems = [replace(problem, path=split(key) + problem.path) for problem in reading.problems]
        return replace(self.with_values({key: reading.values}, origin), problems=(*self.problems, *problems))

    def with_profile(self, profile: "Tree") -> "Tree":
        """A profile laid on. Phases and searched parameters are changed where the track has them, never added."""
        tree = self
        for path, value in leaves(profile.values):
            is_empty_section = value is None and show(path) not in KEYS
            if not is_empty_section and all(get(self.values, part) is not None for part in _never_added(path)):
                below = {other: place for other, place in profile.places.items() if other[: len(path)] == path}
                tree = tree._laid(path, value, below)
        return replace(tree, problems=(*self.problems, *profile.problems))

    def _laid(self, path: KeyPath, value: Any, below: Mapping[KeyPath, str]) -> "Tree":
        values = deepcopy(dict(self.values))
        lay(values, path, deepcopy(value))
        places = {other: place for other, place in self.places.items() if other[: len(path)] != path}
        return replace(self, values=values, places={**places, **below})

    def typed(self, *, to_run: bool = True) -> Config:
        """The config, or ConfigError with every problem; of each key those that were found first.

        What is only looked at (`to_run` False) may name files that are not there any more.
        """
        config, refused = self._checked()
        beyond = self._world_problems(config) if config and to_run else []
        problems = list(self.problems)
        for found in (refused, beyond):
            reported = {problem.path for problem in problems if problem.path}
            problems += [problem for problem in found if problem.path not in reported]
        if problems or config is None:
            raise ConfigError(problems)
        return config

    def warnings(self) -> tuple[str, ...]:
        """A line for each written value that changes nothing, and for a missing reference that dpo does without."""
        config, problems = self._checked()
        if config is None or problems:
            return ()
        written = [key for key in MAY_BE_UNUSED if value_at(config, key) != KEYS[key].default]
        idle = [self._problem(key, reason) for key in written if (reason := unused(config, key))]
        return tuple(map(str, [*idle, *self._missing_reference(config)]))

    def _checked(self) -> tuple[Config | None, list[Problem]]:
        """The config that is left when everything refused is dropped, and the problems of what was."""
        values: dict[str, Any] = deepcopy({"model": None, "training": None, **self.values})
        problems: list[Problem] = []
        for _ in range(PASSES):
            try:
                return Config.model_validate(values), problems
            except ValidationError as error:
                seen = {problem.path for problem in problems}
                for detail in error.errors(include_url=False):
                    path = detail["loc"]
                    if path not in seen:
                        problems.append(Problem(path, self.place(path), describe(detail, KEYS)))
                    _replace_refused(values, path, detail["type"])
        return None, problems

    def _world_problems(self, config: Config) -> list[Problem]:
        """What the schema cannot see: missing files, overrides and searched values that do nothing or are refused."""
        missing_reference = [] if config.training.method == "dpo" else self._missing_reference(config)
        return [
            *self._missing_files(config),
            *missing_reference,
            *self._missing_baseline(config),
            *self._idle_overrides(config),
            *self._bad_edges(config),
        ]

    def _missing_files(self, config: Config) -> Iterator[Problem]:
        for key in files_of(config):
            path = resolve(value_at(config, key))
            if not os.path.isfile(path):
                beside = path.parent.glob("*") if os.path.isdir(path.parent) else ()
                hint = nearest(path.name, (other.name for other in beside))
                yield self._problem(key, f"expected a file, found none at {path}{hint}")

    def _missing_reference(self, config: Config) -> Iterator[Problem]:
        name = config.training.reference_model
        if name and not is_registered(name) and not os.path.isdir(resolve(name)):
            cure = (
                "dpo takes the base model" if config.training.method == "dpo" else "train it first, or set it to null"
            )
            yield self._problem("training.reference_model", f"expected a folder, found none at {resolve(name)}; {cure}")

    def _missing_baseline(self, config: Config) -> Iterator[Problem]:
        name = config.evaluation.baseline_checkpoint
        if name and not is_registered(name) and not os.path.isdir(resolve(name)):
            message = f"expected an adapter's or a run's folder, or models:/…, found none at {resolve(name)}"
            yield self._problem("evaluation.baseline_checkpoint", message)

    def _idle_overrides(self, config: Config) -> Iterator[Problem]:
        for key in dict.fromkeys(self.overridden):
            if key in KEYS and value_at(config, key) is not None and (reason := unused(config, key)):
                yield self._problem(key, reason)

    def _bad_edges(self, config: Config) -> Iterator[Problem]:
        before = set(self._checked()[1])
        for key, distribution in config.search.parameters.items():
            for edge in distribution.edges():
                problems = self.with_values({"search": None, key: edge}, "")._checked()[1]
                for problem in problems:
                    if problem not in before:
                        message = f"its value {edge} is refused: {show(problem.path)}: {problem.message}"
                        yield self._problem(f"search.parameters.{key}", message)

    def _problem(self, key: str, message: str) -> Problem:
        return Problem(split(key), self.place(split(key)), message)


def _read(path: Path) -> Tree:
    here = Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    reading = read_file(shown)
    values = {} if reading.values is None else reading.values
    if isinstance(values, dict):
        return Tree(str(shown), values, reading.places, problems=reading.problems)
    raise ConfigError([Problem((), f"{shown}:1", "expected sections of keys, such as model: and training:")])


def _profile(name: str) -> Tree:
    known = sorted(path.stem for path in (SHIPPED / "profiles").glob("*.yaml"))
    if name not in known:
        message = f"expected {' or '.join(known)}, found {name}{nearest(name, known)}"
        raise ConfigError([Problem((), "--profile", message)])
    return _read(SHIPPED / "profiles" / f"{name}.yaml")


def _never_added(path: KeyPath) -> list[KeyPath]:
    """The starts of `path` that a profile may only change."""
    starts = ((path[: len(pattern)], pattern) for pattern in NEVER_ADDED if len(path) >= len(pattern))
    return [start for start, pattern in starts if all(p in ("*", s) for s, p in zip(start, pattern, strict=True))]


def _replace_refused(values: dict[str, Any], path: KeyPath, kind: str) -> None:
    if path in STAND_INS:
        for key, value in STAND_INS[path].items():
            lay(values, split(key), value)
    elif kind != "missing":
        drop(values, path)


class _Dumper(_SafeDumper):
    """Quotes every text that `plain_scalar` would read as something else, such as "5e-5"."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _quoted_if_needed(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None if plain_scalar(text) == text else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _quoted_if_needed)
