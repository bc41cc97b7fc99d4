"""The last finished search of a storage folder that is like the one to come, as a yardstick for its time.

Reads what searches leave: the request, the summary, each job's result, and the spool, which knows when every job began
and ended. Knows nothing of operations; which machine a search ran on nobody noted, so a storage folder that several
machines share may tell of another one.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

from phasegpt.answers import answers_of
from phasegpt.config import Config, stages
from phasegpt.config_errors import ConfigError
from phasegpt.config_io import Tree
from phasegpt.files import read_json
from phasegpt.pairs import HALVES, AnswerSplit, Split
from phasegpt.runs import shared_work_of
from phasegpt.shared_parts import TRUNK
from tune.jobs import baseline_name
from tune.request import Request, SearchPlaces
from tune.spool import SPOOL, Event, TrackingError, read_spool

TRIES = 20
"""So many searches of the same kind are read, the newest first, until one tells what is asked."""

Span = tuple[float, float]
"""When something began and ended, in seconds since 1970."""


@dataclass(frozen=True)
class Past:
    """A finished search, in seconds a part.

    `step` is one of the last stage, `evaluation` one of a trial by part, `rest` what a fit takes beside both: starting,
    saving. `before` the first trial two baselines were measured as well, `baselines` their evaluations; both leave out
    `shared`, the making of shared work (0 where it was there). `after` the last fit the winner was found and
    registered.
    """

    name: str
    ended: float
    config: Config
    fits: int
    step: float
    evaluation: Mapping[str, float]
    rest: float
    before: float
    baselines: float
    shared: float
    after: float

    @property
    def day(self) -> str:
        """When it ended, as people write it."""
        return time.strftime("%-d %B %Y", time.localtime(self.ended))


def last_search(request: Request) -> Past | None:
    """The newest finished search with the same model, profile, precision, device and workers, of this track if there
    is one; None where there is none, or none that can be read.
    """
    like = ((places, config) for places in _finished(request) if (config := _like(places, request)) is not None)
    return next((past for each in islice(like, TRIES) if (past := _read(*each)) is not None), None)


def _finished(request: Request) -> Iterator[SearchPlaces]:
    """Every other search with a summary: first those of this track, the newest first. None is opened for that."""
    found: list[tuple[bool, float, SearchPlaces]] = []
    for kept in (request.places.storage / "experiments" / "v14").glob("track_*/*/request.json"):
        track, name = kept.parent.parent.name.removeprefix("track_"), kept.parent.name
        places = SearchPlaces(request.places.storage, track, name)
        if places.summary.is_file() and places != request.places:
            found.append((track == request.track, places.summary.stat().st_mtime, places))
    return (places for _, _, places in sorted(found, key=lambda each: each[:2], reverse=True))


def _like(places: SearchPlaces, request: Request) -> Config | None:
    """The config of a search, where it is of the same kind; a thousand others are told by their plain values."""
    try:
        asked = read_json(places.request)
        same_model = asked["config"]["model"]["base_model"] == request.config.model.base_model
        if asked.get("profile") != request.profile or not same_model:
            return None
        config = Tree(str(places.request), asked["config"], {}).typed()
    except (ConfigError, ValueError, KeyError, TypeError):
        return None  # of another version, or damaged
    return config if _kind(config) == _kind(request.config) else None


def _kind(config: Config) -> tuple[object, ...]:
    """What must be equal for one search to tell of another: the rest is counted."""
    training, model = config.training, config.model
    precision = (training.bf16, training.fp16, model.use_gradient_checkpointing, model.use_phase_attention)
    device = (config.experiment.device, training.distributed.workers, training.distributed.strategy)
    return model.base_model, len(stages(config)), precision, device


def _read(places: SearchPlaces, config: Config) -> Past | None:
    try:
        events = read_spool(places.folder / SPOOL)
        baselines = [read_json(places.results / f"{baseline_name(half)}.json")["seconds"] for half in HALVES]
        spans = _spans(events, places.name)
        fits = {n: span for n, span in spans.items() if (places.results / f"{n}.json").is_file() and _is_fit(n)}
        results = [read_json(places.results / f"{name}.json") for name in fits]
        return _past(places, config, events, [*fits.values()], results, baselines) if fits else None
    except (OSError, ValueError, KeyError, TrackingError, ZeroDivisionError):
        return None  # incomplete, damaged, or of another version: the next one may do


def _is_fit(name: str) -> bool:
    return name.startswith(("trial-", "final-"))


def _spans(events: Sequence[Event], search: str) -> dict[str, Span]:
    """{job: its span} of the jobs that ran through without a cut."""
    begun: dict[str, list[float]] = {}
    spans: dict[str, Span] = {}
    for event in events:
        job = str(event.get("key", "")).removeprefix(f"{search}/")
        if event["kind"] == "run":
            begun.setdefault(job, []).append(event["at"] / 1000)
        elif event["kind"] == "finish" and event["status"] == "FINISHED":
            spans[job] = (begun[job][-1], event["at"] / 1000)
    return {job: span for job, span in spans.items() if len(begun[job]) == 1}


def _past(
    places: SearchPlaces,
    config: Config,
    events: Sequence[Event],
    spans: Sequence[Span],
    results: Sequence[Mapping[str, Any]],
    baselines: Sequence[Mapping[str, float]],
) -> Past:
    training = stages(config)[-1].training
    examples = training.micro_batch * training.gradient_accumulation_steps
    steps = [examples / result["clock"]["examples_per_second"] for result in results]
    evaluations = [result["seconds"]["evaluation"] / len(result["curve"]) for result in results]
    rests = [
        end - begin - result["steps"] * step - result["seconds"]["evaluation"]
        for (begin, end), result, step in zip(spans, results, steps, strict=True)
    ]
    # of two stages the first is trained in few of the fits, and is counted by itself
    rest = median(rests) if len(stages(config)) > 1 else fmean(rests)
    opened, closed = [e["at"] / 1000 for e in events if e["kind"] == "open"], events[-1]["at"] / 1000
    first, last = min(begin for begin, _ in spans), max(end for _, end in spans)
    shared = shared_seconds(places.storage, (opened[0], first))
    measured = sum(sum(seconds.values()) for seconds in baselines)
    whole = len(opened) == 1  # a search that was cut tells neither how it begins nor how it ends
    return Past(
        name=places.name,
        ended=closed,
        config=config,
        fits=len(results),
        step=fmean(steps),
        evaluation=_by_part(fmean(evaluations), baselines),
        rest=max(0.0, rest),
        before=max(measured, first - opened[0] - shared) if whole else measured,
        baselines=measured,
        shared=shared,
        after=closed - last if whole else 0.0,
    )


def _by_part(seconds: float, baselines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """An evaluation of a trial, shared out as those of the baselines were: results of trials keep the sum alone."""
    parts = {name: sum(each[name] for each in baselines) for name in baselines[0]}
    return {name: seconds * part / sum(parts.values()) for name, part in parts.items()}


def _seals(storage: Path) -> Iterator[tuple[Path, list[Path]]]:
    """The entries of the shared work with the seals of their parts."""
    for entry in shared_work_of(storage).glob("*/"):
        yield entry, sorted(entry.glob("*.json"))


def shared_seconds(storage: Path, span: Span) -> float:
    """What the making of shared work took that was made within `span`."""
    made = 0.0
    for _, seals in _seals(storage):
        inside = [seal for seal in seals if span[0] <= seal.stat().st_mtime <= span[1]]
        made += max((float(read_json(seal)["seconds"]) for seal in inside), default=0.0)
    return made


def shared_work_is_here(request: Request, split: Split | AnswerSplit, parts: Sequence[str], depth: int) -> bool:
    """Whether a search finds its shared work made, as far as can be seen without the tokenizer: these answers, this
    model, these parts, the trunk up to layer `depth`.
    """
    wanted = {"answers", *(f"{TRUNK}-{depth}" if part == TRUNK else part for part in parts)}
    ids = {answer.id for answer in answers_of((*split.train, *split.val))}
    for entry, seals in _seals(request.places.storage):
        if wanted <= {seal.stem for seal in seals}:
            about = read_json(entry / "answers.json")
            if about["base_model"] == request.config.model.base_model and ids == {i for g in about["ids"] for i in g}:
                return True
    return False
