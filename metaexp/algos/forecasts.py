"""The baselines of forecasting, which look at a trajectory's own beginning only: the last value, and drift."""

from typing import Any

import torch
from torch import Tensor, nn

from metaexp.algos.base import MetaLearner
from metaexp.losses import as_logits
from metaexp.types import Examples


class Last(MetaLearner):
    """Predict the last known target for every query ("no change"); of classes as logits, sure of it.

    "Forecasting: principles and practice", Hyndman, Athanasopoulos, section "Some simple forecasting methods". No
    network, nothing to meta-train. Without any support example: 0.
    """

    trains, any_ways, classes_alike, permutation_invariant = False, True, True, False

    def __init__(self, family: Any, model: Any = None, loss: Any = None, mapping: str | int = "auto"):
        super().__init__(family, nn.Identity(), loss, mapping)

    @staticmethod
    def is_floor_of(family: Any) -> bool:
        """For families whose examples are in order."""
        return bool(family.ordered)

    def adapt(self, support: Examples, key: Tensor) -> Tensor:
        """[y_dim]: the last target."""
        last = support.y[-1] if len(support.y) else torch.zeros_like(support.y.sum(0))
        return as_logits(last) if self.family.classification else last

    def predict(self, adapted: Tensor, x: Tensor) -> Tensor:
        """The same for every query: [m, y_dim]."""
        return adapted.expand(len(x), *adapted.shape)


class Drift(MetaLearner):
    """Go on along the line from the first to the last known target, in the family's own time (`TaskFamily.time`).

    The same source as `Last`, which it is where all known examples have one time. Nothing to meta-train.
    """

    trains, permutation_invariant = False, False

    def __init__(self, family: Any, model: Any = None, loss: Any = None, mapping: str | int = "auto"):
        super().__init__(family, nn.Identity(), loss, mapping)

    @staticmethod
    def is_floor_of(family: Any) -> bool:
        """For regression in order whose inputs hold the time."""
        return bool(family.ordered) and family.time is not None and not family.classification

    def adapt(self, support: Examples, key: Tensor) -> Examples:
        """Slope [y_dim] as x; last time [1] and last target [y_dim] as y: [1 + y_dim]."""
        if not len(support.y):
            nothing = torch.zeros_like(support.y.sum(0))
            return Examples(nothing, torch.cat((nothing[:1], nothing)))
        time = support.x[:, self.family.time]
        span = time[-1] - time[0]
        slope = torch.where(span == 0, 0.0, (support.y[-1] - support.y[0]) / torch.where(span == 0, 1.0, span))
        return Examples(slope, torch.cat((time[-1:], support.y[-1])))

    def predict(self, adapted: Examples, x: Tensor) -> Tensor:
        """[m, d] -> [m, y_dim]."""
        ahead = x[:, self.family.time] - adapted.y[0]
        return adapted.y[1:] + ahead.unsqueeze(-1) * adapted.x
