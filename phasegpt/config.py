"""The whole config: its sections, what they must agree on, and what can be asked of it.

Knows nothing of YAML, files or the command line (`config_io` does), and imports neither torch nor ray. A value of the
wrong type, an unknown key or a combination that cannot run is an error; nothing is rewritten.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, get_args

from pydantic.fields import FieldInfo

from phasegpt.config_errors import nearest
from phasegpt.config_search import Search
from phasegpt.config_sections import Data, Evaluation, Experiment, Logging, Model, SharedWork, Stage, Training
from phasegpt.config_types import Part, Problems
from phasegpt.metrics.declared import DECLARED, GUARDS, Direction, is_own

METRICS: dict[str, Direction] = {name: metric.better for name, metric in DECLARED.items()}
"""Every declared metric's name and which way is better."""

SCALING_METRICS = tuple(name for name, metric in DECLARED.items() if metric.cost == "clock")
"""What a clock or a gauge reads: it depends on what else the machine does, and cannot say which run is better."""


NO_JUDGE = "is read from a clock or a gauge and differs from machine to machine; take a metric of answers or pairs"


class Config(Part):
    """Everything one run or one search needs to know. `dump()` and `config_hash` are its plain forms."""

    model: Model
    training: Training
    data: Data = Data()
    evaluation: Evaluation = Evaluation()
    logging: Logging = Logging()
    experiment: Experiment = Experiment()
    shared_work: SharedWork = SharedWork()
    search: Search = Search()

    def dump(self) -> dict[str, Any]:
        """The config as plain JSON values, every default written out; `Config.model_validate` reads it back."""
        return self.model_dump(mode="json")

    def problems(self) -> Problems:
        known = self.data.domains
        for domain in self.evaluation.held_out_domains:
            if domain not in known:
                yield ("evaluation", "held_out_domains"), f"{domain} is not in data.domains{nearest(domain, known)}"
        yield from self._metric_problems()
        yield from self._search_metric_problems()
        yield from self._search_parameter_problems()

    def _metric_problems(self) -> Problems:
        measured, best = self.evaluation.metrics, self.evaluation.metric_for_best_model
        for name in measured:
            if wrong := unknown_metric(name):
                yield ("evaluation", "metrics"), wrong
        if best not in measured:
            yield ("evaluation", "metric_for_best_model"), f"{best} is not in evaluation.metrics; add it there"
        elif best in SCALING_METRICS:
            yield ("evaluation", "metric_for_best_model"), f"{best} {NO_JUDGE}"

    def _search_metric_problems(self) -> Problems:
        for name in {**self.search.objectives, **self.search.constraints}:
            block = "objectives" if name in self.search.objectives else "constraints"
            if wrong := unknown_metric(name):
                yield ("search", block, name), wrong
            elif name in SCALING_METRICS:
                yield ("search", block, name), f"{name} {NO_JUDGE}"
            elif self.search.parameters and name not in self.measured():
                yield ("search", block, name), "not measured; add it to evaluation.metrics"
            elif name in METRICS and self.search.objectives.get(name, METRICS[name]) != METRICS[name]:
                yield ("search", block, name), f"expected {METRICS[name]}, the better way for {name}"

    def measured(self) -> set[str]:
        """The metrics that an evaluation gives: those asked for, and the guards where answers are made for any."""
        names = set(self.evaluation.metrics)
        answered = any(is_own(name) or (name in DECLARED and DECLARED[name].of == "prompt") for name in names)
        return names | set(GUARDS) if answered else names

    def _search_parameter_problems(self) -> Problems:
        for key in self.search.parameters:
            if key.startswith("search."):
                yield ("search", "parameters", key), "a search cannot vary its own settings; remove it"
            elif key not in KEYS:
                yield ("search", "parameters", key), f"no such key{nearest(key, KEYS)}"
            elif reason := self._idle_parameter(key):
                yield ("search", "parameters", key), reason

    def _idle_parameter(self, key: str) -> str | None:
        """Why a searched `key` would change nothing, always or beside some values of a searched switch; or None."""
        reasons = [(values, _unused(variant, key)) for values, variant in _variants(self, self._condition(key))]
        idle, used = [v for v, reason in reasons if reason], [v for v, reason in reasons if not reason]
        if not used:
            return reasons[0][1]
        if not idle:
            return None
        wanted = {switch: list(dict.fromkeys(values[switch] for values in used)) for switch in used[0]}
        return f"changes nothing in some of the trials; say when it counts, as in when: {json.dumps(wanted)}"

    def _condition(self, key: str) -> Mapping[str, Sequence[Any]]:
        return self.search.parameters[key].when


def _variants(config: Config, when: Mapping[str, Sequence[Any]]) -> list[tuple[dict[str, Any], Config]]:
    """The config under every combination of its searched switches, those that `when` names at these values alone."""
    parameters = config.search.parameters
    switches = {s: when.get(s, parameters[s].values) for s in SWITCHES if s in parameters}
    combinations = [dict(zip(switches, values, strict=True)) for values in itertools.product(*switches.values())]
    return [(values, _with(config, values)) for values in combinations]


def _with(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with section.key values in place, unchecked."""
    for key, value in values.items():
        section, name = key.split(".")
        part = getattr(config, section).model_copy(update={name: value})
        config = config.model_copy(update={section: part})
    return config


def unknown_metric(name: str) -> str | None:
    """What is wrong with a metric's name, or None: it is declared, or has the form of one of the user's own."""
    if name in METRICS or is_own(name):
        return None
    if ":" in name:
        return f"expected a metric of your own as package.module:function, found {name}"
    return f"no metric named {name}{nearest(name, METRICS)}"


def _leaves(part: type[Part], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in part.model_fields.items():
        kinds = get_args(field.annotation) if isinstance(field.annotation, UnionType) else (field.annotation,)
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Part)), None)
        yield from _leaves(section, f"{prefix}{name}.") if section else [(prefix + name, field)]


KEYS: dict[str, FieldInfo] = dict(_leaves(Config))
"""Every key path of the schema that holds a value, with pydantic's description of it."""

USED_BY: dict[str, tuple[str, ...]] = {
    "training.kto_lambda": ("kto",),
    "training.kto_config.kl_temperature": ("kto",),
    "training.kto_config.kl_penalty_type": ("kto",),
    "training.kto_config.log_kl_components": ("kto",),
    "training.kto_config.lambda_schedule.initial_lambda": ("kto",),
    "training.kto_config.lambda_schedule.final_lambda": ("kto",),
    "training.kto_config.lambda_schedule.schedule_type": ("kto",),
    "training.desirable_weight": ("kto_unpaired",),
    "training.undesirable_weight": ("kto_unpaired",),
    "training.beta": ("dpo", "kto", "kto_unpaired"),
    "training.label_smoothing": ("dpo", "kto"),
}
"""Keys that only some methods read."""

BRANCH_SWITCH = "model.use_phase_attention"
SWITCHES = ("training.method", BRANCH_SWITCH)
"""Keys whose value decides whether others count."""

OF_THE_BRANCH = (
    "model.phase_layer_idx",
    "model.num_oscillators",
    "model.coupling_strength",
    "model.natural_freq",
    "model.dt",
    "model.n_sync_steps",
    "logging.track_phase_dynamics",
    "logging.phase_log_interval",
)
"""Keys that only a phase branch reads."""

MAY_BE_UNUSED = (*USED_BY, "training.num_epochs", "logging.track_phase_dynamics", "logging.phase_log_interval")
"""Keys whose written value another one can leave without effect; `unused` says why."""


OF_PREFERENCES: dict[str, Any] = {"kto_config": {}, "curriculum_learning": {}}
"""What `training` says to the preference stage alone; phase_a takes the defaults."""


def value_at(config: Config, key: str) -> Any:
    """The value at a key path such as "training.beta"; None inside a phase that is not there."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name, None)
    return value


def unused(config: Config, key: str) -> str | None:
    """Why a value at `key` would change nothing in this config or in any trial of its search, or None if it would."""
    reasons = [_unused(variant, key) for _, variant in _variants(config, {})]
    return _unused(config, key) if all(reasons) else None


def _unused(config: Config, key: str) -> str | None:
    method, phases = config.training.method, (config.training.phase_a, config.training.phase_b)
    if key in OF_THE_BRANCH and not config.model.use_phase_attention:
        return f"unused while {BRANCH_SWITCH} is false; set that to true"
    if key == "logging.phase_log_interval" and not config.logging.track_phase_dynamics:
        return "unused while logging.track_phase_dynamics is false; set that to true"
    if method not in USED_BY.get(key, (method,)):
        return f"unused with method {method}; read only by {' and '.join(USED_BY[key])}"
    readers = phases[1:] if key in USED_BY else phases
    if reason := _replaced(config, key):
        return reason
    name = key.removeprefix("training.")
    if name != "method" and all(getattr(phase, name, None) is not None for phase in readers):
        return f"unused: the phases set their own {name}; set training.phase_b.{name}"
    return None


def _replaced(config: Config, key: str) -> str | None:
    """Why a schedule or a curriculum, enabled or not, leaves `key` without effect, or None."""
    training = config.training
    schedule = training.kto_config.lambda_schedule
    if key.startswith("training.kto_config.lambda_schedule.") and not key.endswith(".enabled") and not schedule.enabled:
        return "unused while training.kto_config.lambda_schedule.enabled is false"
    if key == "training.kto_lambda" and schedule.enabled:
        return "unused: training.kto_config.lambda_schedule sets λ; give its initial_lambda and final_lambda"
    owner = "training.phase_b.num_epochs" if training.phase_b is not None else "training.num_epochs"
    if key == owner and training.curriculum_learning.active:
        return "unused: the stages of training.curriculum_learning have their own epochs"
    return None


def stages(config: Config) -> tuple[Config, ...]:
    """The runs that a config asks for, in order: itself, or phase_a (lora) and then phase_b.

    Each stage's values are laid on `training`, of which a λ schedule and a curriculum are phase_b's alone. Of `search`
    only the objectives stay, since its ranges may name the phases.
    """
    training = config.training
    if training.phase_a is None or training.phase_b is None:
        return (config,)
    return _stage(config, training.phase_a, "lora"), _stage(config, training.phase_b, training.method)


def _stage(config: Config, phase: Stage, method: str) -> Config:
    plain = config.dump()
    own = phase.model_dump(exclude_none=True) | {"method": method, "phase_a": None, "phase_b": None}
    if method == "lora":
        own |= OF_PREFERENCES
    search = {"objectives": plain["search"]["objectives"]}
    return Config.model_validate(plain | {"training": plain["training"] | own, "search": search})


def config_hash(config: Config) -> str:
    """sha256 in hex of the config's canonical JSON. Keys keep their order: the first objective decides."""
    return hashlib.sha256(json.dumps(config.dump(), separators=(",", ":")).encode()).hexdigest()
