"""python -m phasegpt evaluate and compare: their options, and what happens to them. Imports torch after parsing."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phasegpt.blind_cli import add_blind_options, misused, take_votes, tell_votes

if TYPE_CHECKING:
    from phasegpt.judged import Judged
    from phasegpt.terms import Terms

DONE, BAD_INPUT = 0, 2
ADDRESS = "adapter or run folder, MLflow run id, models:/NAME@ALIAS, models:/NAME/VERSION, base, or a base model's name"
EVALUATE_EXAMPLES = """examples:
  python -m phasegpt evaluate --checkpoint checkpoints/v14/track_b/NAME/trial-003
  python -m phasegpt evaluate --checkpoint models:/phasegpt-track-b@champion --half search --json
  python -m phasegpt evaluate --checkpoint base --config configs/v14/kto_regularized.yaml --profile laptop
"""
COMPARE_EXAMPLES = """examples:
  python -m phasegpt compare base models:/phasegpt-track-b@champion --out comparison.html
  python -m phasegpt compare checkpoints/v14/track_b/NAME/trial-000 checkpoints/v14/track_b/NAME/trial-003 --half search
  python -m phasegpt compare base models:/phasegpt-track-b@champion --blind     judge the answers yourself, in a browser
  python -m phasegpt compare models:/phasegpt-track-b/1 models:/phasegpt-track-b/2 --blind --seed 7 --out judge.html
  python -m phasegpt compare --votes results/v14/blind/0123456789ab.jsonl       what the votes in a file say
"""


def add_commands(commands: Any) -> None:
    """Add `evaluate` and `compare` to the subparsers of `python -m phasegpt`."""
    one = _command(commands, "evaluate", "run the evaluation suite on a checkpoint", EVALUATE_EXAMPLES)
    one.add_argument("--checkpoint", required=True, metavar="ADDRESS", help=ADDRESS)
    one.add_argument("--out", metavar="FILE", help="write the JSON there, with a row for each prompt and pair")
    one.set_defaults(run=evaluate)
    two = _command(commands, "compare", "two checkpoints on the same prompts, side by side", COMPARE_EXAMPLES)
    two.add_argument("a", nargs="?", metavar="A", help=ADDRESS)
    two.add_argument("b", nargs="?", metavar="B", help="the same; differences are B − A")
    two.add_argument("--out", metavar="FILE.html", help="write a page with the answers side by side")
    add_blind_options(two)
    two.set_defaults(run=compare)


def _command(commands: Any, name: str, about: str, examples: str) -> argparse.ArgumentParser:
    p: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=f"{about.capitalize()}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--half", choices=("search", "final"), default="final", help="of the prompts (default: final)")
    p.add_argument("--config", type=Path, metavar="FILE", help="the suite's config (default: the checkpoint's own)")
    p.add_argument("--profile", choices=("laptop", "gpu"), help="laid on the config")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets", help="override any key")
    p.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow (default: $MLFLOW_TRACKING_URI, else mlflow.db in the project)"
    )
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def evaluate(options: argparse.Namespace) -> int:
    """`evaluate`: 0, or 2 with one message."""
    return _or_say_why_not(_evaluate, options)


def compare(options: argparse.Namespace) -> int:
    """`compare`: 0, or 2 with one message."""
    wrong = misused(options)
    if wrong:
        sys.stderr.write(f"{wrong}\n")
        return BAD_INPUT
    return _or_say_why_not(_compare if options.a else tell_votes, options)


def _or_say_why_not(run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    from phasegpt.base_model import ModelError
    from phasegpt.blind import BlindError
    from phasegpt.config_errors import ConfigError
    from phasegpt.curriculum import CurriculumError
    from phasegpt.files import DamagedError
    from phasegpt.metrics.own import OwnMetricError
    from phasegpt.pairs import PairsError
    from phasegpt.parts import RunError
    from phasegpt.phase_state import PhaseAttentionError
    from phasegpt.terms import TermsError
    from phasegpt.texts import TextError

    of_input = (BlindError, ConfigError, DamagedError, ModelError, OSError, OwnMetricError, PairsError, TermsError)
    of_running = (CurriculumError, PhaseAttentionError, RunError, TextError)
    try:
        return run(options)
    except (*of_input, *of_running) as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT


def _evaluate(options: argparse.Namespace) -> int:
    from phasegpt.evaluation_report import as_json, evaluation_dict, evaluation_text

    terms, (judged,) = _judge([options.checkpoint], options, use_stored=False)
    found = evaluation_dict(judged, terms)
    if options.out:
        _write(options.out, as_json(found))
    sys.stdout.write(as_json(found) if options.json else evaluation_text(judged, terms))
    return DONE


def _compare(options: argparse.Namespace) -> int:
    from phasegpt.compare import compare as side_by_side
    from phasegpt.compare_page import page
    from phasegpt.evaluation_report import as_json, comparison_text, stored_notes

    terms, (a, b) = _judge([options.a, options.b], options, use_stored=True)
    notes = [*terms.notes, *stored_notes([a, b])]
    comparison = side_by_side(a, b, terms.half, notes, options.seed if options.blind else None)
    if options.blind and not options.out:
        return take_votes(comparison, options)
    if options.out:
        _write(options.out, page(comparison, blind=options.blind))
    sys.stdout.write(
        as_json(comparison.as_dict()) if options.json else comparison_text(comparison, blind=options.blind)
    )
    return DONE


def _judge(addresses: Sequence[str], options: argparse.Namespace, *, use_stored: bool) -> "tuple[Terms, list[Judged]]":
    from phasegpt.checkpoints import locate
    from phasegpt.judging import judge
    from phasegpt.parts import Workbench
    from phasegpt.terms import terms_for

    with tempfile.TemporaryDirectory() as folder:
        work, bench = Path(folder), Workbench()
        sys.stderr.write(f"opening {' and '.join(addresses)}\n")
        found = [locate(address, work / str(place), options.tracking_uri) for place, address in enumerate(addresses)]
        terms = terms_for(found, options.half, options.config, options.profile, options.sets)
        return terms, [judge(one, terms, work, bench, _progress, use_stored=use_stored) for one in found]


def _progress(what: str, done: int, total: int) -> None:
    sys.stderr.write(f"\r{what} {done}/{total}" + ("\n" if done == total else ""))
    sys.stderr.flush()


def _write(path: str, text: str) -> None:
    from phasegpt.files import write_text

    write_text(Path(path), text)
