"""Memory that earlier jobs left in the heaps of their threads goes back to the machine."""

import subprocess
import sys

LEAVING = """
import ctypes, threading
from tune.heap import give_back

libc, kept, over = ctypes.CDLL(None), [], threading.Event()
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]


def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024


def job(done):
    blocks = []
    for _ in range(2000):
        block = libc.malloc(100_000)
        ctypes.memset(block, 1, 100_000)
        kept.append(libc.malloc(64))  # what lives on, between what does not
        blocks.append(block)
    for block in blocks:
        libc.free(block)
    done.set()
    over.wait()


before = resident()
for _ in range(2):
    done = threading.Event()
    threading.Thread(target=job, args=(done,), daemon=True).start()
    done.wait()
left = resident()
give_back()
print(left - before, resident() - before)
"""


def test_what_jobs_freed_in_threads_of_their_own_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, check=True)
    left, now = map(float, done.stdout.split())
    assert left > 300  # two jobs of 200 MB, one after the other
    assert now < 50
