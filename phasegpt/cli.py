"""python -m phasegpt: what can be done with one model or data file outside a search. Parses first, imports after.

Exit status: 0 done (a data file may have warnings), 2 bad input (a data file has errors).
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phasegpt.evaluation_cli import add_commands

if TYPE_CHECKING:
    from phasegpt.data_checks import Rules

BAD_INPUT = 2
EXAMPLES = """examples:
  python -m phasegpt generate --checkpoint models:/phasegpt-track-b@champion "Why do people keep diaries?"
  python -m phasegpt generate --checkpoint checkpoints/v14/track_b/NAME/trial-003/adapter_model < prompts.txt
  python -m phasegpt evaluate --checkpoint checkpoints/v14/track_b/NAME/trial-003
  python -m phasegpt compare base models:/phasegpt-track-b@champion --out comparison.html
  python -m phasegpt data validate my_pairs.jsonl --config my_track.yaml
  python -m phasegpt data stats trl-lib/ultrafeedback_binarized
"""
SOURCE = "JSON lines, Parquet, or the id of a hub dataset: OWNER/NAME or OWNER/NAME:SPLIT"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m phasegpt", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = p.add_subparsers(dest="command", required=True)
    generate = commands.add_parser("generate", help="answer prompts with a checkpoint")
    generate.add_argument(
        "--checkpoint", required=True, metavar="ADDRESS", help="adapter or run folder, MLflow run id, or models:/…"
    )
    generate.add_argument("--max-new-tokens", type=_count, default=128, metavar="N", help="of an answer (default: 128)")
    generate.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow (default: $MLFLOW_TRACKING_URI, else mlflow.db in the project)"
    )
    generate.add_argument(
        "prompt", nargs="*", metavar="PROMPT", help="prompts; without any, one a line from standard input"
    )
    generate.set_defaults(run=_generate_or_say_why_not)
    add_commands(commands)
    _add_data(commands.add_parser("data", help="check preference data, or count it"))
    return p


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found {text}")
    return int(text)


def _add_data(p: argparse.ArgumentParser) -> None:
    p.set_defaults(run=_data)
    commands = p.add_subparsers(dest="data_command", required=True)
    for name, about in (
        ("validate", "every error and warning of a file"),
        ("stats", "counts, lengths, and how much length and marker words alone tell"),
    ):
        command = commands.add_parser(name, help=about)
        command.add_argument("file", metavar="FILE", help=SOURCE)
        command.add_argument(
            "--config", metavar="FILE", help="take domains, strata, lengths and tokenizer from a track file"
        )
        command.add_argument("--json", action="store_true", help="print one JSON object")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; messages are for people."""
    options = parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


def _data(options: argparse.Namespace) -> int:
    from phasegpt.config_errors import ConfigError
    from phasegpt.pairs import PairsError

    try:
        return _validate(options) if options.data_command == "validate" else _stats(options)
    except (ConfigError, PairsError) as error:
        print(error, file=sys.stderr)
        return BAD_INPUT


def _validate(options: argparse.Namespace) -> int:
    from phasegpt.data_report import check_file

    report = check_file(options.file, _rules(options.config))
    print(json.dumps(report.as_dict(), indent=1) if options.json else report.as_text())
    return BAD_INPUT if report.errors else 0


def _stats(options: argparse.Namespace) -> int:
    from phasegpt.data_statistics import as_text, data_statistics

    numbers = data_statistics(options.file, _rules(options.config))
    print(json.dumps(numbers, indent=1) if options.json else as_text(numbers))
    return 0


def _rules(config: str | None) -> "Rules":
    from phasegpt.config_io import load_config
    from phasegpt.data_checks import Rules

    return Rules.of(load_config(config)) if config else Rules()


def _generate_or_say_why_not(options: argparse.Namespace) -> int:
    from phasegpt.base_model import ModelError

    try:
        return _generate(options)
    except (ModelError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return BAD_INPUT


def _generate(options: argparse.Namespace) -> int:
    from phasegpt.checkpoints import answers

    prompts = options.prompt or [line.strip() for line in sys.stdin if line.strip()]
    with tempfile.TemporaryDirectory() as folder:
        texts = answers(options.checkpoint, prompts, options.max_new_tokens, Path(folder), options.tracking_uri)
    for prompt, text in zip(prompts, texts, strict=True):
        print(f"> {prompt}\n{text}\n")
    return 0
