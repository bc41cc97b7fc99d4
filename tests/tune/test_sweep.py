"""What a sweep removes, on searches driven by hand over real study, results, spool and checkpoint folders."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from phasegpt.checkpoint_files import ADAPTER, damage, last_adapter, seal
from phasegpt.files import write_json
from phasegpt.lines import append
from tests.tune.test_searcher import BETA, report, toy_search
from tune.commands import Command, Commands, give
from tune.jobs import Job, from_config, trial_name
from tune.reports import FINISHED_KEY, PAUSED_KEY
from tune.request import SearchPlaces
from tune.searcher import JobSearcher
from tune.spool import SPOOL, Progress, read_spool, set_aside
from tune.study import BY_COMMAND, Study
from tune.sweep import Sweep

RUNGS = (1, 4)


class Killed(BaseException):
    """The driver dies."""


def checkpoint(folder: Path, step: int) -> None:
    made = folder / f"checkpoint-{step}"
    (made / ADAPTER).mkdir(parents=True)
    (made / ADAPTER / "adapter_config.json").write_text("{}")
    (made / "optimizer.pt").write_bytes(b"moments" * 100)
    seal(made, step)


class Driver:
    """A search whose jobs leave what real ones leave; `sweep` stands where the real driver has it."""

    def __init__(self, storage: Path, **settings: Any) -> None:
        self.places, self.settings = SearchPlaces(storage, "b", "toy"), settings
        self.places.folder.mkdir(parents=True, exist_ok=True)
        self.asked = 0
        self.start()

    def start(self) -> None:
        """A process begins, the first one or one that goes on."""
        search = toy_search(**self.settings)
        self.study = Study("toy", self.places.folder / "study.journal", search, {BETA: 0.5}, seed=42)
        self.searcher = JobSearcher(
            self.study, search, {"name": "toy"}, self.places.results, 42, RUNGS, None, Commands(self.places.folder)
        )
        self.sweep = Sweep(self.places, "finalists", self.study)
        self.running: dict[str, Job] = {}
        self.searcher.on_pruned = lambda number, why: self.sweep.job(trial_name(number))
        self.sweep.all(concluded=False)

    def folder(self, name: str) -> Path:
        return self.places.checkpoints / name

    def take(self) -> bool:
        """Begin the next job, if there is one just now."""
        trial_id = f"ray-{self.asked}"
        config = self.searcher.suggest(trial_id)
        if config is None or config == Searcher.FINISHED:
            return False
        self.asked += 1
        self.running[trial_id], _ = from_config(config)
        return True

    def one(self, how: str = "complete") -> bool:
        """The next job from its begin to its end, if there is one."""
        begun = self.take()
        if begun:
            self.go_on(next(iter(self.running)), how)
        return begun

    def go_on(self, trial_id: str, how: str) -> None:
        """A job comes to an end: `complete`, `fail` or `stop`; one that was asked to pause may do so."""
        job = self.running.pop(trial_id)
        last = 4 if job.until is None or how != "complete" else job.until
        if job.kind != "baseline":
            assert job.warm is None or last_adapter(self.folder(trial_name(job.warm))) is not None
            for step in (1, last):
                if not (self.folder(job.name) / f"checkpoint-{step}").exists():
                    checkpoint(self.folder(job.name), step)
        told = report(last, random.Random(job.name).random())  # noqa: S311 - a score, not a secret
        if how == "fail":
            told = {"step": last, "failure": "it broke"}
        elif how == "stop" and job.kind == "trial":
            self.searcher.note_stop(trial_id, last)
        elif job.until is not None:
            told |= {PAUSED_KEY: True, FINISHED_KEY: False}
        else:
            self.finish(job, told)
            told |= {FINISHED_KEY: True}
        self.searcher.on_trial_result(trial_id, told)
        self.searcher.on_trial_complete(trial_id, result=told)
        if self.searcher.ended[trial_id] != "paused":
            self.sweep.job(job.name)

    def finish(self, job: Job, told: dict[str, Any]) -> None:
        """Its adapter, its result, and the event that sends the adapter."""
        adapter = self.folder(job.name) / ADAPTER
        metrics = {name.removeprefix("metric/"): value for name, value in told.items() if name.startswith("metric/")}
        result: dict[str, Any] = {"metrics": metrics}
        if job.kind != "baseline":
            shutil.copytree(self.folder(job.name) / "checkpoint-4" / ADAPTER, adapter)
            (self.folder(job.name) / "evaluations").mkdir(exist_ok=True)
            append(self.places.folder / SPOOL, {"kind": "folder", "path": str(adapter.resolve()), "to": "adapter"})
            result |= {"adapter": str(adapter)}
        write_json(self.places.results / f"{job.name}.json", result)

    def send(self) -> None:
        """MLflow takes all that waits."""
        spool = self.places.folder / SPOOL
        total = len(read_spool(spool))
        progress = Progress(spool, total)
        progress.done(total - progress.sent)
        progress.settle()

    def to_the_end(self) -> None:
        while self.take() or self.running:
            for trial_id in list(self.running):
                self.go_on(trial_id, "complete")

    def conclude(self) -> None:
        write_json(self.places.summary, {"winner": {"trial": "trial-000"}})
        self.sweep.all(concluded=True)

    def needed(self) -> list[Path]:
        """The folders that must be whole by all that may still happen, told apart from the rule."""
        found = []
        for trial in self.study.trials():
            if not trial.state.is_finished():
                found += list(self.folder(trial_name(trial.number)).glob("checkpoint-*"))
        for folder in self.places.checkpoints.glob("final-*"):
            done = (self.places.results / f"{folder.name}.json").is_file()
            found += [folder / ADAPTER] if done else list(folder.glob("checkpoint-*"))
        return found

    def parents(self) -> list[Path]:
        """The folders of the trials that clones which have not ended begin with."""
        ended = {t.user_attrs.get(BY_COMMAND) for t in self.study.trials() if t.state.is_finished()}
        commands = enumerate(Commands(self.places.folder).all())
        return [self.folder(trial_name(c.trial or 0)) for place, c in commands if c.warm and place not in ended]

    def adapters(self) -> set[str]:
        return {path.parent.name for path in self.places.checkpoints.glob(f"*/{ADAPTER}")}

    def checkpoints(self) -> set[str]:
        return {path.parent.name for path in self.places.checkpoints.glob("*/*checkpoint-*")}


def test_a_trial_that_has_ended_keeps_its_adapter_and_nothing_to_resume_from(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    assert all(driver.one(how) for how in ("complete", "complete", "stop", "fail"))
    assert [trial.state.name for trial in driver.study.trials()] == ["PRUNED", "FAIL"]
    assert driver.adapters() == {"trial-000", "trial-001"}
    assert driver.checkpoints() == set()
    assert driver.sweep.freed() > 2 * 2 * 700  # of each trial two checkpoints, without an adapter


def test_a_trial_that_waits_for_its_cohort_keeps_what_it_goes_on_from_until_it_has_lost(tmp_path: Path) -> None:
    driver = Driver(tmp_path, scheduler="halving")
    waited = set()
    while driver.one():
        paused = {trial_name(t.number) for t in driver.study.trials() if t.state == TrialState.RUNNING}
        assert driver.checkpoints() == paused
        waited |= paused
    assert waited == {"trial-000", "trial-001", "trial-002"}
    assert [t.state for t in driver.study.trials()].count(TrialState.PRUNED) == 2


def test_in_the_end_finals_and_finalists_have_their_adapters_and_losers_none_that_mlflow_has(tmp_path: Path) -> None:
    driver = Driver(tmp_path, trials=6)
    driver.to_the_end()
    driver.conclude()
    everyone = driver.adapters()
    assert len(everyone) == 6 + 4  # MLflow was away
    driver.send()
    driver.conclude()
    finals = {name for name in everyone if name.startswith("final")}
    finalists = {f"trial-{name.split('-')[1]}" for name in finals}
    assert driver.adapters() == finals | finalists
    assert driver.sweep.as_dict()["kept"] == sorted(finals | finalists)
    freed = driver.sweep.freed()
    driver.start()
    driver.conclude()
    assert driver.sweep.freed() == freed


def test_an_adapter_that_mlflow_refused_stays(tmp_path: Path) -> None:
    driver = Driver(tmp_path, trials=5)
    driver.to_the_end()
    driver.send()
    finalists = {name.split("-")[1] for name in driver.adapters() if name.startswith("final")}
    loser = next(f"trial-{n:03d}" for n in range(5) if f"{n:03d}" not in finalists)
    spool = driver.places.folder / SPOOL
    event = next(event for event in read_spool(spool) if f"/{loser}/" in event["path"])
    set_aside(spool, 1, event, "too large")
    driver.conclude()
    assert {name for name in driver.adapters() if "trial" in name} == {loser, *(f"trial-{n}" for n in finalists)}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("experiments/v14/track_c/other/request.json", '{"reference_model": "checkpoints/v14/track_b/toy/NAME"}'),
        ("experiments/v14/track_a/other/commands.jsonl", '{"values": {"k": "/x/toy/NAME/adapter_model"}}'),
        ("checkpoints/v14/track_a/run/config.yaml", "baseline_checkpoint: ../toy/NAME/adapter_model\n"),
    ],
)
def test_what_another_config_in_the_storage_names_stays_whole(tmp_path: Path, file: str, text: str) -> None:
    driver = Driver(tmp_path, trials=5)
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text.replace("NAME", "trial-003") + text.replace("toy/NAME", "mytoy/trial-004"))
    driver.to_the_end()
    driver.send()
    driver.conclude()
    assert (driver.folder("trial-003") / "checkpoint-4").is_dir()
    assert (driver.folder("trial-003") / ADAPTER).is_dir()
    assert driver.checkpoints() == {"trial-003"}


def test_no_link_is_followed_out_of_the_storage(tmp_path: Path) -> None:
    driver, outside = Driver(tmp_path / "store", trials=5), tmp_path / "outside"
    driver.to_the_end()
    driver.send()
    for name in ("checkpoint-9", "trial-001"):
        checkpoint(outside / name, 1)
    (driver.folder("trial-000") / "checkpoint-9").symlink_to(outside / "checkpoint-9")
    shutil.rmtree(driver.folder("trial-001"))
    driver.folder("trial-001").symlink_to(outside / "trial-001")
    checkpoint(driver.folder("trial-002"), 3)
    (driver.folder("trial-002") / "checkpoint-3" / "link").symlink_to(outside)
    before = sorted(outside.rglob("*"))
    driver.conclude()
    assert sorted(outside.rglob("*")) == before
    assert (driver.folder("trial-000") / "checkpoint-9").is_symlink()
    assert not (driver.folder("trial-002") / "checkpoint-3").exists()


def test_a_folder_that_cannot_be_removed_is_logged_and_the_rest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    driver = Driver(tmp_path)
    for name in ("trial-000", "trial-001"):
        driver.study.ask()
        checkpoint(driver.folder(name), 4)
    driver.study.fail(0, "it broke")
    driver.study.fail(1, "it broke")
    whole = shutil.rmtree

    def busy(path: Path) -> None:
        if "trial-000" in str(path):
            raise OSError("device or resource busy")
        whole(path)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", busy)
        driver.sweep.all(concluded=False)
    assert "trial-000: checkpoints could not be removed: device or resource busy" in caplog.text
    assert driver.checkpoints() == {"trial-000"}
    driver.sweep.all(concluded=False)
    assert driver.checkpoints() == set()


@pytest.mark.parametrize("seed", range(10))
def test_over_a_random_history_with_crashes_no_job_ever_misses_what_it_goes_on_from(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    luck = random.Random(seed)  # noqa: S311 - histories, not secrets
    driver = Driver(tmp_path, trials=7, scheduler=luck.choice(["none", "halving"]))
    remove, kills = shutil.rmtree, [0]

    def perhaps_killed(path: Path) -> None:
        """SIGKILL in the middle of a removal."""
        if luck.random() < 0.15 and kills[0] < 10:
            kills[0] += 1
            files = sorted(place for place in path.rglob("*") if place.is_file())
            for place in files[: luck.randrange(len(files) + 1)]:
                place.unlink()
            raise Killed
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", perhaps_killed)

    def clone() -> None:
        """As `tune.warm` does: a clone begins with weights that are there."""
        ended = [t.number for t in driver.study.trials() if t.state.is_finished()]
        there = [number for number in ended if last_adapter(driver.folder(trial_name(number))) is not None]
        if there:
            give(driver.places.folder, Command("clone", trial=luck.choice(there), values={BETA: 0.3}, warm=True))

    def step() -> None:
        if luck.random() < 0.1:
            clone()
        if luck.random() < 0.1:
            driver.start()
        if luck.random() < 0.3:
            driver.send()
        begun = driver.take()
        if driver.running and (not begun or luck.random() < 0.5):
            driver.go_on(luck.choice(list(driver.running)), luck.choice(["complete", "complete", "fail", "stop"]))
        elif not begun:
            conclusions.append(len(driver.study.trials()))
            clone()
            driver.conclude()
            give(driver.places.folder, Command("extend", trials=2))

    def again() -> None:
        """The next process, until one lives long enough to begin."""
        driver.running.clear()
        try:
            driver.start()
        except Killed:
            again()

    conclusions: list[int] = []
    while len(conclusions) < 3:
        before = driver.needed()
        try:
            step()
        except Killed:
            again()
        now = driver.needed()
        assert [folder for folder in now if not folder.exists()] == []
        assert [f for f in before if f in now and f.name != ADAPTER and damage(f) is not None] == []
        assert [folder for folder in driver.parents() if last_adapter(folder) is None] == []
        half = (path for path in driver.places.checkpoints.glob(f"*/{ADAPTER}") if not any(path.iterdir()))
        assert list(half) == []
    assert kills[0] > 0
