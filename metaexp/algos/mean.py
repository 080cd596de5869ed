"""The baseline that looks at targets only."""

from typing import Any

import torch
from torch import Tensor, nn

from metaexp.algos.base import MetaLearner
from metaexp.losses import as_logits
from metaexp.metrics import Metric, accuracy, fair_accuracy
from metaexp.types import Examples


class Mean(MetaLearner):
    """Predict the mean of the support targets for every query; for classes that is their frequency, as logits.

    Whatever does not beat it has learned nothing from inputs. The largest of equal frequencies would be named by its
    place, so ties count as what a draw among them is worth: with as many examples of every class, 1 / ways.
    No network, nothing to meta-train. Without any support example: 0, or equal frequencies.
    """

    trains, any_ways, classes_alike = False, True, True

    def __init__(self, family: Any, model: Any = None, loss: Any = None, mapping: str | int = "auto"):
        super().__init__(family, nn.Identity(), loss, mapping)

    @staticmethod
    def is_floor_of(family: Any) -> bool:
        """For every family."""
        return True

    @property
    def metrics(self) -> dict[str, Metric]:
        """The family's, with ties shared."""
        return {name: fair_accuracy if m is accuracy else m for name, m in super().metrics.items()}

    def adapt(self, support: Examples, key: Tensor) -> Tensor:
        """[y_dim]: the mean target."""
        mean = support.y.mean(0) if len(support.y) else torch.zeros_like(support.y.sum(0))
        return as_logits(mean) if self.family.classification else mean

    def predict(self, adapted: Tensor, x: Tensor) -> Tensor:
        """The same for every query: [m, y_dim]."""
        return adapted.expand(len(x), *adapted.shape)
