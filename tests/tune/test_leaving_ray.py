"""SIGTERM means Ctrl-C also while this process ends its Ray, whose core would make it kill, and from then on."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEAVES = """
import os, signal, threading, time
from tune import environment
environment.prepare(own_cluster=True)
import ray
from tune.run import cluster

def told():
    os.kill(os.getpid(), signal.SIGTERM)

try:
    with cluster(None):
        threading.Timer(0.2, told).start()
except KeyboardInterrupt:
    print("while leaving", ray.is_initialized())
try:
    told()
    time.sleep(10)
except KeyboardInterrupt:
    print("afterwards")
"""


@pytest.mark.ray
def test_sigterm_is_an_interrupt_while_ray_is_left_and_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVES], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["while leaving False", "afterwards"]
