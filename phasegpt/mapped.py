"""A safetensors file of one large matrix, filled row after row: it is never whole in memory."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DTYPES = {torch.float32: ("F32", np.float32), torch.float64: ("F64", np.float64)}


class MappedRows:
    """A matrix [rows, width] called `name`, whose memory is the safetensors file at `path`; without a path, nothing.

    Its room on the disk is taken at once: a map that ran out of disk later would kill the process. Raises OSError
    where there is none.
    """

    def __init__(self, path: Path | None, name: str, rows: int, width: int, dtype: torch.dtype) -> None:
        self.filled = 0
        self.matrix = None if path is None else _new_matrix(path, name, rows, width, dtype)

    def append(self, rows: Tensor) -> None:
        """Fill the next rows, in the file's own precision."""
        if self.matrix is not None:
            self.matrix[self.filled : self.filled + len(rows)] = rows.to("cpu", self.matrix.dtype)
            self.filled += len(rows)


def _new_matrix(path: Path, name: str, rows: int, width: int, dtype: torch.dtype) -> Tensor:
    code, kind = DTYPES[dtype]
    size = rows * width * np.dtype(kind).itemsize
    header = json.dumps({name: {"dtype": code, "shape": [rows, width], "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)  # the numbers begin at a multiple of their own size
    with path.open("wb") as handle:
        handle.write(len(header).to_bytes(8, "little") + header)
        handle.flush()
        os.posix_fallocate(handle.fileno(), handle.tell(), size)
    return torch.from_numpy(np.memmap(path, kind, "r+", 8 + len(header), (rows, width)))
