"""No meta-training: the baseline that every method has to beat."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from metaexp.algos.base import ModelFactory
from metaexp.algos.finetune import FineTuner
from metaexp.constraints import Count, Natural, Positive
from metaexp.inner import Adam, InnerOptimiser


class Scratch(FineTuner):
    """Train the randomly initialised network on each test task's support set alone: nothing is learned across tasks.

    Args:
        test_lr, test_epochs, test_batch, inner: of the training on a support set, see `FineTuner`.

    Raises:
        ValueError: a setting out of range.
    """

    trains = False

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        test_lr: Positive | Sequence[Positive] = 0.01,
        test_epochs: Natural = 10,
        test_batch: Count | None = None,
        inner: InnerOptimiser = Adam(),
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, model, test_lr, test_epochs, test_batch, inner, loss, mapping)

    def outputs(self, family: Any) -> int:
        """The classes of a test episode, or y_dim."""
        return family.sizes["test"]["ways"] or family.y_dim
