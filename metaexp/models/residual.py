"""A body that begins as the identity: it refines vectors whose geometry is good already."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metaexp.constraints import Count, checked
from metaexp.models.identity import Head, begin, of_length


class Residual(nn.Module):
    """f(x) = x + W2 relu(W1 x + b1) + b2, with W2 and b2 at 0 at the start, then a linear head.

    "Deep Residual Learning for Image Recognition", He, Zhang, Ren, Sun, 2016, equation 1; the branch begins at 0 as in
    "Fixup Initialization", Zhang, Dauphin, Ma, 2019, so that features are the inputs until training changes them.

    Args:
        x_shape, out: shape of one input and number of outputs, from the task family.
        hidden: width of the branch.
        length, head: see `Identity`.

    Raises:
        ValueError: a width below 1.
    """

    @checked
    def __init__(
        self, x_shape: Sequence[int], out: int, hidden: Count = 256, length: bool = False, head: Head = "random"
    ):
        super().__init__()
        self.length = length
        width = math.prod(x_shape)
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.head = nn.Linear(width, out)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        begin(self.head, head)

    def features(self, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, inputs]."""
        z = of_length(x.flatten(1)) if self.length else x.flatten(1)
        return z + self.outer(torch.relu(self.inner(z)))

    def forward(self, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, out]."""
        return self.head(self.features(x))
