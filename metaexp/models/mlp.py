"""Fully connected network."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from metaexp.constraints import Count, Positive, checked


class MLP(nn.Module):
    """Linear layers of the given widths with an activation between them; the input is flattened.

    Args:
        x_shape, out: shape of one input and number of outputs, from the task family.
        hidden: widths of the hidden layers; [] is a linear map.
        activation: name of a function of torch.nn.functional: relu, tanh, gelu, silu, ...
        init_std: weights from a normal distribution truncated at two standard deviations and zero biases, as in the
            MAML authors' code (0.01); None: torch's default.

    Raises:
        ValueError: a width is below 1, the activation is unknown, or init_std is not above 0.
    """

    @checked
    def __init__(
        self,
        x_shape: Sequence[int],
        out: int,
        hidden: Sequence[Count] = (40, 40),
        activation: str = "relu",
        init_std: Positive | None = None,
    ):
        super().__init__()
        if not callable(getattr(F, activation, None)):
            raise ValueError(f"activation={activation}: not a function of torch.nn.functional (relu, tanh, gelu, ...)")
        self.activation = getattr(F, activation)
        widths = [math.prod(x_shape), *hidden]
        self.body = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.head = nn.Linear(widths[-1], out)
        if init_std is not None:
            for layer in [*self.body, self.head]:
                nn.init.trunc_normal_(layer.weight, std=init_std, a=-2 * init_std, b=2 * init_std)
                nn.init.zeros_(layer.bias)

    def features(self, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, last hidden width]."""
        z = x.flatten(1)
        for layer in self.body:
            z = self.activation(layer(z))
        return z

    def forward(self, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, out]."""
        return self.head(self.features(x))
