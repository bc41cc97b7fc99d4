"""Every command there is, as a main function and its parser, for tests that give them words of all kinds.

`last` are words that keep a command from starting what takes long; options in `without` are never given.
"""

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import train
from cluster import jobs_cli, local, submit
from phasegpt import cli
from tune import control, insight, registry, report, search, sync

Main = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Leaf:
    """A command without subcommands: the words that lead to it, its parser, and what is always or never given."""

    words: tuple[str, ...]
    parser: argparse.ArgumentParser
    last: tuple[str, ...]
    without: Collection[str]

    def is_left_out(self, action: argparse.Action) -> bool:
        return bool({*action.option_strings} & {*self.without, *(word for word in self.last if word.startswith("--"))})


@dataclass(frozen=True)
class Command:
    """`quick` is how many command lines the default suite gives it."""

    main: Main
    parser: argparse.ArgumentParser
    quick: int
    last: tuple[str, ...] = ()
    without: Collection[str] = field(default=("--open", "--follow", "--measure"))
    only: Collection[str] = ()


COMMANDS = {
    "tune.search": Command(search.main, search.parser(), 8, ("--plan",)),
    "tune.search status": Command(search.main, control.parser(), 15),
    "train": Command(train.main, train.parser(), 8, ("--plan",)),
    "phasegpt data": Command(cli.main, cli.parser(), 15, only=("data",)),
    "phasegpt": Command(
        cli.main, cli.parser(), 15, without=("--blind", "--open"), only=("generate", "evaluate", "compare")
    ),
    "tune.registry": Command(registry.main, registry.parser(), 15),
    "tune.report": Command(report.main, report.parser(), 15),
    "tune.insight": Command(insight.main, insight.parser(), 15),
    "tune.tracking": Command(sync.main, sync.parser(), 15),
    "cluster.submit": Command(submit.main, submit.parser(), 4, ("--plan",)),
    "cluster.submit status": Command(submit.main, jobs_cli.parser(), 15),
    "cluster.local": Command(local.main, local.parser(), 4, only=("status",)),
}

PLAIN: dict[str, tuple[str, ...]] = {
    "tune.search": ("--track", "b", "--plan"),
    "tune.search status": ("status", "--json"),
    "train": ("--config", "configs/v14/v12_lora.yaml", "--plan"),
    "tune.tracking": ("status",),
    "tune.registry": ("list",),
    "cluster.submit": ("--track", "b", "--plan"),
    "cluster.submit status": ("list",),
    "cluster.local": ("status",),
}
"""Good words of commands that read the environment."""

VARIABLES = (
    "PHASEGPT_ROOT", "PHASEGPT_CACHE", "PHASEGPT_COMMIT", "PHASEGPT_CLUSTER", "PHASEGPT_BUNDLED_WHEEL",
    "MLFLOW_TRACKING_URI", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH",
    "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
"""What they read of it."""


def leaves(command: Command) -> list[Leaf]:
    """The commands that a parser has below it, itself where it has none."""
    found = list(_below(command, command.parser, ()))
    return [leaf for leaf in found if not command.only or leaf.words[0] in command.only]


def _below(command: Command, parser: argparse.ArgumentParser, words: tuple[str, ...]) -> list[Leaf]:
    verbs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not verbs:
        return [Leaf(words, parser, command.last, command.without)]
    return [
        leaf
        for action in verbs
        for verb, inner in action.choices.items()
        for leaf in _below(command, inner, (*words, verb))
    ]
