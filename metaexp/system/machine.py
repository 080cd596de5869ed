"""The machine that a result was computed on."""

import os
import platform
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch


def machine(device: torch.device) -> dict[str, Any]:
    """What result.json reports about it: processor, cores of this process, and the accelerator that was used."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {"cpu": processor(), "cores": cores(), **gpu}


def processor() -> str:
    """The processor's name, or the kind of machine if the system does not report a name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_mb() -> int:
    """The largest resident memory of this process so far, in MB; on Linux since `forget_peak`."""
    with suppress(OSError):  # getrusage would report the peak of the parent process, if that was larger
        if found := re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii")):
            return round(int(found[1]) / 1024)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1024))


def forget_peak() -> None:
    """Resets the peak, where the system can: a process may have run other jobs before."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
