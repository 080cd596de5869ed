"""A family without its data: what a checkpoint stores about the family is enough to adapt a learner and to predict."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metaexp.errors import DataError
from metaexp.metrics import Function, Metric
from metaexp.tasks.base import TaskFamily
from metaexp.tasks.data.table_metrics import table_metrics
from metaexp.types import Episode, Examples

UNITS = ("x_mean", "x_std", "y_mean", "y_std")  # of families that standardise


def keep(family: TaskFamily) -> dict[str, Any] | None:
    """Sizes and units of a family as plain containers and tensors; None if it defines its own loss or metrics."""
    own_metrics = type(family).metrics is not TaskFamily.metrics and family.kept_metrics is None
    if type(family).loss is not TaskFamily.loss or own_metrics:
        return None
    return {
        "classification": family.classification,
        "x_shape": list(family.x_shape),
        "y_dim": family.y_dim,
        "pool_dim": family.pool_dim,
        "bytes": family.bytes,
        "white": family.white,
        "sizes": {split: dict(sizes) for split, sizes in family.sizes.items()},
        **({"metrics": dict(family.kept_metrics)} if family.kept_metrics is not None else {}),
        **({"class_weights": family.class_weights.cpu()} if family.class_weights is not None else {}),
        "units": {name: getattr(family, name).cpu() for name in UNITS if hasattr(family, name)},
    }


def check_data(family: TaskFamily, saved: dict[str, Any]) -> None:
    """Reject data that differ from a checkpoint's training data: classes trained on might now be used for testing.

    Args:
        saved: the checkpoint's own state; one of an older version has no record of its data and is accepted.

    Raises:
        DataError: the training classes or tasks are not those that the checkpoint was trained on.
    """
    before = saved.get("trained_on")
    if before is not None and family.trained_on != before:
        raise DataError(
            "task: the classes or tasks for training are not those that this run was trained on, so it might be tested "
            "on what it has seen; use the original data, or train again"
        )


class Absent(TaskFamily):
    """A family with the sizes and units of the one that `kept` came from, but without tasks.

    Args:
        kept: the return value of `keep`.
        why: the reason why the data are not available: the message of the DataError that `sample` and `pool` raise.
    """

    kept_inputs: dict[str, Any] | None = None  # how raw examples become inputs, where that is known

    def __init__(self, kept: dict[str, Any], why: str):
        train, test = kept["sizes"]["train"], kept["sizes"]["test"]
        super().__init__(**train, test=test)
        self.x_shape, self.y_dim, self.bytes = tuple(kept["x_shape"]), kept["y_dim"], kept["bytes"]
        self.kept_metrics = kept.get("metrics")
        self.white, self.class_weights = kept.get("white", 0), kept.get("class_weights")
        self._pool_dim, self._why = kept["pool_dim"], why
        for name, value in kept["units"].items():
            setattr(self, name, value)

    @property
    def metrics(self) -> Mapping[str, Metric | Function]:
        """See TaskFamily.metrics: those of the family, in its units."""
        return super().metrics if self.kept_metrics is None else table_metrics(**self.kept_metrics)

    @property
    def pool_dim(self) -> int:
        """See TaskFamily.pool_dim."""
        return int(self._pool_dim)

    def sample(
        self,
        split: str,
        indices: Tensor,
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """Raises DataError: there are no tasks."""
        raise DataError(self._why)

    def pool(self, split: str, indices: torch.Tensor, n: int) -> Examples:
        """Raises DataError: there are no data."""
        raise DataError(self._why)


class AbsentClasses(Absent):
    """`Absent` for classification."""

    classification = True


def absent(kept: dict[str, Any], why: str) -> Absent:
    """An `Absent` or `AbsentClasses` family, whichever `kept` describes."""
    return (AbsentClasses if kept["classification"] else Absent)(kept, why)
