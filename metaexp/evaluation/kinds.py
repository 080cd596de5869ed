"""Scores of a family that mixes several kinds of tasks, kind by kind."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from metaexp.evaluation.intervals import over_tasks
from metaexp.evaluation.scores import chunks


class Kinds(NamedTuple):
    """The kind of each test task."""

    numbers: np.ndarray  # int64 [tasks], from `info["kind"]`
    names: tuple[str, ...]  # of the kinds by number

    def name(self, number: int) -> str:
        """Its name; the number itself if the family does not name its kinds."""
        return self.names[number] if 0 <= number < len(self.names) else str(number)

    def split(self, values: np.ndarray) -> dict[str, dict[str, Any]]:
        """Scores [tasks, steps + 1] after the last step: of each kind mean, ci95, tasks, and how many diverged."""
        found = {}
        for number in np.unique(self.numbers):
            own = values[self.numbers == number]
            finite = np.isfinite(own).all(1)
            interval = over_tasks(own[finite, -1])
            found[self.name(int(number))] = {
                "mean": interval.mean,
                "ci95": interval.half,
                "tasks": len(own),
                "diverged": int((~finite).sum()),
            }
        return found


def kinds_of(family: Any, split: str, tasks: int, chunk: int = 1000) -> Kinds | None:
    """The kinds of a split's first tasks, by index; None for a family whose tasks have no `info["kind"]`."""

    kind = family.sample(split, torch.zeros(1, dtype=torch.int64, device=family.device)).info.get("kind")
    if not isinstance(kind, torch.Tensor) or kind.shape != (1,):
        return None
    numbers = np.zeros(tasks, np.int64)
    for indices in chunks(family, split, tasks, chunk):  # in any order
        numbers[indices.cpu().numpy()] = family.sample(split, indices).info["kind"].cpu().numpy()
    return Kinds(numbers, tuple(getattr(family, "kind_names", ())))


def add_by_kind(entries: Mapping[str, dict[str, Any]], arrays: Mapping[str, np.ndarray], kinds: Kinds | None) -> None:
    """Adds `by_kind` to each metric's entry of a result."""
    if kinds is not None:
        for name, entry in entries.items():
            entry["by_kind"] = kinds.split(arrays[name])


def kind_scalars(test: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """TensorBoard's tags and numbers of a result's `by_kind`: test/METRIC_by_kind/KIND."""
    return {
        f"test/{metric}_by_kind/{kind}": found["mean"]
        for metric, entry in test.items()
        for kind, found in entry.get("by_kind", {}).items()
        if found["mean"] is not None
    }
