"""The same numbers again on a GPU: which kernels torch may take there. A CPU needs nothing of it.

Knows nothing of seeds; those are the trainer's.
"""

import os

import torch

WORKSPACE, FIXED = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
"""What cuBLAS must be told before its first product, or its sums may come in another order."""


def choose_kernels(device: str, *, deterministic: bool) -> None:
    """Take only kernels that give the same bits each time, or any; to be called before the first work on the GPU.

    The choice is the process's: a later run in it makes its own. On a CPU it stays as it was.
    """
    if device == "cpu":
        return
    if deterministic:
        os.environ.setdefault(WORKSPACE, FIXED)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
