"""A matrix filled row after row is a safetensors file that any reader opens."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from phasegpt.mapped import MappedRows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_were_appended_are_in_the_file(tmp_path: Path, dtype: torch.dtype) -> None:
    rows = torch.randn(5, 3, dtype=torch.float64)
    matrix = MappedRows(tmp_path / "x.safetensors", "states", 5, 3, dtype)
    for part in rows.split([2, 2, 1]):
        matrix.append(part)
    [(name, found)] = load_file(tmp_path / "x.safetensors").items()
    assert name == "states"
    assert torch.equal(found, rows.to(dtype))


def test_without_a_path_rows_go_nowhere(tmp_path: Path) -> None:
    MappedRows(None, "states", 5, 3, torch.float32).append(torch.zeros(2, 3))
    assert list(tmp_path.iterdir()) == []
