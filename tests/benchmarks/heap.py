"""What a warm process keeps of the memory that its jobs have freed, and that giving it back costs nothing.

Four fits of two steps on SmolLM2-135M (supervised, 8 answers a step, adapters on all layers), one after another, each
in a thread that lives on, as Ray's do; each figure is the memory after a fit that no file backs. The shared work of all
fits is made in the first, whose seconds therefore are left out.

    python tests/benchmarks/heap.py              # nine quiet minutes on two cores
"""

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from memory import anonymous

from phasegpt.config_io import load_tree
from phasegpt.parts import Workbench
from phasegpt.runs import run_paths
from phasegpt.train import fit
from tune.heap import give_back

FITS = 4
CONFIG = Path("configs/results/smollm2_imitation.yaml")
SHORT = (
    *("training.max_steps=2", "training.num_epochs=1", "evaluation.eval_interval=2"),
    *("evaluation.max_prompts=2", "evaluation.max_new_tokens=2", "evaluation.metrics=[eval_loss]"),
    *("evaluation.metric_for_best_model=eval_loss", "search.objectives={eval_loss: min}"),
    *("search.constraints={}", "search.parameters={}"),
)


def fits(gives_back: bool, storage: Path) -> None:
    """Run the fits and print a line after each."""
    config, bench, over = load_tree(CONFIG, None, list(SHORT)).typed(), Workbench(), threading.Event()

    def run(number: int, told: list[str], ended: threading.Event) -> None:
        try:
            if gives_back:
                give_back()
            begun = time.monotonic()
            fit(config, paths=run_paths(storage, "a", f"heap/fit-{number}"), workbench=bench)
            seconds = f", {time.monotonic() - begun:.0f} s" if number else ""
            told.append(f"  after fit {number}: {anonymous() / 1024:.1f} GiB{seconds}")
        finally:
            ended.set()
        over.wait()

    for number in range(FITS):
        told, ended = list[str](), threading.Event()
        threading.Thread(target=run, args=(number, told, ended), daemon=True).start()
        ended.wait()
        if not told:
            raise SystemExit(1)  # the thread has said why
        print(told[0], flush=True)


def main() -> None:
    """Both ways, each in a process of its own."""
    if len(sys.argv) > 1:
        fits(sys.argv[1] == "given_back", Path(sys.argv[2]))
        return
    for way in ("given_back", "kept"):
        print(way, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, __file__, way, folder], check=True)


if __name__ == "__main__":
    main()
