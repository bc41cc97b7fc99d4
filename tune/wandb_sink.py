"""Weights & Biases beside MLflow: the runs whose config has `logging.use_wandb: true`, as the tracker tells of them.

MLflow stays the record. What W&B gets are the params, the metrics by step, the summary and the tags of each run; no
files, no machine data. One thread talks to W&B, and at its first error it stops with one warning: a run or a search
never fails or waits for W&B. Offline by WANDB_MODE=offline. Knows nothing of trials, of MLflow or of spools.
"""

import importlib.metadata
import json
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from phasegpt.credentials import without_credentials
from phasegpt.files import read_json, write_json
from tune.spool import TrackingError

log = logging.getLogger(__name__)

IDS = "wandb_ids.json"
"""{run key: W&B's run id}, beside the spool: a search that goes on goes on with the same W&B runs."""
TAG_LENGTH = 64
"""W&B refuses longer tags."""
CALL_SECONDS = 30.0
"""How long beginning a run, or ending one, may take W&B before that is an error."""
CLOSE_SECONDS = 90.0
STEP = "step"


def asks_for_wandb(params: Mapping[str, str]) -> bool:
    """Whether a run's params, as `flat_params` makes them, say that it goes to W&B."""
    return params.get("logging.use_wandb") == "true"


def require_wandb() -> None:
    """Raises TrackingError where the package is not installed. Imports nothing."""
    try:
        importlib.metadata.version("wandb")
    except importlib.metadata.PackageNotFoundError as error:
        raise TrackingError(
            "logging.use_wandb: true needs the package wandb, which is not installed; "
            'pip install "phasegpt-tune[wandb]", or set logging.use_wandb=false'
        ) from error


def nested(params: Mapping[str, str]) -> dict[str, Any]:
    """Flat params as W&B's tables and plots want them: {"a.b": "5e-05"} becomes {"a": {"b": 5e-05}}."""
    tree: dict[str, Any] = {}
    for key, text in params.items():
        *above, last = key.split(".")
        place = tree
        for name in above:
            place = place.setdefault(name, {})
        place[last] = _value(text)
    return tree


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def labels(tags: Mapping[str, str]) -> list[str]:
    """W&B's tags, which are plain words: name:value, as far as they are short enough."""
    return [label for name, value in tags.items() if len(label := f"{name}:{value}") <= TAG_LENGTH]


@dataclass
class _Open:
    """A W&B run that has begun, all its tags, and each metric's (step, value) at the highest step so far."""

    run: Any
    tags: dict[str, str]
    latest: dict[str, tuple[int, float]] = field(default_factory=dict)


class WandbSink:
    """Sends runs to W&B in the background, those that ask for it; all calls return at once.

    Everything W&B writes goes to wandb/ in `folder`. Only `run` raises: TrackingError where the package is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._live: set[str] = set()
        self._gave_up = False
        self._open: dict[str, _Open] = {}
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)

    def run(self, key: str, name: str, parent: str | None, tags: Mapping[str, str], params: Mapping[str, str]) -> None:
        """Begin the run `key`, or go on with it. Its project, and its name unless it has a parent, are in `params`."""
        if not asks_for_wandb(params):
            return
        if not self._started():
            require_wandb()
            self._thread.start()
        self._live.add(key)
        self._later(key, lambda: self._begin(key, name, parent, tags, params))

    def metrics(self, key: str, values: Mapping[str, float], step: int) -> None:
        """Finite values at a step; steps may come in any order. Nothing of a run that is not open is sent."""
        self._later(key, lambda: self._log(key, values, step))

    def tags(self, key: str, tags: Mapping[str, str]) -> None:
        """Set tags; a tag set before is replaced."""
        self._later(key, lambda: self._tag(key, tags))

    def finish(self, key: str, status: str) -> None:
        """End a run; W&B shows it as failed where `status` is FAILED."""
        self._later(key, lambda: self._end(key, status))
        self._live.discard(key)

    def close(self) -> None:
        """Wait until all is sent, at most CLOSE_SECONDS, and end W&B's service process whatever it does."""
        if not self._started():
            return
        self._calls.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._give_up(f"it has not ended after {CLOSE_SECONDS:g} seconds")
            _stop_service()
            self._thread.join(CALL_SECONDS)

    def _started(self) -> bool:
        return self._thread.ident is not None

    def _later(self, key: str, call: Callable[[], None]) -> None:
        if key in self._live and self._thread.is_alive():
            self._calls.put(call)

    def _work(self) -> None:
        try:
            with _service(self._folder):
                while (call := self._calls.get()) is not None:
                    call()
        except Exception as error:  # noqa: BLE001 - whatever W&B raises must not reach the run
            self._give_up(without_credentials(f"{type(error).__name__}: {error}").splitlines()[0][:300])

    def _give_up(self, reason: str) -> None:
        if not self._gave_up:
            self._gave_up = True
            log.warning(
                "W&B gets nothing more (%s); MLflow keeps the record, and `wandb sync` sends what lies in %s",
                reason,
                self._folder / "wandb",
            )

    def _begin(
        self, key: str, name: str, parent: str | None, tags: Mapping[str, str], params: Mapping[str, str]
    ) -> None:
        import wandb

        if key in self._open:
            self._tag(key, tags)
            return
        asked = params["logging.wandb_run_name"]
        run = wandb.init(
            project=params["logging.wandb_project"],
            id=self._id(key),
            resume="allow",
            name=name if parent is not None or asked == "null" else asked,
            group=tags.get("search"),
            job_type=tags.get("kind"),
            config=nested(params),
        )
        run.define_metric("*", step_metric=STEP)
        self._open[key] = _Open(run, {})
        self._tag(key, tags)

    def _id(self, key: str) -> str:
        path = self._folder / IDS
        ids: dict[str, str] = read_json(path) if path.exists() else {}
        if key not in ids:
            ids[key] = secrets.token_hex(6)
            write_json(path, ids)
        return ids[key]

    def _log(self, key: str, values: Mapping[str, float], step: int) -> None:
        """A row with its step as a value: W&B drops rows whose own step goes back."""
        opened = self._open[key]
        opened.run.log({**values, STEP: step})
        for name, value in values.items():
            if step >= opened.latest.get(name, (step, value))[0]:
                opened.latest[name] = (step, value)

    def _tag(self, key: str, tags: Mapping[str, str]) -> None:
        opened = self._open[key]
        opened.tags |= tags
        opened.run.tags = labels(opened.tags)
        opened.run.config.update({"tags": opened.tags}, allow_val_change=True)

    def _end(self, key: str, status: str) -> None:
        opened = self._open.pop(key)
        summary = {name: value for name, (_, value) in opened.latest.items()}
        opened.run.summary.update({**summary, "status": status})
        opened.run.finish(exit_code=int(status == "FAILED"))


@contextmanager
def _service(folder: Path) -> Iterator[None]:
    """W&B set up to write below `folder` alone, to ask nothing at the terminal and to send nothing of its own.

    At the end its service process is gone and the environment as it was.
    """
    with _environment({"WANDB_CACHE_DIR": str(folder), "WANDB_ERROR_REPORTING": "false"}):
        import wandb

        try:
            wandb.setup(_settings(folder))
            yield
        finally:
            try:
                with suppress(SystemExit):  # how W&B tells that its process died
                    wandb.teardown(exit_code=1)  # that of runs which have not been ended
            finally:
                _stop_service()


def _settings(folder: Path) -> Any:
    import wandb

    return wandb.Settings(
        root_dir=str(folder),
        reinit="create_new",  # the trials of a search run beside each other
        silent=True,
        console="off",
        init_timeout=CALL_SECONDS,
        finish_timeout=CALL_SECONDS,
        finish_timeout_raises=True,
        disable_code=True,
        disable_git=True,
        save_code=False,
        x_disable_meta=True,  # the command line, which may carry an address with a password
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables set within the block, those that the user has not set."""
    added = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _stop_service() -> None:
    """End W&B's process where it is still there: one that hangs, or one whose connection broke."""
    import psutil

    for child in psutil.Process().children():
        if child.name() == "wandb-core":
            child.kill()
            child.wait()
