"""Bad input by the thousand: good files with pieces torn out of them, and command lines of nonsense.

Allowed is success, or an error of lines that can be printed; never a traceback, a wait for ever, or a file by half. The
default suite tries about 2,000 inputs, always the same. PHASEGPT_FUZZ=50 tries 50 times as many, others each time:

    PHASEGPT_FUZZ=50 python -m pytest tests/faults/test_fuzzed_input.py --hypothesis-seed=7
"""

import argparse
import contextlib
import io
import json
import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from phasegpt.adapter_config import ADAPTER_CONFIG, read_plain_lora
from phasegpt.base_model import ModelError
from phasegpt.checkpoint_files import STATE, WHOLE, damage, history_left
from phasegpt.config import KEYS
from phasegpt.config_errors import ConfigError
from phasegpt.config_io import Tree, load_tree
from phasegpt.data_checks import Rules
from phasegpt.data_report import scan_any
from phasegpt.lines import DamagedLineError, append, read_lines
from phasegpt.readers import read_rows
from tests.faults.commands import COMMANDS, PLAIN, VARIABLES, Leaf, leaves
from tests.faults.hostile import SPLICES, VALUES, mutated, spoiled
from tune.request import RequestError, _read_kept

ROOT = Path(__file__).parents[2]
TIMES = int(os.environ.get("PHASEGPT_FUZZ", "1"))
LONGEST = 20
"""Seconds of processor time that one input may take."""

pytestmark = pytest.mark.timeout(300 if TIMES == 1 else 0)


def tries(count: int) -> settings:
    """So many inputs, the same ones in every run of the default suite."""
    phases = (Phase.generate,) if TIMES == 1 else (Phase.generate, Phase.shrink)
    ignored = list(HealthCheck)
    return settings(
        max_examples=count * TIMES, derandomize=TIMES == 1, database=None, deadline=None, phases=phases,
        suppress_health_check=ignored,
    )  # fmt: skip


class EndlessError(Exception):
    """An input took more than LONGEST."""


@pytest.fixture(autouse=True)
def no_input_is_endless() -> Iterator[None]:
    """A clock of processor time, which the machine's load does not touch; `begin` winds it up for each input."""

    def end(number: int, frame: FrameType | None) -> None:
        raise EndlessError

    before = signal.signal(signal.SIGVTALRM, end)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


def begin() -> None:
    signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST)


def printable(said: object) -> None:
    """Every line of an error says something and can be printed."""
    for line in str(said).split("\n"):
        assert line.strip(), said
        assert line.isprintable(), said


# --- configs ---------------------------------------------------------------------------------------------------------

CONFIGS = [path.read_bytes() for path in sorted((ROOT / "configs" / "v14").glob("*.yaml"))]
GOOD = load_tree(ROOT / "configs" / "v14" / "v12_lora.yaml")
TEXTS = st.one_of(
    st.sampled_from(SPLICES), st.sampled_from([json.dumps(value) for value in VALUES]), st.text(max_size=12)
)
NAMES = st.one_of(st.sampled_from(sorted(KEYS)), st.sampled_from(("", ".", "a..b", "training", "search.parameters")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@tries(200)
@given(content=mutated(CONFIGS))
def test_a_torn_config_is_read_or_refused_by_its_lines(folder: Path, content: bytes) -> None:
    begin()
    file = folder / "config.yaml"
    file.write_bytes(content)
    try:
        load_tree(file).typed()
    except ConfigError as error:
        printable(error)


@tries(200)
@given(values=spoiled(json.loads(json.dumps(GOOD.values))))
def test_values_of_any_type_are_taken_or_refused(values: Any) -> None:
    begin()
    try:
        Tree("a.yaml", values if isinstance(values, dict) else {"model": values}, {}).typed()
    except ConfigError as error:
        printable(error)


@tries(100)
@given(words=st.lists(st.builds("{}={}".format, NAMES, TEXTS), min_size=1, max_size=3))
def test_overrides_of_any_text_are_taken_or_refused(words: list[str]) -> None:
    begin()
    tree = GOOD
    try:
        for word in words:
            tree = tree.with_override(word)
        tree.typed()
    except ConfigError as error:
        printable(error)


# --- data ------------------------------------------------------------------------------------------------------------

PAIRS = (ROOT / "data" / "preferences_v13_10pairs.jsonl").read_bytes()[:3000]
UNPAIRED = (ROOT / "data" / "unpaired_v14.jsonl").read_bytes()[:4000]
PROMPTS = (ROOT / "data" / "eval_prompts.jsonl").read_bytes()[:3000]
TURNS = {
    "prompt": [{"role": "user", "content": "Why?"}],
    "chosen": [{"role": "assistant", "content": "So."}],
    "rejected": [{"role": "assistant", "content": "No."}],
}
DEEP = b'{"prompt": ' + b"[" * 1_500 + b"\n"
RULES = Rules()


def look(file: Path) -> None:
    scan, _ = scan_any(file, RULES)
    for finding in scan.findings:
        printable(finding.at(file))
        json.dumps(finding.as_dict())


@tries(550)
@given(content=mutated([PAIRS, UNPAIRED, PROMPTS, json.dumps(TURNS).encode() + b"\n", DEEP]))
def test_torn_data_is_findings_by_line(folder: Path, content: bytes) -> None:
    begin()
    file = folder / "pairs.jsonl"
    file.write_bytes(content)
    look(file)


@tries(250)
@given(rows=spoiled([json.loads(PAIRS.splitlines()[0]), json.loads(UNPAIRED.splitlines()[0]), TURNS]))
def test_rows_of_any_values_are_findings_by_line(folder: Path, rows: Any) -> None:
    begin()
    file = folder / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in (rows if isinstance(rows, list) else [rows])))
    look(file)
    assert all(row.line for row in read_rows(file))


# --- what runs and searches leave ------------------------------------------------------------------------------------

LORA = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "toy", "r": 8, "lora_alpha": 16,
    "lora_dropout": 0.0, "target_modules": ["q_proj"], "bias": "none", "use_dora": False, "modules_to_save": None,
    "auto_mapping": None, "megatron_config": None, "megatron_core": "megatron.core", "rank_pattern": {"a": 4},
    "layers_to_transform": [1], "init_lora_weights": True, "eva_config": None,
}  # fmt: skip


@tries(350)
@given(content=st.one_of(spoiled(LORA).map(json.dumps).map(str.encode), mutated([json.dumps(LORA).encode(), DEEP])))
def test_the_settings_of_an_adapter_are_plain_or_refused(folder: Path, content: bytes) -> None:
    begin()
    (folder / ADAPTER_CONFIG).write_bytes(content)
    try:
        settings = read_plain_lora(folder)
    except ModelError as error:
        printable(error)
    else:
        assert 1 <= settings.r <= 4096


@tries(200)
@given(
    seal=mutated([b'{"step": 2, "sha256": {"a": "b"}}']), state=mutated([b'{"log_history": [{"loss": 1, "step": 1}]}'])
)
def test_a_torn_checkpoint_is_damaged_and_no_more(folder: Path, seal: bytes, state: bytes) -> None:
    begin()
    checkpoint = folder / "checkpoint-2"
    checkpoint.mkdir(exist_ok=True)
    (checkpoint / WHOLE).write_bytes(seal)
    (checkpoint / STATE).write_bytes(state)
    found = damage(checkpoint)
    assert found is None or found.startswith(("damaged", "not whole"))
    history_left(folder)


@tries(60)
@given(content=mutated([b'{"sum":"00000000","event":{"kind":"open"}}\n']), deep=st.booleans())
def test_a_torn_journal_is_read_up_to_its_tear_or_refused(folder: Path, content: bytes, deep: bool) -> None:
    begin()
    file = folder / "journal.jsonl"
    file.unlink(missing_ok=True)
    append(file, {"kind": "open"})
    whole = file.read_bytes()
    file.write_bytes(whole + (b'{"event":' + b"[" * 5_000 if deep else content) + (whole if deep else b""))
    try:
        assert read_lines(file)[0][0] == {"kind": "open"}
    except DamagedLineError as error:
        printable(error)


REQUEST = {
    "track": "b", "name": "toy", "profile": "laptop", "study_url": None,
    "arms": [{"label": "x", "values": {"training.beta": 0.2}}], "config": {"search": {"trials": 4}, "training": {}},
}  # fmt: skip


@tries(100)
@given(
    content=st.one_of(spoiled(REQUEST).map(json.dumps).map(str.encode), mutated([json.dumps(REQUEST).encode(), DEEP]))
)
def test_a_spoiled_request_is_refused_by_its_file(folder: Path, content: bytes) -> None:
    begin()
    file = folder / "request.json"
    file.write_bytes(content)
    try:
        kept = _read_kept(file)
    except RequestError as error:
        printable(error)
    else:
        assert isinstance(kept.config["search"], dict)


# --- command lines ---------------------------------------------------------------------------------------------------


def words_of(leaf: Leaf, rng: random.Random, odd: Sequence[str]) -> list[str]:
    """A command line of a command: its own options and places, filled with `odd` texts more often than not."""
    words = list(leaf.words)
    for action in leaf.parser._actions:
        if isinstance(action, argparse._HelpAction) or leaf.is_left_out(action):
            continue
        if action.option_strings and not (action.required or rng.random() < 0.2):
            continue
        count = {"?": 1, "*": 1, "+": 2}.get(str(action.nargs), action.nargs if isinstance(action.nargs, int) else 1)
        sane = list(action.choices) if action.choices and rng.random() < 0.8 else odd
        words += [*action.option_strings[:1], *(rng.choice(sane) for _ in range(int(count or 0)))]
    return [*words, *leaf.last]


def run(main: Callable[[Sequence[str]], int], words: Sequence[str]) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(list(words))
        except SystemExit as end:
            status = int(end.code or 0)
    return status, out.getvalue(), err.getvalue()


ODD = [
    text
    for text in (*SPLICES, "a=b", "pipe", "empty/x", "s3://", "http://[", "-1", "nan", "models:/x@")
    if "\0" not in text
]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_line_of_nonsense_is_refused_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PHASEGPT_CACHE", str(tmp_path / "cache"))
    before = {path for path in tmp_path.rglob("*") if path.name != "cache"}
    rng = random.Random(0 if TIMES == 1 else None)  # noqa: S311 - nonsense, not secrets
    for _ in range(COMMANDS[name].quick * TIMES):
        leaf = rng.choice(leaves(COMMANDS[name]))
        words = words_of(leaf, rng, ODD)
        begin()
        status, out, err = run(COMMANDS[name].main, words)
        assert status in (0, 1, 2), (words, err)
        assert status == 0 or (out + err).strip(), words
        assert "Traceback" not in err, words
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_an_environment_of_nonsense_is_borne_or_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").touch()
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0 if TIMES == 1 else None)  # noqa: S311 - nonsense, not secrets
    words = [str(ROOT / word) if word.endswith(".yaml") else word for word in PLAIN[name]]
    for _ in range(8 * TIMES):
        with monkeypatch.context() as patch:
            patch.setenv("PHASEGPT_CACHE", str(tmp_path / "cache"))
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
            odd = {variable: rng.choice(ODD) for variable in rng.sample(VARIABLES, 2)}
            for variable, value in odd.items():
                patch.setenv(variable, value)
            begin()
            status, out, err = run(COMMANDS[name].main, words)
        assert status in (0, 1, 2), (odd, err)
        assert status == 0 or (out + err).strip(), odd
        assert "Traceback" not in err, odd


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_a_cache_whose_name_is_too_long_is_borne_or_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASEGPT_CACHE", str(tmp_path / ("x" * 5000)))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    words = [str(ROOT / word) if word.endswith(".yaml") else word for word in PLAIN[name]]
    status, out, err = run(COMMANDS[name].main, words)
    assert status in (0, 2), err
    assert (out + err).strip()
    assert "Traceback" not in err
