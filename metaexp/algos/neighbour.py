"""The baseline that looks at raw inputs only."""

from typing import Any

import torch
from torch import Tensor, nn

from metaexp.algos.base import MetaLearner
from metaexp.losses import as_logits
from metaexp.types import Examples


class Neighbour(MetaLearner):
    """Predict the target of the nearest support example: Euclidean distance of the raw, flattened inputs.

    "Nearest Neighbor Pattern Classification", Cover, Hart, 1967, with one neighbour. What a method gains over it is
    the worth of what it learned across tasks. Of equally near examples the first counts. Classes come as logits, sure
    of the neighbour's. No network, nothing to meta-train. Without any support example: 0.
    """

    trains, any_ways, classes_alike = False, True, True
    permutation_invariant = False  # where two examples are equally near

    def __init__(self, family: Any, model: Any = None, loss: Any = None, mapping: str | int = "auto"):
        super().__init__(family, nn.Identity(), loss, mapping)

    @staticmethod
    def is_floor_of(family: Any) -> bool:
        """Not for a family whose queries are in the support set: it would only look them up."""
        return not family.queries_in_support

    def adapt(self, support: Examples, key: Tensor) -> Examples:
        """The support set itself, x flattened: [n, d], [n, y_dim]."""
        return Examples(support.x.flatten(1), support.y)

    def predict(self, adapted: Examples, x: Tensor) -> Tensor:
        """[m, *x_shape] -> [m, y_dim]."""
        if not len(adapted.x):
            return torch.zeros_like(adapted.y.sum(0)).expand(len(x), adapted.y.shape[-1])
        # Differences, not the expanded square: x far from 0 would lose them to rounding, and ties would be none.
        distance = torch.cdist(x.flatten(1), adapted.x, compute_mode="donot_use_mm_for_euclid_dist")  # [m, n]
        y = adapted.y[distance.argmin(-1)]
        return as_logits(y) if self.family.classification else y
