"""Testing a learner on frozen tasks: per task, per inner step, with intervals."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metaexp.evaluation.calibration import bin_sums
from metaexp.mapping import map_tasks
from metaexp.metric_names import forms, metric_name
from metaexp.types import Episode


class Scores(NamedTuple):
    """Metrics of a set of tasks."""

    arrays: dict[str, np.ndarray]  # float64 [tasks, steps + 1] each
    indices: np.ndarray  # int64 [tasks]
    query_sha256: str  # of the query sets: scores are paired only where it is equal
    calibration: dict[str, np.ndarray] = {}  # suffix of the mode -> bin sums of the last step, [tasks, 3, bins]

    def first(self, metric: str) -> np.ndarray:
        """The metric in the first normalisation mode that was asked for."""
        return self.arrays[forms(metric, self.arrays)[0]]


def evaluate(
    learner: Any,
    split: str,
    tasks: int,
    modes: list[str],
    chunk: int | None = None,
    diagnose: bool = False,
    final: bool = False,
    tick: Callable[[int], None] = lambda done: None,
    shots: int | None = None,
    calibrate: bool = False,
) -> Scores:
    """Metrics of the first `tasks` tasks of a split after 0, 1, ... inner steps.

    Args:
        learner: a MetaLearner; its parameters are not changed.
        modes: normalisation modes at test (`MetaLearner.modes`).
        chunk: tasks drawn and mapped at once (None: by the learner's mapping); does not change the tasks.
        diagnose: also the learner's `diagnostics`, as [tasks, 1].
        final: only after the last step, arrays [tasks, 1].
        tick: called after every chunk with the number of tasks done; may raise to stop.
        shots: support examples (per class); None: the split's.
        calibrate: also the bin sums of `metaexp.evaluation.calibration`, where there are classes.
    """
    chunk = chunk or (10 if learner.mapping == "loop" else 100)
    tables = {"calibration": bin_sums} if calibrate and learner.family.classification else {}
    chosen = learner.modes(modes)
    digests = [hashlib.sha256(), hashlib.sha256()]  # of all inputs and of all targets: the chunks leave no trace
    parts: list[dict[str, Tensor]] = []

    def one(episode: Episode) -> dict[str, Tensor]:
        scores: dict[str, Tensor] = learner.score(episode, chosen, final, **({"tables": tables} if tables else {}))
        if diagnose:
            scores |= {name: value[None] for name, value in learner.diagnostics(episode).items()}
        return scores

    with torch.no_grad(), _at_test(learner):
        for indices in chunks(learner.family, split, tasks, chunk):
            episode = learner.family.sample(split, indices, shots=shots)
            for digest, tensor in zip(digests, episode.query, strict=True):
                digest.update(tensor.contiguous().cpu().numpy().tobytes())
            parts.append(map_tasks(one, episode if learner.reads_info else episode._replace(info={}), learner.mapping))
            tick(int(indices[-1]) + 1)
    arrays = {name: torch.cat([part[name] for part in parts]).double().cpu().numpy() for name in parts[0]}
    query_sha256 = hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()
    sums = {suffix: arrays.pop(metric_name("calibration", suffix)) for suffix in (chosen if tables else ())}
    return Scores(arrays, np.arange(tasks), query_sha256, sums)


@contextmanager
def _at_test(learner: Any) -> Iterator[None]:
    """Inside, modules of the user's that behave otherwise in training do so no more."""
    modes = {module: module.training for module in learner.modules()}
    learner.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def chunks(family: Any, split: str, tasks: int, size: int) -> Iterator[Tensor]:
    """Indices 0 ... tasks - 1 in pieces to be drawn at once: at most `size`, and of one bucket where sizes vary."""
    varying = family.varying(split)
    bucket = varying.bucket if varying else max(tasks, 1)
    for first in range(0, tasks, bucket):
        last = min(first + bucket, tasks)
        for start in range(first, last, size):
            yield torch.arange(start, min(start + size, last), device=family.device)
