"""Two processes that want a seat at once, call by call in drawn orders, on one SQLite file and on a server.

The machine is theirs alone for no call: both wait before each, and the test says who goes on.
"""

import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from phasegpt.mlflow_client import open_client
from tests.mlflow_store import migrated
from tests.servers import free_port, served
from tests.tune.contenders import LOW
from tests.tune.registries import EXPERIMENT, toy_adapter, winner_of
from tune.registry import promote_version, repair
from tune.seat import read_seat
from tune.versions import aliases_of, register

ROOT = Path(__file__).parents[2]
PATIENCE = 240


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, toy_model_dir: Path) -> Path:
    return toy_adapter(toy_model_dir, tmp_path_factory.mktemp("adapter") / "adapter")


@pytest.fixture(scope="module")
def file_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An SQLite file, which two processes of one machine open themselves."""
    folder = tmp_path_factory.mktemp("file")
    uri = migrated(folder)
    open_client(uri).create_experiment(EXPERIMENT, (folder / "artifacts").as_uri())
    return uri


@pytest.fixture(scope="module")
def server_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that serves artifacts too, as two machines with no common folder have it."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--serve-artifacts"]
    words += ["--backend-store-uri", migrated(folder), "--artifacts-destination", str(folder / "kept")]
    with served([sys.executable, "-m", "mlflow", *words], f"http://127.0.0.1:{port}/health", folder):
        yield f"http://127.0.0.1:{port}"


@dataclass
class Contest:
    """Two processes, and a client beside them that nobody holds."""

    uri: str
    client: Any
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self) -> None:
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.tune.contest", self.uri],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=ROOT,
            )
            self.processes.append(process)
        for process in self.processes:
            assert self.hear(process) == "ready"

    def hear(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    def tell(self, who: int, line: str) -> str:
        """Tell a process and hear what comes of it."""
        process = self.processes[who]
        assert process.stdin is not None
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        return self.hear(process)

    def run(self, track: str, versions: list[str], seed: int, killed_at: int | None = None) -> list[str]:
        """How both promotions end, in an order of calls that `seed` draws; the first dies at its call `killed_at`."""
        draw, calls = random.Random(seed), 0  # noqa: S311 - an order, not a secret
        heard = [self.tell(who, f"promote {track} {version}") for who, version in enumerate(versions)]
        while waiting := [who for who in range(2) if heard[who].startswith("at ")]:
            who = draw.choice(waiting)
            calls += who == 0
            heard[who] = self.tell(who, "die" if who == 0 and calls == killed_at else "go")
        return [line.removeprefix("end ") for line in heard]


@pytest.fixture(scope="module", params=["file_uri", pytest.param("server_uri", marks=pytest.mark.slow)])
def contest(request: pytest.FixtureRequest) -> Iterator[Contest]:
    uri = request.getfixturevalue(request.param)
    made = Contest(uri, open_client(uri))
    made.start()
    yield made
    for process in made.processes:
        process.kill()
        process.communicate(timeout=PATIENCE)  # waits, and closes the pipes


def raised(by: int) -> dict[str, float]:
    """Scores that are surely better than those of any smaller `by`."""
    return {prompt: 0.1 + by / 10 + n / 1000 for n, prompt in enumerate(LOW)}


DECIDED = {"promoted", "decided_against", "reason", "interval.high", "unseated_by", "defended_against"}


@dataclass(frozen=True)
class Pool:
    """Versions of a track: each surely beats those before it, save `twin`, which has the scores of `strong`."""

    client: Any
    track: str
    zero: str
    weak: str
    strong: str
    twin: str

    def begin(self) -> None:
        """Version `zero` in the seat, and nothing left on the others of what was decided before."""
        promote_version(self.client, self.track, self.zero, force=True)
        for version in (self.weak, self.strong, self.twin):
            for key in DECIDED & self.tags(version).keys():
                self.client.delete_model_version_tag(f"phasegpt-track-{self.track}", version, key)

    def tags(self, version: str) -> dict[str, str]:
        return dict(self.client.get_model_version(f"phasegpt-track-{self.track}", version).tags)

    def seated(self) -> str:
        """Who is champion, by the record and by the alias alike."""
        by_record, by_alias = read_seat(self.client, self.track).champion, aliases_of(self.client, self.track)
        assert by_record == by_alias["champion"]
        return by_record


@pytest.fixture(scope="module")
def pool(contest: Contest, toy_model_dir: Path, adapter: Path) -> Pool:
    winners = [winner_of(contest.client, toy_model_dir, adapter, raised(by), "b") for by in (0, 1, 2, 2)]
    return Pool(contest.client, "b", *(register(contest.client, winner) for winner in winners))


@pytest.mark.timeout(600)
def test_two_promotions_at_once_never_leave_a_champion_that_lost_to_the_other(contest: Contest, pool: Pool) -> None:
    """Both beat who sits there, and the second beats the first: whatever the order of calls, the second stays."""
    seen = set()
    for seed in range(5):
        pool.begin()
        ends = contest.run("b", [pool.weak, pool.strong], seed)
        seen.add(tuple(ends))
        assert pool.seated() == pool.strong
        weak, strong = pool.tags(pool.weak), pool.tags(pool.strong)
        assert strong["promoted"] == "true"
        if ends[0] == "lost":
            assert (weak["promoted"], weak["decided_against"]) == ("false", pool.strong)
            assert float(weak["interval.high"]) < 0
            assert strong["defended_against"] == pool.weak
        else:
            assert (weak["promoted"], weak["unseated_by"]) == ("true", pool.strong)
            assert aliases_of(pool.client, "b")["previous"] == pool.weak
    assert seen == {("won", "won"), ("lost", "won")}


@pytest.mark.timeout(600)
def test_of_two_that_are_alike_the_first_stays_and_the_other_is_told_so(contest: Contest, pool: Pool) -> None:
    alike, seen = [pool.strong, pool.twin], set()
    for seed in range(4):
        pool.begin()
        ends = contest.run("b", alike, seed)
        assert sorted(ends) == ["lost", "won"]
        first, other = alike[ends.index("won")], alike[ends.index("lost")]
        assert pool.seated() == first
        assert pool.tags(other)["reason"].startswith("does not surely beat the champion")
        assert pool.tags(other)["decided_against"] == first
        seen.add(first)
    assert seen == set(alike)


@pytest.mark.timeout(600)
def test_who_dies_midway_leaves_a_seat_that_the_next_one_puts_right(contest: Contest, pool: Pool) -> None:
    """One of two alike is killed at a call, early and late; whoever was first by the record is champion, and whole."""
    for killed_at in range(2, 60, 6):
        pool.begin()
        ends = contest.run("b", [pool.strong, pool.twin], killed_at, killed_at)
        repair(pool.client, "b")
        assert pool.tags(pool.seated())["promoted"] == "true"
        assert pool.seated() == (pool.twin if ends[1] == "won" else pool.strong)
        if ends[0] != "killed":
            break
    assert killed_at > 10
