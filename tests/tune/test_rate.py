"""The rate of a machine: kept, found again, taken for another's; and measured on the toy."""

import dataclasses
import socket
from pathlib import Path

import pytest

from tests.tune.conftest import ToyRequest
from tune import measure_rate
from tune import rate as rate_module
from tune.machine import cores
from tune.measure_rate import measure_for
from tune.rate import Decoding, Rate, instant_rate, keep_rate, rate_file, stored_rate
from tune.search import main

DECODING = Decoding("a model", 1e6, (1, 0.01), (16, 0.04), ((0.009, 0.011), (0.03, 0.05)))
KEPT = Rate(
    {"float32": 1e11, "bfloat16": 4e11},
    DECODING,
    {"float32": (0.9e11, 1.1e11)},
    measured_at="2026-01-01 12:00",
    host=socket.gethostname(),
    cores=cores(),
    threads=2,
    torch="2.13.0",
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASEGPT_CACHE", str(tmp_path / "cache"))


def test_what_was_kept_is_found_again_and_nothing_where_nothing_was() -> None:
    assert stored_rate("cpu") == (None, "")
    keep_rate(KEPT)
    assert stored_rate("cpu") == (KEPT, "")


def test_the_rate_of_another_machine_or_device_is_not_this_ones() -> None:
    keep_rate(dataclasses.replace(KEPT, host="elsewhere", cores=96))
    assert stored_rate("cpu") == (None, f"{rate_file()} is of another machine (elsewhere, 96 cores)")
    keep_rate(KEPT)
    assert stored_rate("cuda") == (None, f"{rate_file()} was measured on cpu")


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"products": {}, "decoding": null, "spread": {}}'])
def test_a_damaged_file_is_named_and_passed_over(text: str) -> None:
    rate_file().parent.mkdir()
    rate_file().write_text(text)
    assert stored_rate("cpu") == (None, f"{rate_file()} cannot be read")


def test_a_rate_that_was_measured_beside_others_says_so() -> None:
    assert KEPT.beside == ""
    busy = dataclasses.replace(KEPT, cores=4, load=9.6)
    assert busy.beside == "while 10 processes shared 4 cores: measure again when it is quiet"


def test_a_step_of_generation_lies_on_the_line_through_what_was_measured() -> None:
    """0.01 s for 1 prompt, 0.04 s for 16: 0.002 s a prompt more; twice the parameters take twice as long."""
    assert [KEPT.decoding_step(1e6, prompts) for prompts in (1, 6, 16)] == pytest.approx([0.01, 0.02, 0.04])
    assert KEPT.decoding_step(2e6, 16) == pytest.approx(0.08)


def test_generation_that_was_not_measured_is_the_typical_one_at_this_rate_of_products() -> None:
    """6 prompts lie a third of the way from 0.083 to 0.233 s; at half the rate a step takes twice as long."""
    assert Rate({"float32": 1.2e11}).decoding_step(1.345e8, 6) == pytest.approx(0.133)
    assert Rate({"float32": 0.6e11}).decoding_step(1.345e8, 6) == pytest.approx(0.266)


def test_half_of_a_machine_takes_twice_as_long() -> None:
    half = KEPT.of_share(0.5)
    assert (half.product(), half.product("bfloat16")) == (0.5e11, 2e11)
    assert half.decoding_step(1e6, 16) == pytest.approx(2 * KEPT.decoding_step(1e6, 16))


def test_a_precision_that_was_not_measured_runs_as_float32() -> None:
    assert KEPT.product("float16") == KEPT.product("float32") == 1e11


def test_the_rate_of_an_instant_says_that_it_is_one() -> None:
    rate = instant_rate()
    assert rate.product() > 1e8
    assert (rate.measured_at, rate.decoding) == ("", None)


def test_measuring_runs_the_model_where_it_is_and_keeps_what_it_found(
    toy_request: ToyRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (measure_rate, rate_module):  # one thread: workers of the tests share the cores
        monkeypatch.setattr(module, "cores", lambda: 1)
    monkeypatch.setattr(measure_rate, "REPEATS", (2, 2))
    monkeypatch.setattr(measure_rate, "ROUNDS", (5, 5))
    said = measure_for(toy_request().config)
    rate, _ = stored_rate("cpu")
    assert rate is not None
    assert rate.decoding is not None
    assert said.endswith(f"kept in {rate_file()}")
    low, high = rate.spread["float32"]
    assert 0 < low <= rate.product() <= high
    assert rate.decoding.of.endswith("with adapters")
    assert all(
        low <= step <= high
        for (_, step), (low, high) in zip((rate.decoding.small, rate.decoding.large), rate.decoding.spread, strict=True)
    )
    assert (rate.host, rate.cores, rate.device) == (socket.gethostname(), 1, "cpu")


def test_a_model_that_is_not_here_is_measured_by_products_of_its_sizes_or_not_at_all(toy_request: ToyRequest) -> None:
    said = measure_for(toy_request("model.base_model=someone/not-here").config)
    assert said == "not measured: the sizes of someone/not-here are unknown until it is here"
    assert not rate_file().exists()


def test_measure_without_plan_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--track", "b", "--measure"])
    assert ended.value.code == 2
    assert "--measure needs --plan" in capsys.readouterr().err
