"""python -m phasegpt: what can be done with one model outside a search. Parses first, imports torch after."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

BAD_INPUT = 2
EXAMPLES = """examples:
  python -m phasegpt generate --checkpoint models:/phasegpt-track-b@champion "Why do people keep diaries?"
  python -m phasegpt generate --checkpoint checkpoints/v14/track_b/NAME/trial-003/adapter_model < prompts.txt
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m phasegpt", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = p.add_subparsers(dest="command", required=True)
    generate = commands.add_parser("generate", help="answer prompts with a checkpoint")
    generate.add_argument(
        "--checkpoint", required=True, metavar="DIR|models:/…", help="an adapter folder or a registry address"
    )
    generate.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="longest answer (default: 128)")
    generate.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow of a registry address (default: mlflow.db here)"
    )
    generate.add_argument(
        "prompt", nargs="*", metavar="PROMPT", help="prompts; without any, one a line from standard input"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; messages are for people."""
    options = parser().parse_args(argv)
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
