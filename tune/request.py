"""What a user asked of a search, typed and checked: the request, its config, and where everything will lie.

Parsed before torch or ray is imported, so that a mistake is answered in under a second.
"""

import json
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from phasegpt.answers import couples_of, preferences_of, split_of
from phasegpt.config import Config, value_at
from phasegpt.config_errors import ConfigError
from phasegpt.config_io import SHIPPED, Tree, load_tree, project_root, resolve, track_config
from phasegpt.config_ranges import LISTED, active
from phasegpt.config_sections import is_text
from phasegpt.data_checks import Rules
from phasegpt.data_report import Report, check_file
from phasegpt.files import read_json, write_text
from phasegpt.key_paths import get, split
from phasegpt.mirror import address_of, mirror_folder, mirror_of
from phasegpt.object_store import StorageError, is_address
from phasegpt.pairs import HALVES, PairsError, read_prompts
from phasegpt.runs import run_paths
from tune.arms import Arm, parse_arms
from tune.databases import require_postgresql, without_password
from tune.machine import has_gpu
from tune.sealed import has_state, known_searches, restore

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
TAKEN = (".json", ".png", ".log", "-report", "-insight")
"""What lies beside a search is its name with one of these behind it, so no other search's name may end so."""


class RequestError(ValueError):
    """A request that cannot be carried out; the message is for the user, one line a problem."""


@dataclass(frozen=True)
class SearchPlaces:
    """Where one search lies, below its storage folder."""

    storage: Path
    track: str
    name: str

    @property
    def folder(self) -> Path:
        """The search's own state: request, study, spool."""
        return self.storage / "experiments" / "v14" / f"track_{self.track}" / self.name

    @property
    def results(self) -> Path:
        """Where each job leaves its result."""
        return self.storage / "results" / "v14" / f"track_{self.track}" / self.name

    @property
    def checkpoints(self) -> Path:
        """The folder of its jobs' folders."""
        return run_paths(self.storage, self.track, self.name).checkpoints

    @property
    def summary(self) -> Path:
        """The result of the whole search."""
        return self.results.with_name(f"{self.name}.json")

    @property
    def log(self) -> Path:
        """The log of the whole search."""
        return self.folder.with_name(f"{self.name}.log")

    @property
    def request(self) -> Path:
        """What was asked for, kept for resume."""
        return self.folder / "request.json"

    @property
    def data_checks(self) -> Path:
        """What the checks of the data said."""
        return self.folder / "data_checks.json"


@dataclass(frozen=True)
class Request:
    """A search to run: its track, name, typed config, data and where it lies. `warnings` are lines for the user.

    With `arms` it is an ablation: those are compared, and nothing is searched. `study_url` is the PostgreSQL that holds
    the study, perhaps with its password, which is kept nowhere; None leaves the study beside the search.
    """

    track: str
    name: str
    config: Config
    profile: str | None
    profile_reason: str
    places: SearchPlaces
    resumed: bool
    data: Report
    warnings: tuple[str, ...] = ()
    arms: tuple[Arm, ...] = ()
    study_url: str | None = field(default=None, repr=False)

    @property
    def study(self) -> tuple[str, Path | str]:
        """The name of its study, and the journal or the database that holds it."""
        if self.study_url is None:
            return self.name, self.places.folder / "study.journal"
        return f"track_{self.track}/{self.name}", self.study_url

    def own_values(self) -> dict[str, Any]:
        """The config's own value of each searched parameter: the first trial."""
        tree = self.config.dump()
        return {key: get(tree, split(key)) for key in self.config.search.parameters}

    def save(self) -> None:
        """Keep the request beside the search, so that `--resume NAME` needs nothing else.

        Keys keep their order: the first objective decides, and parameters are drawn one after another.
        """
        kept: dict[str, Any] = {
            "track": self.track,
            "name": self.name,
            "profile": self.profile,
            "config": self.config.dump(),
        }
        kept |= {"arms": [asdict(arm) for arm in self.arms]} if self.arms else {}
        kept |= {"study_url": without_password(self.study_url)} if self.study_url else {}
        write_text(self.places.request, json.dumps(kept, indent=1) + "\n")


def choose_profile(asked: str, gpu: bool, *, own: bool = False) -> tuple[str | None, str]:
    """The profile to lay on the track and why: `auto` takes laptop where there is no GPU, `none` none.

    A file of one's `own` runs as it is written: the profile would put another model and other lengths in its place.
    """
    if asked == "auto" and own:
        return None, "no profile: your own config, as written (--profile laptop fits it to two cores)"
    if asked == "none":
        return None, "no profile: the track's own settings"
    if asked != "auto":
        return asked, f"profile {asked}, as asked"
    if gpu:
        return None, "no profile: a GPU is here"
    return "laptop", "profile laptop: no GPU here (--profile none runs the track's own settings)"


def is_own_file(config: str | None) -> bool:
    """Whether a config is a file of the user's, none of those that come with the code."""
    return config is not None and not Path(os.path.realpath(config)).is_relative_to(SHIPPED)


def new_request(
    track: str,
    *,
    config: str | None = None,
    profile: str = "auto",
    overrides: Sequence[str | tuple[str, Any, str]] = (),
    name: str | None = None,
    storage: str | None = None,
    gpu: bool | None = None,
    ablate: Sequence[str] = (),
    study_url: str | None = None,
) -> Request:
    """A fresh search, or with `ablate` (`key=v1,v2`) an ablation.

    Raises RequestError with every problem of config and data, or where `name` is taken, and DatabaseError where
    `study_url` is no PostgreSQL that can be used here.
    """
    if study_url is not None:
        require_postgresql(study_url)
    chosen, reason = choose_profile(profile, has_gpu() if gpu is None else gpu, own=is_own_file(config))
    laid: list[str | tuple[str, Any, str]] = [*overrides, *([("search.parameters", {}, "--ablate")] if ablate else [])]
    try:
        tree = load_tree(config or track_config(track), chosen, laid)
        typed = tree.typed()
        arms, remarks = parse_arms(ablate, tree) if ablate else ([], [])
    except ConfigError as error:
        raise RequestError(str(error)) from error
    check_searchable(typed, tree, ablation=bool(arms))
    data = check_data(typed)
    name = name or f"{track}{'-ablation' if arms else ''}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not NAME.fullmatch(name):
        raise RequestError(f"--name {name!r}: expected letters, digits, dot, dash and underscore, at most 80")
    if name.endswith(TAKEN):
        raise RequestError(f"--name {name}: it may not end in {', '.join(TAKEN)}, as what lies beside a search does")
    places = SearchPlaces(storage_folder(storage), track, name)
    if places.request.exists():
        raise RequestError(f"--name {name}: there is a search of this name; go on with --resume {name} or take another")
    warnings = (*tree.warnings(), *data.summary(), *remarks)
    return Request(track, name, typed, chosen, reason, places, False, data, warnings, tuple(arms), study_url)


def resumed_request(
    track: str, name: str, storage: str | None = None, study_url: str | None = None, *, to_run: bool = True
) -> Request:
    """The request of a search that was started before, as it was; `study_url` says where its study lies by now.

    One that is only looked at (`to_run` False) does without its data and other files, and its `data` is empty.
    """
    if not NAME.fullmatch(name):
        raise RequestError(f"--resume {name!r}: no such name can exist")
    places = SearchPlaces(storage_folder(storage), track, name)
    bring(places)
    if not places.request.is_file():
        known = sorted({p.parent.name for p in places.folder.parent.glob("*/request.json")} | {*known_searches(places)})
        raise RequestError(
            f"--resume {name}: no such search in {_shown(places)}; there are: {', '.join(known) or 'none'}"
        )
    kept = _read_kept(places.request)
    kept.config["search"].setdefault("keep", "all")  # a search that began before there was the rule removes nothing
    try:
        config = Tree(str(places.request), kept.config, {}).typed(to_run=to_run)
    except ConfigError as error:
        raise RequestError(str(error)) from error
    data = check_data(config) if to_run else Report(config.training.preference_dataset, 0, (), ())
    url = study_url or kept.study_url
    if url is not None:
        require_postgresql(url)
    reason = f"going on with {name}"
    return Request(track, name, config, kept.profile, reason, places, True, data, arms=kept.arms, study_url=url)


class _Kept(BaseModel):
    """What `Request.save` keeps, as it is read back."""

    config: dict[str, Any]
    profile: str | None
    arms: tuple[Arm, ...] = ()
    study_url: str | None = None


def _read_kept(file: Path) -> _Kept:
    """Raises RequestError where a file is not what `Request.save` wrote."""
    try:
        kept = _Kept.model_validate(read_json(file))
    except (OSError, ValueError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.__cause__ or error
        raise RequestError(f"{file} is damaged ({said}); put it back from a copy") from error
    if not isinstance(kept.config.get("search"), dict):
        raise RequestError(f"{file}: expected a config with a search block; put it back from a copy")
    return kept


def storage_folder(asked: str | None) -> Path:
    """Where results go: `--storage` or the project root; of object storage the folder that mirrors it here."""
    if asked is None:
        return project_root()
    if is_address(asked):
        try:
            return mirror_folder(asked)
        except (StorageError, OSError) as error:
            raise RequestError(f"--storage {error}") from error
    folder = Path(os.path.abspath(os.path.expanduser(asked)))
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not (os.path.isdir(there) and os.access(there, os.W_OK)) or not _can_be_named(folder):
        raise RequestError(f"--storage {asked:.200}: expected a folder that can be written to")
    return folder


def _can_be_named(folder: Path) -> bool:
    """Whether there can be a folder of this name: its parts are not too long."""
    try:
        os.lstat(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def bring(places: SearchPlaces, *, with_checkpoints: bool = False) -> None:
    """Fetch what object storage has of a search. Raises RequestError where it cannot be asked."""
    try:
        restore(places, with_checkpoints=with_checkpoints)
    except StorageError as error:
        raise RequestError(str(error)) from error


def require_storage(request: Request) -> None:
    """Raises RequestError where object storage cannot be written to, knows a new search's name, or will not do."""
    mirror = mirror_of(request.places.storage)
    if mirror is None:
        return
    if request.config.training.distributed.workers > 1:
        raise RequestError(
            f"--storage {mirror.store.address}: the workers of a trial write and read in one folder; "
            f"give a shared folder, or leave out --workers-per-trial"
        )
    try:
        mirror.store.check()
        if not request.resumed and has_state(request.places):
            name = request.name
            raise RequestError(
                f"--name {name}: {mirror.store.address} has a search of this name; go on with --resume {name} or "
                f"take another"
            )
    except StorageError as error:
        raise RequestError(str(error)) from error


def _shown(places: SearchPlaces) -> str:
    address = address_of(places.storage)
    return f"{address}/{places.folder.parent.relative_to(places.storage)}"


def check_searchable(config: Config, tree: Tree, *, ablation: bool = False) -> None:
    """Raises RequestError where the config has nothing to search, or a range without a value to begin with."""
    if not config.search.parameters and not ablation:
        raise RequestError(
            f"{tree.place(('search',))}: search.parameters: expected at least one parameter to search, found none; "
            f"for a single run: python train.py --config {tree.source}"
        )
    if is_text(config.training.preference_dataset):
        raise RequestError(
            f"{tree.place(('training', 'preference_dataset'))}: training.preference_dataset: a search compares by "
            f"pairs, and a text has none; for a single run: python train.py --config {tree.source}"
        )
    judge = next(iter(config.search.objectives))
    if ablation and judge not in config.measured():
        raise RequestError(
            f"{tree.place(('search', 'objectives'))}: search.objectives: arms are compared by {judge}, which is not "
            f"measured; add it to evaluation.metrics"
        )
    parameters = config.search.parameters
    own = active(parameters, {key: value_at(config, key) for key in parameters})
    without = [key for key, value in own.items() if value is None and parameters[key].kind not in LISTED]
    if without:
        raise RequestError("\n".join(_no_first_value(key, tree) for key in without))


def _no_first_value(key: str, tree: Tree) -> str:
    place = tree.place(("search", "parameters", key))
    return f"{place}: search.parameters.{key}: the first trial takes the config's own value, which is null; set {key}"


def check_data(config: Config) -> Report:
    """What the checks of the data say, warnings only. Raises RequestError with every problem, each with its line."""
    dataset, text = resolve(config.training.preference_dataset), is_text(config.training.preference_dataset)
    problems = [*(() if text else _pairs_problems(config)), *_prompts_problems(config)]
    if problems:
        raise RequestError("\n".join(problems))
    return Report(str(dataset), 0, (), ("a plain text",)) if text else check_file(dataset, Rules.of(config))


def _pairs_problems(config: Config) -> Iterable[str]:
    try:
        rows = split_of(preferences_of(config), config)
    except PairsError as error:
        return error.problems
    if rows.train and couples_of(rows.val):
        return ()
    return (f"{config.training.preference_dataset}: too few pairs to train on and to evaluate on",)


def _prompts_problems(config: Config) -> Iterable[str]:
    try:
        prompts = read_prompts(resolve(config.evaluation.prompts))
    except PairsError as error:
        return error.problems
    short = [half for half in HALVES if sum(prompt.half == half for prompt in prompts) < 2]
    return [f"{config.evaluation.prompts}: expected at least two prompts of the {half} half" for half in short]
