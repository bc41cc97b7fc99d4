"""The last words of a search on the terminal: the winner, its gain, the champion, and where to look further."""

from collections.abc import Mapping
from typing import Any

from phasegpt.metrics.declared import GUARDS
from phasegpt.statistics import Gain
from tune.console import number, short_name
from tune.request import Request


def ending(request: Request, report: Mapping[str, Any]) -> str:
    """The text; the same facts as in `--json`."""
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
        "  make ui                                            browse the runs on http://127.0.0.1:5000",
        f"  python -m tune.report {request.name} --open   all of it as one page",
        f"  python -m tune.insight {request.name}   which parameters mattered, and what would come next",
        f"  python -m tune.registry show --track {request.track}",
        f"  {request.places.summary}",
    ]
    return "\n".join(lines)


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
        own = " (the config's own values)" if finalist["trial"] == "trial-000" else ""
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
