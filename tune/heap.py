"""What the C library keeps of memory that was freed, and how it is given back to the machine."""

import ctypes
import gc


def give_back() -> None:
    """Give back what no job holds any more; nothing where the C library cannot (`malloc_trim` is glibc's).

    A warm process runs each job in a new thread, glibc gives a new thread a heap of its own (up to eight a core), and a
    step's blocks below 32 MB are freed into that heap and stay there: without this a process grows with its jobs.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
