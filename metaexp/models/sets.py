"""Networks on a support set of any size and order: encoders of its examples, attention, decoders.

A support set is one set of (input, target) pairs for regression; for classification it is one set of inputs per class.
`member` [n, sets] marks which examples belong to which set: ones [n, 1], or the one-hot targets.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaexp.models.mlp import MLP
from metaexp.models.transformer import TokenNorm


def perceptron(inputs: int, width: int, outputs: int, layers: int) -> MLP:
    """`layers` linear layers with ReLU between them."""
    return MLP((inputs,), outputs, hidden=[width] * (layers - 1))


def keep_scale(network: MLP) -> MLP:
    """Initial weights with which a signal keeps its scale through the layers; returns the network.

    "Delving Deep into Rectifiers", He, Zhang, Ren, Sun, 2015: normal with variance 2 / inputs before a ReLU, 1 / inputs
    in the last layer, biases 0. Torch's default loses five sixths of the variance in every layer.
    """
    for layer in network.body:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    nn.init.kaiming_normal_(network.head.weight, nonlinearity="linear")
    nn.init.zeros_(network.head.bias)
    return network


def means(h: Tensor, member: Tensor) -> Tensor:
    """Mean over each set: [n, width], [n, sets] -> [sets, width]; 0 for an empty set."""
    return member.T @ h / torch.clamp(member.sum(0), min=1.0).unsqueeze(-1)


def attention(query: Tensor, key: Tensor, member: Tensor) -> Tensor:
    """Softmax of scaled products over each set: [heads, m, d], [heads, n, d], [n, sets] -> [heads, sets, m, n].

    Weights of examples outside a set are 0; those of a set that is not empty sum to 1.
    """
    scores = query @ key.mT / math.sqrt(key.shape[-1])  # [heads, m, n]
    inside = member.T.unsqueeze(1) > 0  # [sets, 1, n]
    lowest = torch.finfo(scores.dtype).min  # not -inf: an empty set must not give NaN
    return torch.softmax(torch.where(inside, scores.unsqueeze(1), lowest), -1) * inside


class CrossAttention(nn.Module):
    """Multi-head attention of queries over sets of values ("Attention Is All You Need", Vaswani et al. 2017, 3.2.2)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.mix = nn.Linear(width, width, bias=False)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(0, 1)  # [n, width] -> [heads, n, width / heads]

    def memory(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a support set, each [heads, n, width / heads], from [n, width]."""
        return self._split(self.key(key)), self._split(self.value(value))

    def weights(self, query: Tensor, keys: Tensor, member: Tensor) -> Tensor:
        """[m, width] -> [heads, sets, m, n]."""
        return attention(self._split(self.query(query)), keys, member)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, member: Tensor) -> Tensor:
        """[m, width] -> [m, sets, width]; zeros for an empty set."""
        read = self.weights(query, keys, member) @ values.unsqueeze(1)  # [heads, sets, m, width / heads]
        mixed: Tensor = self.mix(read.permute(2, 1, 0, 3).flatten(2))
        return mixed


class ResidualBlock(nn.Module):
    """The end of a transformer layer: r <- norm(r + W q), r <- norm(r + f(r)), with norms over the width."""

    def __init__(self, width: int):
        super().__init__()
        self.skip, self.net = nn.Linear(width, width), perceptron(width, width, width, 2)
        self.norm, self.norm_net = TokenNorm(width), TokenNorm(width)

    def forward(self, read: Tensor, query: Tensor) -> Tensor:
        """Attention's output [m, sets, width] and the queries' embedding [m, 1, width] -> [m, sets, width]."""
        r: Tensor = self.norm(read + self.skip(query))
        r = self.norm_net(r + self.net(r.flatten(0, 1)).view_as(r))
        return r


class GaussianDecoder(nn.Module):
    """Maps a representation and a query to a Gaussian: mean, standard deviation = floor + (1 - floor) softplus(raw)."""

    def __init__(self, inputs: int, width: int, y_dim: int, layers: int, floor: float):
        super().__init__()
        self.net, self.floor = perceptron(width + inputs, width, 2 * y_dim, layers), floor

    def forward(self, r: Tensor, z: Tensor) -> Tensor:
        """r [m, 1, width], z [m, inputs] -> [m, 2 y_dim], means then standard deviations."""
        mean, raw = self.net(torch.cat((r.squeeze(1), z), -1)).chunk(2, -1)
        return torch.cat((mean, self.floor + (1 - self.floor) * F.softplus(raw)), -1)


class ClassDecoder(nn.Module):
    """One network for the logit of each class, from its representation, the mean of all classes', and the query.

    Permuting the classes permutes the logits, and the number of classes may change.
    """

    def __init__(self, inputs: int, width: int, layers: int):
        super().__init__()
        self.net = perceptron(2 * width + inputs, width, 1, layers)

    def forward(self, r: Tensor, z: Tensor) -> Tensor:
        """r [m, ways, width], z [m, inputs] -> [m, ways]."""
        every = r.mean(1, keepdim=True).expand_as(r)
        logits: Tensor = self.net(torch.cat((r, every, z.unsqueeze(1).expand(-1, r.shape[1], -1)), -1).flatten(0, 1))
        return logits.view(r.shape[:2])


class SetEncoder(nn.Module):
    """A set of examples of any number and order -> one vector: rho(mean_j phi(x_j, y_j)).

    Args:
        inputs: number of elements of one x and y together.
        hidden, out: width of phi and dimension of the vector; rho is linear.
    """

    def __init__(self, inputs: int, hidden: int, out: int):
        super().__init__()
        self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, out)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x [n, *x_shape], y [n, y_dim] -> [out]; without examples the mean is 0."""
        z = F.silu(self.second(F.silu(self.first(torch.cat((x.flatten(1), y), -1)))))
        return self.head(z.sum(0) / max(len(z), 1))


class Judges(nn.Module):
    """A separate network [inputs] -> one number for each of `children`, all computed at once."""

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
