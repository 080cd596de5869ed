"""Testing a learner on frozen tasks: per task, per inner step, with intervals."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metaexp.algos.trial import at_test
from metaexp.evaluation.calibration import bin_sums
from metaexp.evaluation.sharing import Shared
from metaexp.mapping import map_tasks
from metaexp.metric_names import forms, metric_name
from metaexp.metrics import measure
from metaexp.models.attention import plain_attention
from metaexp.system.group import ALONE, Group
from metaexp.types import Episode


class Chunk(NamedTuple):
    """What was predicted for the queries of a chunk of tasks after the last inner step."""

    indices: np.ndarray  # int64 [tasks]
    values: dict[str, np.ndarray]  # suffix of the mode -> float64 [tasks, queries, out]


class Scores(NamedTuple):
    """Metrics of a set of tasks."""

    arrays: dict[str, np.ndarray]  # float64 [tasks, steps + 1] each
    indices: np.ndarray  # int64 [tasks]
    query_sha256: str  # of the query sets: scores are paired only if it is equal
    calibration: dict[str, np.ndarray] = {}  # suffix of the mode -> bin sums of the last step, [tasks, 3, bins]
    predictions: tuple[Chunk, ...] = ()  # if they were kept

    def first(self, metric: str) -> np.ndarray:
        """The metric in the first requested normalisation mode."""
        return self.arrays[forms(metric, self.arrays)[0]]


class Scoring:
    """Scores a split's tasks chunk by chunk.

    Args:
        learner: a MetaLearner; its parameters are not changed.
        split: "train", "val" or "test".
        modes: normalisation modes at test (`MetaLearner.modes`).
        diagnose: also compute the learner's `diagnostics`, as [tasks, 1].
        final: score only after the last step, giving arrays [tasks, 1].
        shots: support examples (per class); None: the split's.
        calibrate: also compute the bin sums of `metaexp.evaluation.calibration`, if there are classes.
        group: the processes that share the chunks; every one must `add` all of them, and gets all scores.
        keep: also return the predictions.
    """

    def __init__(
        self,
        learner: Any,
        split: str,
        modes: list[str],
        diagnose: bool = False,
        final: bool = False,
        shots: int | None = None,
        calibrate: bool = False,
        group: Group = ALONE,
        keep: bool = False,
    ):
        self.learner, self.split, self.diagnose, self.final, self.shots = learner, split, diagnose, final, shots
        self.modes = learner.modes(modes)
        self.tables = {"calibration": bin_sums} if calibrate and learner.family.classification else {}
        self.kept = {"prediction": lambda prediction, y: prediction} if keep else {}
        self._digests = [hashlib.sha256(), hashlib.sha256()]  # of inputs and of targets: independent of the chunks
        self._shared = Shared(group)
        self._indices: list[np.ndarray] = []

    def add(self, indices: Tensor) -> None:
        """Draw and score the tasks with these indices, int64 [tasks]."""
        self.learner.settle()
        self._indices.append(indices.cpu().numpy())
        self._shared.do(lambda: self._scored(indices), beside=lambda: self._drawn(indices))

    def _drawn(self, indices: Tensor) -> Episode:
        """The tasks, whose queries are added to the digests; only in the first process does that see all of them."""
        episode = self.learner.family.sample(self.split, indices, shots=self.shots)
        for digest, tensor in zip(self._digests, episode.query, strict=True):
            digest.update(tensor.contiguous().cpu().numpy().tobytes())
        return episode

    def _scored(self, indices: Tensor) -> dict[str, np.ndarray]:
        with torch.no_grad(), at_test(self.learner), plain_attention():
            episode = self._drawn(indices)
            seen = episode if self.learner.reads_info else episode._replace(info={})
            scores = map_tasks(self._one, seen, self.learner.mapping)
            return {name: value.double().cpu().numpy() for name, value in scores.items()}

    def result(self) -> Scores:
        """The scores of all tasks so far, in the order of their indices, in every process."""
        parts: list[dict[str, np.ndarray]] = self._shared.results()
        kept = tuple(
            Chunk(drawn, {suffix: part.pop(metric_name("prediction", suffix)) for suffix in self.modes})
            for drawn, part in zip(self._indices if self.kept else (), parts, strict=bool(self.kept))
        )
        indices, arrays = by_task(self.learner.family, self.split, np.concatenate(self._indices), parts)
        query_sha256 = self._shared.group.first(self._sha256)
        sums = {
            suffix: arrays.pop(metric_name("calibration", suffix)) for suffix in (self.modes if self.tables else ())
        }
        return Scores(arrays, indices, query_sha256, sums, kept)

    def _sha256(self) -> str:
        return hashlib.sha256(b"".join(digest.digest() for digest in self._digests)).hexdigest()

    def _one(self, episode: Episode) -> dict[str, Tensor]:
        scores = score(self.learner, episode, self.modes, self.final, {**self.tables, **self.kept})
        if self.diagnose:
            scores |= {name: value[None] for name, value in self.learner.diagnostics(episode).items()}
        return scores


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
    group: Group = ALONE,
    keep: bool = False,
) -> Scores:
    """Metrics of the first `tasks` tasks of a split after 0, 1, ... inner steps.

    Args:
        learner, split, modes, diagnose, final, shots, calibrate, group, keep: as for `Scoring`.
        chunk: tasks drawn and mapped at once (None: as the learner's mapping allows); does not change the tasks.
        tick: called after every chunk with the number of tasks done; may raise to stop.
    """
    scoring = Scoring(learner, split, modes, diagnose, final, shots, calibrate, group, keep)
    done = 0
    for indices in chunks(learner.family, split, tasks, chunk or chunk_size(learner), shots):
        scoring.add(indices)
        done += len(indices)
        tick(done)
    return scoring.result()


def chunk_size(learner: Any) -> int:
    """Number of tasks drawn and scored at once, as the learner's mapping allows."""
    return 10 if learner.mapping == "loop" else int(learner.chunk)


def score(
    learner: Any,
    episode: Episode,
    modes: dict[str, str],
    final: bool = False,
    tables: Mapping[str, Callable[[Tensor, Tensor], Tensor]] | None = None,
) -> dict[str, Tensor]:
    """Metrics of one task after 0, 1, ... inner steps: [steps + 1] each; [1] of the last if `final`.

    Names are those of the learner's `metrics`, with the prefix of each of its `variants` and the suffix of each mode.

    Args:
        modes: suffix -> normalisation mode, as `MetaLearner.modes` gives them.
        tables: further functions of the method's own last prediction and the targets, with results of any shape,
            returned under their name with the mode's suffix.
    """
    scores: dict[str, list[Tensor]] = {}
    last: dict[str, Tensor] = {}
    path, y = learner.test_path(episode), episode.query.y
    readers = {suffix: learner.reader(mode, episode.support, episode.query.x) for suffix, mode in modes.items()}
    for adapted in path[-1:] if final else path:
        variants = learner.variants(adapted)
        for suffix, read in readers.items():
            predictions = {prefix: read(variant) for prefix, variant in variants.items()}
            for prefix, prediction in predictions.items():
                for name, metric in learner.metrics.items():
                    if getattr(metric, "reads_predictor", False):
                        value = metric(_predictor(learner, modes[suffix], variants[prefix], episode), episode)
                    else:
                        value = measure(metric, prediction, y, episode.support.y)
                    scores.setdefault(metric_name(prefix + name, suffix), []).append(value)
            last[suffix] = predictions[""]
    found = {name: torch.stack(values) for name, values in scores.items()}
    for name, table in (tables or {}).items():
        found |= {metric_name(name, suffix): table(prediction, y) for suffix, prediction in last.items()}
    return found


def _predictor(learner: Any, mode: str, adapted: Any, episode: Episode) -> Callable[[Tensor], Tensor]:
    """Inputs [n, *x_shape] -> predictions [n, out] of ONE task, with what was learned from its support set."""
    return lambda x: learner.predict_as(mode, adapted, episode.support, x)


def validator(
    learner: Any, tick: Callable[[int], None] = lambda done: None, group: Group = ALONE
) -> Callable[[int], float]:
    """The function that `MetaLearner.finish` takes: number of validation tasks -> mean of the first metric after the
    last step.

    All queries are in one batch, regardless of `test.normalise`. `tick` is that of `evaluate`; the processes of `group`
    share the tasks.
    """

    def validate(tasks: int) -> float:
        scores = evaluate(learner, "val", tasks, ["queries"], tick=tick, final=True, group=group)
        return float(scores.first(next(iter(learner.metrics)))[:, -1].mean())

    return validate


def chunks(family: Any, split: str, tasks: int, size: int, shots: int | None = None) -> Iterator[Tensor]:
    """Indices of the first `tasks` tasks in chunks to be drawn at once: at most `size`, and of one size if sizes vary.

    All tasks, if the split has fewer.
    """
    for run in family.runs(split, number_of_tasks(family, split, tasks), shots):
        for first in range(0, len(run), size):
            yield run[first : first + size]


def number_of_tasks(family: Any, split: str, tasks: int) -> int:
    """As many tasks as asked for, or as many different ones as the split has."""
    limit = family.limit(split)
    return tasks if limit is None else min(tasks, limit)


def by_task(
    family: Any, split: str, indices: np.ndarray, parts: list[dict[str, np.ndarray]]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Indices [tasks], and parts of arrays [n, ...] by name, taken together in their order; indices of one task
    (`TaskFamily.merged`) become the mean of their scores."""
    order = np.argsort(indices, kind="stable")
    arrays = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
    tasks = family.merged(split, torch.from_numpy(indices[order]))
    if tasks is None:
        return indices[order], arrays
    found, place, count = np.unique(tasks.numpy(), return_inverse=True, return_counts=True)
    means = {}
    for name, values in arrays.items():
        total = np.zeros((len(found), *values.shape[1:]))
        np.add.at(total, place, values)
        means[name] = total / count.reshape(-1, *(1,) * (values.ndim - 1))
    return found, means
