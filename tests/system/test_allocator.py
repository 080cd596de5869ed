"""Freed memory is kept: large blocks come back without new pages; the peak is that of the process itself."""

import os
import platform
import subprocess
import sys

import pytest

# 64 MB taken, written and freed ten times, by the C library itself -> whether it keeps them, page faults.
ROUNDS = """
import ctypes, resource
from metaexp.system.allocator import keep_freed_memory
kept = keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    block = libc.malloc(1 << 26)
    libc.memset(block, 1, 1 << 26)
    libc.free(block)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> tuple[str, int]:
    own = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", ROUNDS], env=own | environment, capture_output=True, text=True)
    kept, count = done.stdout.split()
    return kept, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_large_blocks_come_back_without_new_pages():
    asked_to, kept = faults()
    asked_not_to, given_back = faults(MALLOC_MMAP_THRESHOLD_=str(1 << 25))  # the environment takes precedence
    assert (asked_to, asked_not_to) == ("True", "False")
    assert kept < given_back / 5  # new pages once instead of ten times


PEAKS = """
from metaexp.system.machine import forget_peak, peak_mb
own = peak_mb()
block = b"1" * (300 << 20)
large = peak_mb()
del block
forget_peak()
print(own, large, peak_mb())
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_a_peak_is_that_of_the_process_itself_and_may_begin_anew():
    start = f"print(subprocess.check_output([sys.executable, '-c', {PEAKS!r}], text=True))"
    parent = f"import subprocess, sys; kept = b'1' * (900 << 20); {start}"
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    own, large, after = map(int, done.stdout.split())
    assert own < 800  # getrusage reports 900 here, the peak of the parent process
    assert 290 < large - own < 310
    assert after < own + 50
