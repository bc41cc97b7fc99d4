"""What a clock and a memory gauge say of a run."""

import time

import pytest
import torch

from phasegpt.meters import Meter, forget_peak, peak_gb, scaling_metrics
from phasegpt.runs import clock_metrics

BATCH = {"input_ids": torch.zeros(7)}


def test_before_the_first_step_there_is_no_speed() -> None:
    assert Meter().read().keys() == {"memory_gb"}


def test_speeds_count_the_steps_alone_and_the_start_up_ends_with_the_first() -> None:
    meter = Meter(launched=time.time() - 5)
    for _ in range(2):
        meter.step_begins()
        meter.count(BATCH, examples=1)
        meter.count(BATCH, examples=0)  # computed for the others' sake
        time.sleep(0.02)
        meter.step_ends()
        time.sleep(0.05)  # an evaluation
    found = meter.read()
    assert found["start_seconds"] == pytest.approx(5, abs=0.5)
    assert 0.04 <= found["step_seconds"] < 0.09
    assert found["tokens_per_second"] * found["step_seconds"] == pytest.approx(14)
    assert found["examples_per_second"] * found["step_seconds"] == pytest.approx(2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="reads the process's memory where there is no GPU")
def test_the_peak_rises_with_what_is_used_and_is_forgotten_when_asked() -> None:
    forget_peak()
    before = peak_gb()
    held = torch.ones(50_000_000)
    assert peak_gb() - before == pytest.approx(0.2, abs=0.05)
    del held
    assert peak_gb() - before > 0.15
    forget_peak()
    assert peak_gb() - before < 0.1


def test_declared_metrics_are_read_of_it_where_they_are_wanted() -> None:
    reading = {"tokens_per_second": 10.0, "memory_gb": [1.0, 3.0]}
    assert scaling_metrics(reading, ("training_throughput", "memory_usage", "subtlety")) == {
        "training_throughput": 10.0,
        "memory_usage": 3.0,
    }
    assert scaling_metrics(reading, ("subtlety",)) == {}
    assert scaling_metrics({"memory_gb": [1.0]}, ("training_throughput",)) == {}
    assert clock_metrics(reading) == {"clock/tokens_per_second": 10.0, "clock/memory_gb": 3.0}
