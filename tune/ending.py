"""The last words of a search on the terminal: the winner, its gain, the champion, and where to look further."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phasegpt.config_io import project_root
from phasegpt.credentials import without_credentials
from phasegpt.metrics.declared import GUARDS
from phasegpt.mirror import address_of
from phasegpt.mlflow_client import tracking_uri
from phasegpt.statistics import Gain
from tune.console import number, short_name
from tune.finalists import OWN
from tune.jobs import trial_name
from tune.request import Request

MADE_FOR = Path(__file__).resolve().parents[1]
"""Where `make` finds the Makefile; its `ui` shows the mlflow.db beside it."""


def ending(request: Request, report: Mapping[str, Any], uri: str) -> str:
    """The text; the same facts as in `--json`. `uri` is the MLflow that the search was recorded in."""
    winner = report["winner"]
    if winner is None:
        return f"No trial came to a result; the log tells why: {request.places.log}"
    lines = ["", f"Winner: {winner['trial']} with {_values(winner['params'])}", f"  {report['verdict']}"]
    lines += _over_untuned(report["finalists"][0]) + _table(report)
    champion = report["champion"] or {}
    if champion:
        seat = "is now champion" if champion.get("promoted") else "was not promoted"
        lines.append(
            f"Champion: {champion.get('model')} version {champion.get('version')} {seat}: {champion.get('reason')}"
        )
    lines += [
        "Look further:",
        f"  {browse(uri, Path.cwd())}",
        f"  python -m tune.report {request.name}{_stored(request)} --open   all of it as one page",
        f"  python -m tune.insight {request.name}{_stored(request)}   which parameters mattered, what would come next",
        f"  python -m tune.registry show --track {request.track}{_recorded(uri)}",
        f"  {request.places.summary}",
    ]
    return "\n".join(lines)


def browse(uri: str, here: Path) -> str:
    """How the runs recorded at `uri` are looked at by who stands in the folder `here`; never shows a password."""
    if uri == f"sqlite:///{MADE_FOR}/mlflow.db" and here.resolve() == MADE_FOR:
        return "make ui   browse the runs on http://127.0.0.1:5000"
    shown = without_credentials(uri)
    if "://" not in uri or uri.startswith("http"):
        return f"{shown}   browse the runs"
    words = f"mlflow ui --backend-store-uri {shlex.quote(shown)} --host 127.0.0.1"
    return words + ("   browse the runs" if shown == uri else "   browse the runs; put its user and password in again")


def _stored(request: Request) -> str:
    """The option by which other commands find the search; empty where they look there by themselves."""
    storage = request.places.storage
    return "" if storage == project_root() else f" --storage {shlex.quote(address_of(storage))}"


def _recorded(uri: str) -> str:
    """The option by which other commands find the registry; empty where they look there by themselves."""
    default = tracking_uri(project_root())
    return "" if uri == default else f" --tracking-uri {shlex.quote(without_credentials(uri))}"


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{short_name(key)} = {number(value)}" for key, value in values.items())


def _over_untuned(winner: Mapping[str, Any]) -> list[str]:
    found = winner["over_baseline"]
    return [f"  over the untuned model: {Gain.from_dict(found)}"] if found else []


def _table(report: Mapping[str, Any]) -> list[str]:
    names = list(report["objectives"])
    lines = ["  On the final half of the prompts, means over fresh seeds:"]
    if report["baseline_final"]:
        scores = report["baseline_final"]["metrics"]
        lines.append(f"    {'untuned model':16} " + _scores(scores, names))
    for finalist in report["finalists"]:
        own = " (the config's own values)" if finalist["trial"] == trial_name(OWN) else ""
        interval = finalist["interval"]
        span = f"  {names[0]} interval [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
        scores = _scores(finalist["metrics"], names)
        lines.append(f"    {finalist['trial']:16} {scores}{span}{_chances(finalist)}{own}")
    return lines


def _chances(finalist: Mapping[str, Any]) -> str:
    over = finalist["over_defaults"]
    better = "" if over is None else f"  P(better than the config's) {over['p_positive']:.2f}"
    return better + ("" if finalist.get("p_best") is None else f"  P(best) {finalist['p_best']:.2f}")


def _scores(metrics: Mapping[str, float], names: list[str]) -> str:
    """The objectives, and what would tell that the text behind them is broken."""
    shown = [*names, *(guard for guard in GUARDS if guard in metrics and guard not in names)]
    return "  ".join(f"{name} {metrics[name]:.3f}" if name in metrics else f"{name} -" for name in shown)
