"""What stays warm between trials stays what it is: the base is one mapped copy, and memory does not grow."""

import re
from pathlib import Path

import pytest
import torch

from phasegpt.config_io import load_config, track_config
from phasegpt.models import load_base
from phasegpt.parts import Workbench
from phasegpt.runs import run_paths
from phasegpt.train import fit

pytestmark = pytest.mark.usefixtures("one_thread")


def mapped_ranges(file: Path) -> list[range]:
    """The addresses at which a file is mapped into this process."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    found = [re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line) for line in lines if line.endswith(str(file))]
    return [range(int(match[1], 16), int(match[2], 16)) for match in found if match]


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096 / 2**20


def test_the_base_weights_are_read_where_the_file_is_mapped(toy_model_dir: Path) -> None:
    base = load_base(str(toy_model_dir), Path("/"))
    ranges = mapped_ranges(toy_model_dir / "model.safetensors")
    apart = [name for name, p in base.model.named_parameters() if not any(p.data_ptr() in part for part in ranges)]
    assert ranges
    assert apart == []


@pytest.mark.slow
def test_a_hundred_trials_leave_the_base_bit_equal_and_need_no_more_memory(toy_sets: list[str], tmp_path: Path) -> None:
    bench = Workbench()
    grown: list[float] = []
    before: dict[str, torch.Tensor] = {}
    for trial in range(100):
        more = (f"experiment.seed={trial}", f"model.lora_config.r={4 + trial % 3}", "training.max_steps=1")
        config = load_config(track_config("b"), "laptop", [*toy_sets, *more])
        fit(config, paths=run_paths(tmp_path, "b", f"trial-{trial}"), workbench=bench)
        state = bench.base(config).model.state_dict()
        before = before or {name: value.clone() for name, value in state.items()}
        assert all(torch.equal(value, before[name]) for name, value in state.items())
        grown.append(resident_mib())
    assert grown[-1] - grown[20] < 16, "MiB, once everything has been used"
