"""Keeping the memory that one step frees for the next, and giving it back."""

import ctypes
import os
from contextlib import suppress

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's numbers for mallopt
LARGEST = 1 << 30  # bytes; larger blocks go back to the system


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory in the process; returns whether it does.

    By default every block above 32 MB is returned to the system and comes back as new pages, which the kernel must fill
    with zeros: a third of the time of a large convolutional step. Only for the processes of a run, since the process
    never gives the memory back. Without glibc this does nothing; MALLOC_MMAP_THRESHOLD_ or MALLOC_TRIM_THRESHOLD_ in
    the environment takes precedence.
    """
    if {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & os.environ.keys():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST)) and bool(mallopt(TRIM_THRESHOLD, -1))


def give_back_freed_memory() -> None:
    """Returns what the process holds and does not use to the system, so that its size says what it uses; with glibc."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
