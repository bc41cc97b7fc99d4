"""python train.py --config FILE: one run of one config, with the seed's own options.

Writes checkpoints/, experiments/ and results/ as the seed lays them out, and one MLflow run. Exit status: 0 the run
ended, 2 bad input, 3 the run failed, 130 interrupted.
"""

import argparse
import logging
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phasegpt.interrupts import run, terminable
from tune.capacity import Ask, add_options, shared_by, slots

if TYPE_CHECKING:
    from phasegpt.config import Config
    from phasegpt.evaluate import Evaluation
    from phasegpt.runs import RunPaths, RunResult
    from tune.run_record import RunRecord

DONE, BAD_INPUT, FAILED, INTERRUPTED = 0, 2, 3, 130

EXAMPLES = """examples:
  python train.py --config configs/v14/dpo_extended_100pairs.yaml
  python train.py --config configs/v14/kto_regularized.yaml --kto_lambda 0.05
  python train.py --config configs/v14/dpo_extended_100pairs.yaml --lr 5e-5 --set training.max_steps=20
  python train.py --config configs/v14/qwen25_1.5b.yaml --num-workers 2
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python train.py",
        description="Train one config: metrics, per-prompt rows and a checkpoint out.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--config", required=True, metavar="FILE", help="a YAML file as under configs/v14/")
    p.add_argument("--lr", metavar="X", help="training.learning_rate")
    p.add_argument("--beta", metavar="X", help="training.beta; lower moves further from the reference")
    weight = p.add_mutually_exclusive_group()
    weight.add_argument("--lambda", dest="kto_lambda", metavar="X", help="training.kto_lambda; higher is more careful")
    weight.add_argument("--kto_lambda", dest="kto_lambda", metavar="X", help="the same")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets", help="override any key")
    p.add_argument("--num-workers", type=int, metavar="N", help="workers that share the run, each with batch_size rows")
    add_options(p)
    p.add_argument("--address", metavar="ADDR", help="a running Ray cluster for the workers (default: one of our own)")
    p.add_argument("--profile", default="auto", choices=("auto", "laptop", "gpu", "none"), help="default: auto")
    p.add_argument("--name", help="name of the run (default: experiment.name and the time)")
    p.add_argument("--storage", metavar="FOLDER", help="where everything is written (default: the project)")
    p.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow (default: $MLFLOW_TRACKING_URI, else mlflow.db in the project)"
    )
    p.add_argument("--plan", action="store_true", help="print what would run and start nothing")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, run; every message is for people."""
    options = parser().parse_args(argv)
    from phasegpt.base_model import ModelError
    from phasegpt.config_errors import ConfigError
    from phasegpt.files import DamagedError
    from tune.request import RequestError
    from tune.spool import TrackingError

    given = [*(sys.argv[1:] if argv is None else argv), *(() if options.name else ("--name",))]
    try:
        with terminable():
            return _main(options)
    except (ConfigError, RequestError, ModelError, TrackingError, DamagedError) as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(_how_to_go_on(given, options.name), file=sys.stderr)
        return INTERRUPTED


def _how_to_go_on(given: Sequence[str], name: str | None) -> str:
    """The command again, with the name of the run where it was not given; `given` then ends with --name."""
    from phasegpt.credentials import without_credentials

    if name is None:
        return "interrupted before the run began; nothing is lost"
    words = map(without_credentials, [*given, name] if given[-1] == "--name" else given)
    return f"Stopped. It goes on from its newest checkpoint:\n  {shlex.join(['python', 'train.py', *words])}"


def overrides(options: argparse.Namespace) -> list[str | tuple[str, Any, str]]:
    """The options as `key=value`, typed by the same rules as the file."""
    short = {"training.learning_rate": options.lr, "training.beta": options.beta}
    short["training.kto_lambda"] = options.kto_lambda
    laid = [*options.sets, *(f"{key}={value}" for key, value in short.items() if value is not None)]
    return [*laid, *shared_by(options.num_workers, "--num-workers")]


def _main(options: argparse.Namespace) -> int:
    from phasegpt.base_model import resolve_base
    from phasegpt.config_io import load_tree, project_root
    from phasegpt.object_store import is_address
    from tune.machine import has_gpu
    from tune.request import RequestError, check_data, choose_profile, is_own_file, storage_folder
    from tune.wandb_sink import require_wandb

    if is_address(options.storage or ""):
        raise RequestError("--storage: a single run writes to a folder; a search (tune.search) can write to a store")
    profile, reason = choose_profile(options.profile, has_gpu(), own=is_own_file(options.config))
    tree = load_tree(options.config, profile, overrides(options))
    config = tree.typed()
    ask = Ask.of(config.training.distributed.workers, options)
    check_data(config)
    if config.logging.use_wandb:
        require_wandb()
    for line in (reason, *tree.warnings()):
        print(line, file=sys.stderr)
    if options.plan:
        print(_plan_text(config))
        return DONE
    resolve_base(config.model.base_model, project_root())
    name = options.name = _name(options.name, config.experiment.name or Path(options.config).stem)
    storage = storage_folder(options.storage)
    config = _with_fetched(config, storage, options.tracking_uri)
    return _run(config, name, storage, options.tracking_uri, ask, options.address)


def _name(asked: str | None, of: str) -> str:
    """The name of the run: as asked, else `of` and the time. It names files, so that it holds no slash."""
    from tune.request import NAME, RequestError

    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", of).lstrip("._-")[:60] or "run"
    name = asked or f"{plain}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not NAME.fullmatch(name):
        raise RequestError(f"--name {name!r:.100}: expected letters, digits, dot, dash and underscore, at most 80")
    return name


def _with_fetched(config: "Config", storage: Path, uri: str | None) -> "Config":
    """The config with models from the registry fetched and named by version, and a line that says so of each."""
    from phasegpt.checkpoints import with_fetched_models
    from phasegpt.config import value_at
    from phasegpt.config_io import project_root
    from phasegpt.config_sections import BASELINE, REFERENCE
    from phasegpt.mlflow_client import tracking_uri
    from phasegpt.runs import references_of, shared_work_of

    work = references_of(shared_work_of(storage))
    fetched = with_fetched_models(config, work, tracking_uri(project_root(), uri))
    for key in (REFERENCE, BASELINE):
        if value_at(fetched, key) != value_at(config, key):
            print(f"{key} is {value_at(fetched, key)}", file=sys.stderr)
    return fetched


def track_of(config: "Config") -> str:
    """The track whose folder a run belongs to: c in two stages, b with λ, else a."""
    if config.training.phase_a is not None:
        return "c"
    return "b" if config.training.method == "kto" else "a"


def _plan_text(config: "Config") -> str:
    from phasegpt.config import config_hash, stages

    runs = [f"{stage.training.method} for {stage.training.max_steps or 'all'} steps" for stage in stages(config)]
    what = f"one run on {config.model.base_model}: {', then '.join(runs)}"
    return f"{what}; config {config_hash(config)[:12]}{_memory_text(config)}. Nothing was started."


def _memory_text(config: "Config") -> str:
    """What a run on preferences needs of memory; a text is not counted."""
    from phasegpt.answers import preferences_of, split_of
    from phasegpt.config_sections import is_text
    from tune.plan import memory_of, memory_text
    from tune.shapes import shape_of

    shape = shape_of(config)
    if shape is None or is_text(config.training.preference_dataset):
        return ""
    split = split_of(preferences_of(config), config)
    return f"; memory {memory_text(config, memory_of(config, shape, split))}"


def _run(config: "Config", name: str, storage: Path, uri: str | None, ask: Ask, address: str | None) -> int:
    from phasegpt.config_io import project_root
    from phasegpt.logs import log_to
    from phasegpt.mlflow_client import tracking_uri
    from phasegpt.runs import run_paths
    from tune.machine_load import MachineLoad
    from tune.request import RequestError
    from tune.run_record import RunRecord
    from tune.spool import SPOOL
    from tune.sync import unsent
    from tune.tracking import Tracker

    track = track_of(config)
    paths = run_paths(storage, track, name, config.logging.output_dir)
    spool = paths.log.with_suffix("") / SPOOL
    tracker = Tracker(tracking_uri(project_root(), uri), config.logging.wandb_project, spool)
    record = RunRecord(tracker, config, track, paths)
    logging.getLogger("phasegpt").propagate = False
    try:
        with MachineLoad(tracker, name, spool):
            result = _fit(config, paths, record, ask, address)
        record.end("complete")
    except KeyboardInterrupt:
        record.end("interrupted")
        raise
    except RequestError as error:
        record.end("failed", str(error))
        raise
    except (ArithmeticError, ValueError, RuntimeError, OSError) as error:
        with log_to(paths.log):
            logging.getLogger("phasegpt").exception("the run failed")
        record.end("failed", f"{type(error).__name__}: {error}")
        print(f"{_why(error)}\nThe log is {paths.log}", file=sys.stderr)
        return FAILED
    finally:
        if waiting := tracker.close(60):
            print(unsent(waiting, tracker.trouble, spool.parent), file=sys.stderr)
    _say(result, paths)
    return DONE


def _why(error: Exception) -> str:
    """What went wrong; of a worker with its traceback, which is written nowhere else."""
    trace = getattr(error, "trace", "")
    return f"{trace}{error}" if trace else f"{type(error).__name__}: {error}"


def _fit(config: "Config", paths: "RunPaths", record: "RunRecord", ask: Ask, address: str | None) -> "RunResult":
    def on_step(step: int, values: Mapping[str, float]) -> None:
        record.step(step, values)
        shown = {key: value for key, value in values.items() if key in ("loss", "phase_a/loss")}
        print(f"step {step}  {_numbers(shown)}", file=sys.stderr)

    def on_evaluation(evaluation: "Evaluation", _: Path) -> None:
        record.evaluation(evaluation)
        print(f"step {evaluation.step}  {_numbers(evaluation.summary)}", file=sys.stderr)

    def on_progress(what: str, done: int, total: int) -> None:
        print(f"\r{what} {done}/{total}", end="\n" if done == total else "", file=sys.stderr)

    if ask.workers == 1:
        from phasegpt.train import fit

        return fit(config, on_evaluation, paths=paths, on_step=on_step, on_progress=on_progress)
    from tune import environment

    environment.prepare(own_cluster=address is None)
    from phasegpt.workers import fit_on_workers
    from tune.run import cluster, crew

    with cluster(address, dashboard=True) as nodes:
        hands = crew(slots(nodes, ask, max_concurrent=1), ask)
        return fit_on_workers(config, on_evaluation, paths=paths, crew=hands, on_step=on_step, on_progress=on_progress)


def _say(result: "RunResult", paths: "RunPaths") -> None:
    print(f"{result.name}: {_numbers(result.metrics)}")
    print(f"  adapter  {paths.adapter}\n  results  {paths.results}\n  log      {paths.log}")


def _numbers(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in sorted(values.items()))


if __name__ == "__main__":
    run(main)
