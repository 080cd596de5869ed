"""A linear map."""

import math
from collections.abc import Sequence

from torch import Tensor, nn


class Linear(nn.Module):
    """x -> W x + b on flattened inputs."""

    def __init__(self, x_shape: Sequence[int], out: int, bias: bool = True):
        super().__init__()
        self.head = nn.Linear(math.prod(x_shape), out, bias=bias)

    def features(self, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, inputs]."""
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, out]."""
        return self.head(self.features(x))
