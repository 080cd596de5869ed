"""The machine that a result was made on."""

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
    """What result.json says of it: processor, cores of this process, and the accelerator that was used."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {"cpu": processor(), "cores": cores(), **gpu}


def processor() -> str:
    """The processor's name; where the system does not tell it, the kind of machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_mb() -> int:
    """The most memory that this process has had, in MB; in Linux since `forget_peak`."""
    with suppress(OSError):  # getrusage would tell that of the process that started this one, if it was larger
        if found := re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii")):
            return round(int(found[1]) / 1024)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1024))


def forget_peak() -> None:
    """Let the peak be that of what follows: a process may have run other jobs before. Where the system can do so."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
