"""No body: the inputs are the features."""

import math
from collections.abc import Sequence

from torch import Tensor, nn


class Identity(nn.Module):
    """A linear head on the inputs as they are: prototypes or ridge on given vectors.

    `protonet` on it has nothing to learn across tasks: it is then a baseline, nearest class means of given vectors.

    Args:
        x_shape, out: shape of one input and number of outputs, from the task family.
    """

    no_body = True

    def __init__(self, x_shape: Sequence[int], out: int):
        super().__init__()
        self.head = nn.Linear(math.prod(x_shape), out)

    def features(self, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, inputs]."""
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, out]."""
        return self.head(self.features(x))
