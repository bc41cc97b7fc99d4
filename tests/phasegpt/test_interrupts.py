"""A command that is told to end says one line, and ends with 130."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SLEEPS = """
import sys, time
from phasegpt.interrupts import run
def main():
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("cleaned", flush=True)
    return 0
run(main)
"""


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("ignored", [False, True])
def test_a_command_that_is_told_to_end_cleans_up_and_says_one_line(told: signal.Signals, ignored: bool) -> None:
    """A shell ignores Ctrl-C for what it starts in the background: SIGTERM ends that too."""
    if ignored and told == signal.SIGINT:
        return
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2],
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None,  # noqa: PLW1509
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(told)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "cleaned\n", "interrupted\n")


def test_a_command_that_is_left_alone_ends_with_its_own_status() -> None:
    code = "from phasegpt.interrupts import run; run(lambda: 3)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (3, b"")


SAYS = """
import sys
from phasegpt.interrupts import run
def main():
    sys.stdout.write("a line\\n" * int(sys.argv[1]))
    return 0
run(main)
"""


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_command_whose_output_nobody_reads_ends_without_a_word(lines: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", SAYS, str(lines)], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_broken_pipe_of_another_kind_is_an_error() -> None:
    code = "from phasegpt.interrupts import run\ndef main():\n    raise BrokenPipeError('a socket')\nrun(main)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "BrokenPipeError: a socket" in done.stderr
