"""People who look at an MLflow server: threads that ask what its pages ask, one question after another."""

import json
import statistics
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 60.0
"""Seconds after which an answer counts as none."""


@dataclass(frozen=True)
class Answer:
    """What a question got: a status, 0 where no answer came, and after how many seconds."""

    question: str
    status: int
    seconds: float


@dataclass
class Clients:
    """So many people on `url`, who pause so many seconds between two questions."""

    url: str
    count: int
    pause: float
    answers: list[Answer] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Clients":
        self._threads = [threading.Thread(target=self._look, args=(n,), daemon=True) for n in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)

    def _look(self, number: int) -> None:
        """The first page, the runs of an experiment, one of them, its curve, and again; each begins in its own time."""
        self._ended.wait(self.pause * number / self.count)
        while not self._ended.is_set():
            found = self._ask("experiments/search", {"max_results": 25})
            ids = [each["experiment_id"] for each in found.get("experiments", [])]
            self._wait()
            runs = self._ask("runs/search", {"experiment_ids": ids, "max_results": 100}).get("runs", [])
            self._wait()
            if runs:
                run = runs[number % len(runs)]["info"]["run_id"]
                self._ask(f"runs/get?run_id={run}")
                self._wait()
                self._ask(f"metrics/get-history?run_id={run}&metric_key=eval_loss")
                self._wait()

    def _wait(self) -> None:
        self._ended.wait(self.pause)

    def _ask(self, question: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        if self._ended.is_set():
            return {}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - our own http server
            f"{self.url}/api/2.0/mlflow/{question}", data, {"Content-Type": "application/json"}
        )
        begun, status, found = time.monotonic(), 0, {}
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as reply:  # noqa: S310 - our own http server
                status, found = reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            status = error.code
        except OSError:
            pass
        self.answers.append(Answer(question.partition("?")[0], status, time.monotonic() - begun))
        return found

    def summary(self) -> dict[str, Any]:
        """How many questions were asked, the statuses they got (0: no answer), and quantiles of how long that took."""
        seconds = sorted(answer.seconds for answer in self.answers)
        marks = statistics.quantiles(seconds, n=100) if len(seconds) > 1 else [0.0] * 99
        return {
            "clients": self.count,
            "questions": len(self.answers),
            "statuses": dict(Counter(str(answer.status) for answer in self.answers)),
            "seconds": {"p50": marks[49], "p95": marks[94], "p99": marks[98], "max": max(seconds, default=0.0)},
        }
