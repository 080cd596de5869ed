"""A family that trains and validates in one place and is tested in another: a run tested on other tasks or data."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metaexp import metrics
from metaexp.tasks.base import TaskFamily, Varying
from metaexp.types import Episode, Examples

log = logging.getLogger(__name__)


class Elsewhere(TaskFamily):
    """The test tasks of one family, and everything else of another.

    Validation tasks have the sizes of the test tasks where their family has as many examples, else its own: a rate that
    is chosen on them is then one for tasks of the size that is tested.

    Args:
        own: the family that the learner was trained on, or its placeholder.
        other: the family whose test tasks it is tested on.

    Raises:
        ValueError: a learner of the one cannot be tested on the other; the message says why.
    """

    def __init__(self, own: TaskFamily, other: TaskFamily):
        check_fit(own, other)
        self.own, self.other = own, other
        self.classification = own.classification
        self.x_shape, self.y_dim, self.trained_on = own.x_shape, own.y_dim, own.trained_on
        self.bytes, self.white = other.bytes, other.white
        self.larger_is_better, self.queries_in_support = other.larger_is_better, other.queries_in_support
        self.fixed_classes, self.protocol = own.fixed_classes, other.protocol  # type: ignore[misc]
        self.ordered, self.time, self.target_name = other.ordered, other.time, other.target_name
        self.oracle, self.gaussian_oracle = other.oracle, other.gaussian_oracle  # type: ignore[misc]
        self.seed, self.eval_seed = own.seed, other.eval_seed
        self.device, self.dtype = other.device, other.dtype
        same = () if own.varying("val") or other.varying("test") or own.fixed_classes else ("shots", "ways")
        asked = {name: other.sizes["test"][name] for name in same}
        self.sizes = {"train": own.sizes["train"], "val": own.sizes["val"] | asked, "test": other.sizes["test"]}

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss that the learner was trained with."""
        return self.own.loss

    @property
    def metrics(self) -> Mapping[str, metrics.Metric | metrics.Function]:
        """Those of the tested family."""
        return self.other.metrics

    def content_sha256(self) -> str | None:
        """Of the tested data."""
        return self.other.content_sha256()

    def contents(self, split: str) -> dict[str, list[bytes]] | None:
        """See TaskFamily.contents."""
        return self._of(split).contents(split)

    def limit(self, split: str) -> int | None:
        """See TaskFamily.limit."""
        return self._of(split).limit(split)

    def runs(self, split: str, tasks: int, shots: int | None = None) -> Sequence[Tensor]:
        """See TaskFamily.runs."""
        return self._of(split).runs(split, tasks, shots)

    def common(self, split: str, indices: Tensor) -> dict[str, int]:
        """See TaskFamily.common."""
        return self._of(split).common(split, indices)

    def short(self, split: str, tasks: int, shots: int) -> int:
        """See TaskFamily.short."""
        return self._of(split).short(split, tasks, shots)

    def merged(self, split: str, indices: Tensor) -> Tensor | None:
        """See TaskFamily.merged."""
        return self._of(split).merged(split, indices)

    def record(self) -> dict[str, Any]:
        """Of the tested family; see TaskFamily.record."""
        return self.other.record()

    @property
    def pool_dim(self) -> int:
        """See TaskFamily.pool_dim."""
        return self.own.pool_dim

    def _of(self, split: str) -> TaskFamily:
        return self.other if split == "test" else self.own

    def varying(self, split: str) -> Varying | None:
        """See TaskFamily.varying."""
        return self._of(split).varying(split)

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "Elsewhere":
        """See TaskFamily.to."""
        super().to(device, dtype)
        self.own, self.other = self.own.to(device, dtype), self.other.to(device, dtype)
        return self

    def keys(self, split: str, indices: Tensor) -> Tensor:
        """See TaskFamily.keys."""
        return self._of(split).keys(split, indices)

    def sample(
        self,
        split: str,
        indices: Tensor,
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """See TaskFamily.sample."""
        if split != "val":
            return self._of(split).sample(split, indices, shots, queries, ways)
        if shots is None and ways is None and not self.own.varying("val"):
            asked = self.sizes["val"]
            try:
                return self.own.sample("val", indices, asked["shots"], queries, asked["ways"])
            except ValueError as error:
                log.warning("validation tasks of the size that is tested cannot be drawn (%s): taking their own", error)
                self.sizes["val"] = self.own.sizes["val"]
        return self.own.sample(split, indices, shots, queries, ways)

    @property
    def train_count(self) -> int | None:
        """See TaskFamily.train_count: of the run's own family."""
        return self.own.train_count

    def pooled(self, indices: Tensor, n: int) -> Examples:
        """See TaskFamily.pooled."""
        return self.own.pooled(indices, n)

    def pool(self, split: str, indices: Tensor, n: int) -> Examples:
        """See TaskFamily.pool."""
        return self._of(split).pool(split, indices, n)

    @property
    def test_only(self) -> str | None:  # type: ignore[override]
        """See TaskFamily.test_only: it has the training tasks of `own`."""
        return self.own.test_only

    def __getattr__(self, name: str) -> Any:
        """What a picture of a test task reads of its family."""
        if name.startswith("_") or name in ("own", "other"):
            raise AttributeError(name)
        return getattr(self.other, name)


def check_fit(own: TaskFamily, other: TaskFamily) -> None:
    """Raises ValueError, with the reason, if a learner of one family cannot be tested on the other."""
    kinds = ["regression", "classification"]
    if own.acts != other.acts:
        what = ["gives examples", "answers to actions"]
        raise ValueError(f"{what[other.acts]}, and this run learned from a family that {what[own.acts]}")
    if own.acts and own.y_dim != other.y_dim:
        raise ValueError(f"has {other.y_dim} actions, and this run chooses among {own.y_dim}")
    if own.classification != other.classification:
        raise ValueError(f"is {kinds[other.classification]}, and this run learned {kinds[own.classification]}")
    if tuple(own.x_shape) != tuple(other.x_shape):
        raise ValueError(f"an input is {list(other.x_shape)}, and this run takes {list(own.x_shape)}")
    if not own.classification and own.y_dim != other.y_dim:
        raise ValueError(f"a target has {other.y_dim} numbers, and this run predicts {own.y_dim}")
    if own.fixed_classes != other.fixed_classes:
        raise ValueError("classes that are the same in every task, and classes drawn anew for each, do not mix")
    if own.fixed_classes and own.trained_on != other.trained_on and not _same_columns(own, other):
        raise ValueError(
            "its columns would pass other transformers than those of the run, fitted to other training tasks; keep the "
            "file and what divides it, or learn its tasks one by one with metaexp.adapt"
        )


def _same_columns(own: TaskFamily, other: TaskFamily) -> bool:
    """Whether columns and target of two tables become numbers in the same way."""
    one, two = inputs_of(own), inputs_of(other)
    return "columns" in one and all(one[key] == two.get(key) for key in ("_target_", "columns", "target"))


def inputs_of(family: TaskFamily) -> dict[str, Any]:
    """How raw examples become its inputs, settings of a `RawInputs`; of a placeholder as the run's folder says."""
    kept: dict[str, Any] | None = getattr(family, "kept_inputs", None)
    return family.raw_inputs().settings() if kept is None else kept
