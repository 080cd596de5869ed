"""Measurements inside a process of their own: python -m benching.workers KIND JSON -> one line of JSON.

bare      the outer steps of a configuration without Lightning, logging and progress
sampling  the training episodes alone, drawn ahead as the outer loop does
gpu       as bare, but a synchronisation with the host inside a span is an error
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

from benching.works import overrides
from metaexp.config.settings import load
from metaexp.outer.batches import TaskBatches
from metaexp.outer.loaders import Span
from metaexp.training.build import Experiment


def _indices(parts: Experiment) -> torch.Tensor:
    return torch.arange(parts.training.meta_batch, device=parts.device)


def _parts(given: dict[str, Any]) -> Experiment:
    parts = Experiment(load(overrides(given["settings"])))
    parts.learner.to(parts.device)
    if given.get("constant"):
        batch = parts.learner.train_batch(_indices(parts))
        size = parts.training.meta_batch
        parts.learner.train_batch = lambda indices: tree_map(lambda t: t[indices % size], batch)
    return parts


def _spans(parts: Experiment, steps: int, every: int, around: Callable[[], Any] = lambda: None) -> dict[str, Any]:
    """Median ms of a step over all spans but the first; `around` is called before every reading of the clock."""
    times = []
    for start in range(0, steps, every):
        around()
        begun = time.perf_counter()
        parts.training.run(Span(start, start + every))
        around()
        times.append(1000 * (time.perf_counter() - begun) / every)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ms": statistics.median(times[1:] or times) if times else None, "mb": round(peak)}


def bare(given: dict[str, Any]) -> dict[str, Any]:
    """ms of an outer step; `constant`: on one meta-batch drawn beforehand. With 0 steps only the memory is reported."""
    steps, every = int(given["settings"]["steps"]), int(given["settings"]["log.every"])
    parts = _parts(given)
    return _spans(parts, steps, every) | {"compiled": bool(parts.training.compiled)}


def sampling(given: dict[str, Any], seconds: float = 1.0) -> dict[str, Any]:
    """ms of a meta-batch, drawn in blocks as in training, and episodes per second."""
    parts = _parts(given)
    size = parts.training.meta_batch
    ahead = TaskBatches(parts.learner, size, size)
    count, times = 0, []
    ended = time.perf_counter() + seconds
    while time.perf_counter() < ended or len(times) < 3:
        begun = time.perf_counter()
        ahead.draw(count * size, ahead.steps)
        times.append(time.perf_counter() - begun)
        count += ahead.steps
    ms = 1000 * statistics.median(times) / ahead.steps
    return {"ms": ms, "episodes_per_s": 1000 * size / ms, "drawn_ahead": ahead.steps}


def gpu(given: dict[str, Any]) -> dict[str, Any]:
    """ms of an outer step on the GPU, its peak memory, and the first synchronisation inside a span, if any."""
    steps, every = int(given["settings"]["steps"]), int(given["settings"]["log.every"])
    parts = _parts(given)
    torch.cuda.reset_peak_memory_stats()
    found = _spans(parts, steps, every, torch.cuda.synchronize)
    synchronises = None
    torch.cuda.set_sync_debug_mode("error")
    try:
        parts.training.run(Span(steps, steps + every))
    except RuntimeError as error:
        synchronises = " ".join(str(error).split())[:200]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    device, peak = torch.cuda.get_device_name(), torch.cuda.max_memory_allocated() / 2**20
    return found | {
        "gpu": device,
        "gpu_mb": round(peak),
        "compiled": parts.training.compiled,
        "host_sync": synchronises,
    }


if __name__ == "__main__":
    print(json.dumps({"bare": bare, "sampling": sampling, "gpu": gpu}[sys.argv[1]](json.loads(sys.argv[2]))))
