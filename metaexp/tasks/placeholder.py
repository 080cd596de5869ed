"""A family whose data are elsewhere: what a checkpoint keeps of it is enough to adapt a learner and to predict."""

from typing import Any

import torch
from torch import Tensor

from metaexp.errors import DataError
from metaexp.tasks.base import TaskFamily
from metaexp.types import Episode, Examples

UNITS = ("x_mean", "x_std", "y_mean", "y_std")  # of families that standardise


def keep(family: TaskFamily) -> dict[str, Any] | None:
    """Sizes and units of a family, plain containers and tensors; None where its loss or metrics are its own."""
    if type(family).loss is not TaskFamily.loss or type(family).metrics is not TaskFamily.metrics:
        return None
    return {
        "classification": family.classification,
        "x_shape": list(family.x_shape),
        "y_dim": family.y_dim,
        "pool_dim": family.pool_dim,
        "bytes": family.bytes,
        "sizes": {split: dict(sizes) for split, sizes in family.sizes.items()},
        "units": {name: getattr(family, name).cpu() for name in UNITS if hasattr(family, name)},
    }


def check_data(family: TaskFamily, saved: dict[str, Any]) -> None:
    """Refuse data other than those that a checkpoint was trained on: what was for training might now be for testing.

    Args:
        saved: the checkpoint's own state; one of an older version says nothing of its data.

    Raises:
        DataError: the classes or tasks for training are not those of then.
    """
    before = saved.get("trained_on")
    if before is not None and family.trained_on != before:
        raise DataError(
            "task: the classes or tasks for training are not those that this run was trained on, so what it has seen "
            "might be tested on; give it the data that it had, or train anew"
        )


class Absent(TaskFamily):
    """Has the sizes and units of the family that `kept` came from, and no task.

    Args:
        kept: what `keep` gave.
        why: the reason that the data are not here; what `sample` and `pool` raise, as a DataError.
    """

    def __init__(self, kept: dict[str, Any], why: str):
        train, test = kept["sizes"]["train"], kept["sizes"]["test"]
        super().__init__(**train, test=test)
        self.x_shape, self.y_dim, self.bytes = tuple(kept["x_shape"]), kept["y_dim"], kept["bytes"]
        self._pool_dim, self._why = kept["pool_dim"], why
        for name, value in kept["units"].items():
            setattr(self, name, value)

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
        """Raises DataError: there is no task here."""
        raise DataError(self._why)

    def pool(self, split: str, indices: torch.Tensor, n: int) -> Examples:
        """Raises DataError: there are no data here."""
        raise DataError(self._why)


class AbsentClasses(Absent):
    """The same for classification."""

    classification = True


def absent(kept: dict[str, Any], why: str) -> Absent:
    """The one of the two that `kept` describes."""
    return (AbsentClasses if kept["classification"] else Absent)(kept, why)
