"""Memory that a step frees is kept for the next step."""

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's numbers for mallopt
LARGEST = 1 << 30  # bytes of a block that is still kept


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed; returns whether it took that.

    By default every block above 32 MB goes back to the system and comes again as new pages, which the kernel must fill
    with zeros: a third of the time of a large convolutional step. For processes of a run alone: memory once taken stays
    with the process. Where there is no glibc nothing happens, and MALLOC_MMAP_THRESHOLD_ or MALLOC_TRIM_THRESHOLD_ in
    the environment stands.
    """
    if {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & os.environ.keys():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST)) and bool(mallopt(TRIM_THRESHOLD, -1))
