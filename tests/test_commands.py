"""Every command that the pages show is one that its program takes: it is parsed by the parser that would run it.

What it does is for the tests of each program; docs/example.md is followed as a whole by test_example.py. Commands of
others (`kubectl`, say) need a cloud, a server or a tool that is not ours: FOREIGN says of each which.
"""

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tune.request import Request
from tune.search import VERBS, requests_of
from tune.search import parser as search_parser

ROOT = Path(__file__).parents[1]
PAGES = (
    *(ROOT / "README.md", ROOT / "configs/v14/README.md", ROOT / "data/README.md", ROOT / "cluster/README.md"),
    *sorted((ROOT / "docs").glob("*.md")),
)
FOREIGN = {
    "kubectl": "needs a Kubernetes cluster",
    "mlflow": "a server, as tests/tune/test_mlflow_servers.py starts one",
    "optuna-dashboard": "a tool to be installed apart",
    "hf": "needs an account on the hub",
    "curl": "asks the model server of the line before",
}
SHELL = ("cd", "export", "mkdir", "source")
MAINS = {"phasegpt": "phasegpt.cli", "tune.tracking": "tune.sync"}


@dataclass(frozen=True)
class Command:
    """One command of a page, as words, without what the shell makes of it."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def commands_in(text: str, page: str = "") -> Iterator[Command]:
    """The commands of every bash block; `[--json]` and `a|b` stand for what may be given, and are given here."""
    for block in re.findall(r"^ *```bash\n(.*?)^ *```", text, re.S | re.M):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s+&&\s+|\s+\|\s+", re.sub(r"\s[<>]\s+\S+", "", line)):
                words = shlex.split(re.sub(r"(\[)(?=[-A-Z])|(?<=\w)\]|\|[\w-]+", "", part), comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words.pop(0)
                if words:
                    yield Command(page, tuple("1" if word == "N" else word for word in words))


COMMANDS = [
    command for page in PAGES for command in commands_in(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT)))
]
OURS = [
    command
    for command in COMMANDS
    if command.words[0] == "python" and command.words[1] != "-c" and not command.words[1].startswith("llama.cpp/")
]


class ParsedError(Exception):
    """Raised in place of what a program does once its options are parsed."""


def takes(main: str, words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the parser of a program takes `words`; what would follow is not done."""
    parse = argparse.ArgumentParser.parse_args

    def parsed(parser: argparse.ArgumentParser, args: Sequence[str] | None = None, namespace: None = None) -> None:
        parse(parser, args, namespace)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    try:
        importlib.import_module(main).main(list(words))
    except ParsedError:
        return True
    except SystemExit:
        return False
    raise AssertionError(f"{main} parses no options")


def test_the_pages_show_commands_and_each_is_read_whole() -> None:
    text = "```bash\nA=1 x --a [--b c|d] \\\n  e | y N > f   # said\n```\n\n```text\nz\n```\n"
    assert [command.words for command in commands_in(text)] == [("x", "--a", "--b", "c", "e"), ("y", "1")]
    assert len(OURS) > 50


def test_every_command_is_ours_the_shells_or_said_to_be_foreign() -> None:
    known = {"python", "make", *SHELL, *FOREIGN}
    assert [str(command) for command in COMMANDS if command.words[0] not in known] == []
    assert {command.words[0] for command in COMMANDS} >= FOREIGN.keys(), "what no page shows needs no reason"


@pytest.mark.parametrize("command", dict.fromkeys(map(str, OURS)))
def test_a_command_of_ours_is_taken_by_its_program(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, program, *words = next(each for each in OURS if str(each) == command).words
    if program != "-m":
        script = ROOT / program
        assert script.is_file()
        options = [word.partition("=")[0] for word in words if word.startswith("--")]
        assert [option for option in options if f'"{option}"' not in script.read_text(encoding="utf-8")] == []
        return
    module, *words = words
    if module == "pytest":
        assert [word for word in words if word.startswith("tests/") and not (ROOT / word).exists()] == []
        return
    assert takes(MAINS.get(module, module), words, monkeypatch)


def test_a_command_that_no_program_takes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not takes("tune.report", ["NAME", "--no-such-option"], monkeypatch)


SEARCHES = [
    command.words[3:]
    for command in OURS
    if command.words[2] == "tune.search"
    and command.words[3] not in VERBS
    and not {"--resume", "--study-url"} & set(command.words)
    and not any(word.startswith("s3://") or word == "helpdesk.yaml" for word in command.words)
    and not any(
        word.startswith("configs/results/") for word in command.words
    )  # tests/tune/test_results.py asks for these
]


@pytest.mark.parametrize("words", dict.fromkeys(SEARCHES), ids=" ".join)
def test_a_search_that_a_page_shows_passes_every_check_before_its_start(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    options = search_parser().parse_args(list(words))
    options.storage = str(tmp_path)
    found: list[Request] = requests_of(options)
    assert len(found) == (3 if options.track == "all" else 1)


def test_every_make_target_and_variable_of_a_page_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets, variables = set(re.findall(r"^([\w-]+):", makefile, re.M)), set(re.findall(r"^(\w+) \?=", makefile, re.M))
    made = [command.words[1:] for command in COMMANDS if command.words[0] == "make"]
    assert made
    for words in made:
        assert {word for word in words if "=" not in word} <= targets
        assert {word.partition("=")[0] for word in words if "=" in word} <= variables
