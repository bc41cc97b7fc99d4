"""How the jobs of a search stand, read from its study, results, commands and spool, and from other configs beside it.

Changes nothing, and needs no process that runs the search.
"""

import re
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path

from optuna.trial import TrialState

from phasegpt.files import read_json
from tune.commands import COMMANDS, Commands
from tune.keep import Standing
from tune.request import SearchPlaces
from tune.spool import SPOOL, arrived
from tune.study import Study

TRIAL = re.compile(r"trial-(\d+)")
FINAL = re.compile(r"(?:final|arm)-(\d+)-seed-\d+")


def has_ended(places: SearchPlaces, study: Study) -> bool:
    """Whether a search has a winner, and no trial left to run; one that was extended since has."""
    winner = read_json(places.summary).get("winner") if places.summary.is_file() else None
    trials = study.trials()
    return bool(winner) and len(trials) >= study.budget and all(trial.state.is_finished() for trial in trials)


class Standings:
    """How each job stands at the moment when this is made.

    `named` are the jobs that `named_jobs` finds. Who is a finalist, and what MLflow has, is asked only of a search that
    is `concluded`: before, no adapter goes.
    """

    def __init__(self, places: SearchPlaces, study: Study, named: Collection[str], *, concluded: bool) -> None:
        self.places, self.study, self.named, self.concluded = places, study, named, concluded

    def of(self, name: str) -> Standing:
        """How the job of a name stands; one of which nothing is known has not ended."""
        named = name in self.named
        if FINAL.fullmatch(name):
            return Standing(self._result(name).is_file(), named, wanted=False)
        trial = TRIAL.fullmatch(name)
        number = int(trial[1]) if trial else self.study.asked()
        if number >= self.study.asked():
            return Standing()
        state, wanted = self.study.trial(number).state, number in self._parents
        if not self.concluded:
            return Standing(state.is_finished(), named, wanted)
        finalist = number in self._finalists
        return Standing(state.is_finished(), named, wanted, finalist, self._delivered(name, state))

    def _result(self, name: str) -> Path:
        return self.places.results / f"{name}.json"

    def _delivered(self, name: str, state: TrialState) -> bool:
        if state != TrialState.COMPLETE:
            return True  # the adapters of those that did not come to their end are not sent
        if not self._result(name).is_file():
            return False
        adapter = read_json(self._result(name)).get("adapter")
        return not adapter or str(Path(adapter).resolve()) in self._arrived

    @cached_property
    def _arrived(self) -> frozenset[str]:
        return arrived(self.places.folder / SPOOL)

    @cached_property
    def _finalists(self) -> frozenset[int]:
        """The trials whose finals have begun, now or before more trials were asked for."""
        folders = (self.places.checkpoints, self.places.results)
        found = (FINAL.fullmatch(path.stem) for folder in folders for path in folder.glob("final-*"))
        return frozenset(int(match[1]) for match in found if match)

    @cached_property
    def _parents(self) -> frozenset[int]:
        """The trials whose weights a clone begins with that has not ended, or is only asked for."""
        warm = [(place, c.trial) for place, c in enumerate(Commands(self.places.folder).all()) if c.warm]
        ended = self.study.ended_clones() if warm else ()
        return frozenset(trial for place, trial in warm if trial is not None and place not in ended)


def named_jobs(places: SearchPlaces) -> frozenset[str]:
    """The jobs of a search whose folders the config of some run or search, or a command, names."""
    mention = re.compile(rf"(?<![\w.-]){re.escape(places.name)}/((?:trial|final|arm)-[\w-]+)")
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in _configs(places.storage))
    return frozenset(name for text in texts for name in mention.findall(text))


def _configs(storage: Path) -> Iterator[Path]:
    """What may name a job as reference or baseline: requests and commands of searches, configs of single runs."""
    searches, runs = (storage / part / "v14" for part in ("experiments", "checkpoints"))
    yield from searches.glob("track_*/*/request.json")
    yield from searches.glob(f"track_*/*/{COMMANDS}")
    yield from runs.glob("track_*/*/config.yaml")
