"""Two processes under gloo that call one function, as two workers of a run do: without Ray, and so in a few seconds.

They are forked from a process that has imported torch and its company once for all tests, and ends with them.
"""

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

PATIENCE = 240


def on_two(call: Callable[..., Any], *arguments: Any, size: int = 2) -> list[Any]:
    """What `call(*arguments)` returns on each of `size` workers. It and its values must be picklable.

    Fails with the traceback of the first worker that raises.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["phasegpt.train"])
    found = context.SimpleQueue()
    port = _free_port()
    processes = [
        context.Process(target=_worker, args=(rank, size, port, found, call, arguments)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    try:
        values = dict(_took(found, processes) for _ in processes)
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    return [values[rank] for rank in range(size)]


def _took(found: Any, processes: list[Any]) -> tuple[int, Any]:
    rank, value, failure = pickle.loads(found.get())  # noqa: S301 - of our own processes
    if failure:
        for process in processes:
            process.kill()
        raise AssertionError(f"worker {rank}: {failure}")
    return rank, value


def _worker(rank: int, size: int, port: int, found: Any, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        # as bytes: torch would send the names of tensors in shared memory, which end with this process
        found.put(pickle.dumps((rank, call(*arguments), None)))
    except Exception:  # noqa: BLE001 - told to the process that waits
        found.put(pickle.dumps((rank, None, traceback.format_exc())))
    finally:
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
