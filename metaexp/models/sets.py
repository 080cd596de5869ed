"""Small networks of a mother: one that reads a set of examples, and one judge per child."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SetEncoder(nn.Module):
    """A set of examples -> one vector, whatever their number and order: rho(mean_j phi(x_j, y_j)).

    Args:
        inputs: elements of one x and y together.
        hidden, out: width of phi and dimension of the vector; rho is linear.
    """

    def __init__(self, inputs: int, hidden: int, out: int):
        super().__init__()
        self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, out)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x [n, *x_shape], y [n, y_dim] -> [out]; of no examples the mean is 0."""
        z = F.silu(self.second(F.silu(self.first(torch.cat((x.flatten(1), y), -1)))))
        return self.head(z.sum(0) / max(len(z), 1))


class Judges(nn.Module):
    """For each of `children` a network of its own, [inputs] -> one number, all computed at once."""

    def __init__(self, children: int, inputs: int, hidden: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(children, inputs, hidden) / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(children, hidden))
        self.head = nn.Parameter(torch.randn(children, hidden) / math.sqrt(hidden))
        self.shift = nn.Parameter(torch.zeros(children))

    def forward(self, features: Tensor) -> Tensor:
        """[children, inputs] -> [children]."""
        z = torch.tanh((features.unsqueeze(-1) * self.weight).sum(-2) + self.bias)
        return (z * self.head).sum(-1) + self.shift
