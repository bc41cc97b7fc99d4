"""What the machine and a job's process take, read for real."""

from pathlib import Path
from typing import Any

import pytest

from tune import machine_load, process_load
from tune.machine_load import MachineLoad
from tune.process_load import ProcessLoad
from tune.reports import load_of, metrics_of, with_metrics
from tune.spool import SPOOL, read_spool
from tune.tracking import Tracker

NOBODY = "http://127.0.0.1:9"


def readings(spool: Path) -> list[dict[str, Any]]:
    return [event for event in read_spool(spool) if event["kind"] == "metrics"]


def test_a_short_run_has_one_reading_under_mlflows_names(tmp_path: Path) -> None:
    spool = tmp_path / SPOOL
    tracker = Tracker(NOBODY, "load", spool)
    with MachineLoad(tracker, "s", spool):
        pass
    tracker.close(0.0)
    [reading] = readings(spool)
    assert reading["key"] == "s"
    assert {"system/cpu_utilization_percentage", "system/disk_usage_percentage", "system/network_receive_megabytes"} < (
        reading["values"].keys()
    )
    assert 0 < reading["values"]["system/system_memory_usage_percentage"] <= 100


def test_a_spool_that_a_full_disk_left_empty_has_readings_from_now_on(tmp_path: Path) -> None:
    tracker = Tracker(NOBODY, "load", tmp_path / SPOOL)
    (tmp_path / "empty.jsonl").touch()
    with MachineLoad(tracker, "s", tmp_path / "empty.jsonl"):
        pass
    tracker.close(0.0)
    assert [reading["step"] for reading in readings(tmp_path / SPOOL)] == [0]


def test_readings_come_at_their_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_load, "SECONDS", 0.01)
    spool = tmp_path / SPOOL
    tracker = Tracker(NOBODY, "load", spool)
    with MachineLoad(tracker, "s", spool):
        while len(readings(spool)) < 3:  # for as long as the test may take
            pass
    tracker.close(0.0)
    assert {reading["key"] for reading in readings(spool)} == {"s"}


def test_the_steps_of_a_search_that_goes_on_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, begun = tmp_path / SPOOL, []
    for later in (0.0, 7200.0):
        tracker = Tracker(NOBODY, "load", spool)
        begun.append(read_spool(spool)[0]["at"] / 1000)
        monkeypatch.setattr(machine_load.time, "time", lambda later=later: begun[0] + 5 + later)
        with MachineLoad(tracker, "s", spool):
            pass
        monkeypatch.undo()
        tracker.close(0.0)
    assert [reading["step"] for reading in readings(spool)] == [5, 7205]


def test_an_error_of_a_reading_ends_the_readings_and_not_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import psutil

    def gone(_: str) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(psutil, "disk_usage", gone)
    spool, done = tmp_path / SPOOL, False
    tracker = Tracker(NOBODY, "load", spool)
    with MachineLoad(tracker, "s", spool):
        done = True
    tracker.close(0.0)
    assert done
    assert readings(spool) == []
    assert "the disk is gone" in caplog.text


def test_a_process_tells_what_it_takes_at_its_first_report_and_then_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = ProcessLoad()
    first = load.now_and_then()
    assert first["system/process_memory_megabytes"] > 10
    assert first["system/process_cpu_percentage"] >= 0
    assert load.now_and_then() == {}
    assert load.read().keys() == first.keys()
    monkeypatch.setattr(process_load, "SECONDS", 0.0)
    assert load.now_and_then().keys() == first.keys()


def test_in_a_report_load_and_metrics_stay_apart() -> None:
    report = {**with_metrics({"eval_loss": 0.5}, 3, "eval_loss"), "system/process_memory_megabytes": 12.0}
    assert load_of(report) == {"system/process_memory_megabytes": 12.0}
    assert metrics_of(report) == {"eval_loss": 0.5}
