"""Metrics of the user's own, named `package.module:function` in `evaluation.metrics`.

The function takes an answer, or a prompt and an answer, and returns a number. It may carry what it declares as
attributes: `direction` ("max" or "min"), `range` (a pair of numbers) and `unit` (a text). It is imported in a run and
never while a config is read; only names that the user wrote into the config are imported, data never names code.
"""

import importlib
import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from phasegpt.config_errors import found_text, nearest
from phasegpt.config_io import project_root
from phasegpt.files import file_sha256
from phasegpt.metrics.declared import Direction


class OwnMetricError(ValueError):
    """A metric of the user's own that cannot be had or gave no number; the message names it and the cure."""


@dataclass(frozen=True)
class OwnMetric:
    """A user's function with what it declares. `better` is None where neither it nor search.objectives says it."""

    name: str
    function: Callable[..., Any]
    takes_prompt: bool
    better: Direction | None = None
    low: float = -math.inf
    high: float = math.inf
    unit: str = ""

    def score(self, prompt_id: str, prompt: str, answer: str) -> float:
        """The value of one answer. Where the function raises or gives no such number, the error names the prompt."""
        where = f"{self.name} on prompt {prompt_id}"
        try:
            value = self.function(prompt, answer) if self.takes_prompt else self.function(answer)
        except Exception as error:
            raise OwnMetricError(
                f"{where}: {type(error).__name__}: {error}; make the function cope with every answer, an empty one too"
            ) from error
        number = float(value) if isinstance(value, Real) else math.nan
        if not math.isfinite(number):
            raise OwnMetricError(f"{where}: expected a finite number, found {found_text(value)}; return a float")
        if not self.low <= number <= self.high:
            raise OwnMetricError(
                f"{where}: {number:g} is outside its declared range {self.low:g} to {self.high:g}; "
                f"correct the function or its attribute range"
            )
        return number


def load_own(name: str, better: Direction | None = None) -> OwnMetric:
    """Import the function that `name` names; `better` is its direction in search.objectives, if it is one.

    Modules are looked for where Python looks for them, then in the folder the process runs in, then in the project.
    """
    module, _, attribute = name.partition(":")
    home = _import(name, module)
    function = getattr(home, attribute, None)
    if not callable(function):
        hint = nearest(attribute, (key for key, value in vars(home).items() if callable(value)))
        raise OwnMetricError(f"{name}: {module} has no function {attribute}{hint}")
    low, high = _range(name, function)
    return OwnMetric(
        name=name,
        function=function,
        takes_prompt=_arguments(name, function) == 2,
        better=_better(name, function, better),
        low=low,
        high=high,
        unit=str(getattr(function, "unit", "")),
    )


def code_hash(name: str) -> str:
    """A hash of the file that a metric's module lies in; what that imports is not looked at."""
    file = getattr(_import(name, name.partition(":")[0]), "__file__", None)
    return file_sha256(Path(file)) if file else ""


def _import(name: str, module: str) -> Any:
    for place in (str(Path.cwd()), str(project_root())):
        if place not in sys.path:
            sys.path.append(place)  # last, so that nothing there hides an installed package
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise OwnMetricError(
                f"{name}: there is no module {error.name}; install it, put its folder on PYTHONPATH (on every machine "
                f"of a cluster), or start from that folder"
            ) from error
        raise OwnMetricError(f"{name}: {module} needs the module {error.name}, which is not installed") from error
    except Exception as error:
        raise OwnMetricError(f"{name}: {module} cannot be imported: {type(error).__name__}: {error}") from error


def _arguments(name: str, function: Callable[..., Any]) -> int:
    """How many arguments the function needs, 1 or 2; what has a default does not count."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError) as error:
        raise OwnMetricError(f"{name}: its arguments cannot be read; wrap it in a function of your own") from error
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) not in (1, 2) or any(p.kind is p.KEYWORD_ONLY for p in needed):
        raise OwnMetricError(
            f"{name}: expected a function of (text) or of (prompt, text), "
            f"found ({', '.join(p.name for p in needed)}) without a default"
        )
    return len(needed)


def _better(name: str, function: Callable[..., Any], searched: Direction | None) -> Direction | None:
    own = getattr(function, "direction", None)
    if own not in (None, "max", "min"):
        raise OwnMetricError(f"{name}: expected its attribute direction to be 'max' or 'min', found {found_text(own)}")
    if own and searched and own != searched:
        raise OwnMetricError(
            f"{name}: search.objectives says {searched}, its attribute direction {own}; make them agree"
        )
    return own or searched


def _range(name: str, function: Callable[..., Any]) -> tuple[float, float]:
    given = getattr(function, "range", (-math.inf, math.inf))
    fits = isinstance(given, tuple | list) and len(given) == 2 and all(isinstance(value, Real) for value in given)
    if not fits or not given[0] < given[1]:
        raise OwnMetricError(f"{name}: expected its attribute range to be (low, high) with low < high, found {given!r}")
    return float(given[0]), float(given[1])
