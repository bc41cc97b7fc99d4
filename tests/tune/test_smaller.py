"""What counts as running out of memory, and the smaller bites a job takes then."""

from pathlib import Path

import pytest
import torch

from phasegpt.config_io import load_config, track_config
from tune.smaller import begin_smaller, chosen_before, out_of_memory, remark, smaller


def test_an_allocation_that_fails_is_told_by_what_torch_says_of_it() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("the loss became nan at step 3"))


def test_the_optimizer_step_keeps_its_examples() -> None:
    config = load_config(track_config("b"), None)
    assert (config.training.batch_size, config.training.gradient_accumulation_steps) == (4, 8)
    assert smaller(config) == {"training.batch_size": 2, "training.gradient_accumulation_steps": 16}


@pytest.mark.parametrize(
    "sets",
    [
        ["training.batch_size=1"],
        ["training.batch_size=3"],
        ["training.method=kto_unpaired", "training.gradient_accumulation_steps=1"],
    ],
)
def test_what_cannot_be_halved_is_left_as_it_is(sets: list[str]) -> None:
    assert smaller(load_config(track_config("a"), "laptop", sets)) is None


def test_the_choice_is_found_again_in_the_emptied_folder(tmp_path: Path) -> None:
    folder = tmp_path / "trial-003"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    assert chosen_before(folder) == {}
    values = {"training.batch_size": 2, "training.gradient_accumulation_steps": 16}
    begin_smaller(folder, values)
    assert chosen_before(folder) == values
    assert [path.name for path in folder.iterdir()] == ["smaller.json"]
    assert remark(values) == "oom: ran again with training.batch_size 2 and training.gradient_accumulation_steps 16"
