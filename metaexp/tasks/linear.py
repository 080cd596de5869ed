"""Random linear maps: the smallest regression family, whose best learner is known in closed form."""

import torch
from torch import Tensor

from metaexp.constraints import Count, Interval, Natural, NonNegative, checked
from metaexp.random import fold, normal, uniform
from metaexp.tasks.base import TaskFamily
from metaexp.types import Episode, Examples


class Linear(TaskFamily):
    """y = x W + b, with W [inputs, outputs] and b [outputs] drawn for every task and x ~ U[x_range].

    Args:
        inputs, outputs: dimensions of x and y.
        weight_std: weights (and bias) ~ N(0, weight_std^2).
        weight_range: (low, high); weights (and bias) ~ U[low, high) instead of the normal draw.
        bias: whether the map has a bias.
        x_range: (low, high) of every input.
        noise: standard deviation of the Gaussian noise on y.

    Raises:
        ValueError: a number is out of range.
    """

    @checked
    def __init__(
        self,
        shots: Count = 10,
        queries: Natural = 10,
        inputs: Count = 2,
        outputs: Count = 1,
        weight_std: NonNegative = 1.0,
        weight_range: Interval | None = None,
        bias: bool = False,
        x_range: Interval = (-5.0, 5.0),
        noise: NonNegative = 0.0,
        test: dict[str, Natural | None] | None = None,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        super().__init__(shots, queries, None, test, seed, eval_seed)
        self.x_shape, self.y_dim = (inputs,), outputs
        self.weight_std, self.weight_range, self.bias = weight_std, weight_range, bias
        self.x_range, self.noise = x_range, noise

    def sample(
        self,
        split: str,
        indices: Tensor,
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """See TaskFamily.sample; info holds weight [tasks, inputs, outputs] and bias [tasks, outputs]."""
        key = self.keys(split, indices)
        weight, bias = self._maps(key)
        support = self._examples(key, 2, self.size(split, "shots", shots), weight, bias)
        query = self._examples(key, 3, self.size(split, "queries", queries), weight, bias)
        return Episode(support, query, key, {"weight": weight, "bias": bias})

    def oracle(self, episode: Episode, x: Tensor) -> Tensor:
        """The map itself, without the noise: [m, inputs] -> [m, outputs]."""
        return self._values(x, episode.info["weight"], episode.info["bias"])

    def pool(self, split: str, indices: Tensor, n: int) -> Examples:
        """See TaskFamily.pool: n points, each of a different map."""
        key = fold(self.keys(split, indices)[:, None], torch.arange(n, device=indices.device))  # [batches, n]
        x, y = self._examples(key, 2, 1, *self._maps(key))
        return Examples(x.squeeze(-2), y.squeeze(-2))

    def _maps(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [*tasks, inputs, outputs] and biases [*tasks, outputs]."""
        weight = self._weights(key, 0, (*self.x_shape, self.y_dim))
        bias = self._weights(key, 1, (self.y_dim,))
        return weight, bias if self.bias else torch.zeros_like(bias)

    def _weights(self, key: Tensor, stream: int, shape: tuple[int, ...]) -> Tensor:
        if self.weight_range is None:
            return self.weight_std * normal(key, stream, shape, dtype=self.dtype)
        return uniform(key, stream, shape, *self.weight_range, dtype=self.dtype)

    def _examples(self, key: Tensor, stream: int, n: int, weight: Tensor, bias: Tensor) -> Examples:
        x = uniform(key, stream, (n, *self.x_shape), *self.x_range, dtype=self.dtype)
        y = self._values(x, weight, bias)
        if self.noise:
            y = y + self.noise * normal(key, stream + 2, (n, self.y_dim), dtype=self.dtype)
        return Examples(x, y)

    def _values(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        # Summed input by input, not as a matrix product: a task's exact values must not depend on the batch size.
        y = bias.unsqueeze(-2).expand(*bias.shape[:-1], x.shape[-2], self.y_dim)
        for i in range(self.x_shape[0]):
            y = y + x[..., i : i + 1] * weight[..., i : i + 1, :]
        return y
