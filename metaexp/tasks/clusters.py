"""Gaussian clusters: the smallest classification family, for examples and tests."""

from typing import Annotated

import torch
from torch import Tensor

from metaexp.constraints import Count, Limit, Natural, Positive, checked
from metaexp.random import fold, integers, normal
from metaexp.tasks.base import TaskFamily
from metaexp.types import Episode, Examples


class Clusters(TaskFamily):
    """N-way episodes of points in `dim` dimensions: a class is a centre c ~ N(0, spread^2 I), an example c + noise e.

    e is standard normal; the difficulty depends only on spread / noise. Examples are ordered by class. Every episode
    has new classes, of which there are infinitely many, so the 1-shot support set is part of the 5-shot one, the 5-way
    episode part of the 20-way one, and no size is too large. The best possible classifier (`oracle`) knows the centres.

    A network trained on pooled data (`joint`) needs a fixed list of classes. `pool` draws from `pool_classes` classes
    per split. They are the same in every batch and have the distribution of the episodes' classes, but no episode
    contains them.

    Args:
        ways, shots, queries: classes per episode, support and query examples per class.
        dim: dimensions of a point.
        spread: standard deviation of the centres, per dimension.
        noise: standard deviation of the examples around their centre, per dimension.
        pool_classes: number of classes in the pooled data.

    Raises:
        ValueError: a number is out of range.
    """

    classification = True

    @checked
    def __init__(
        self,
        shots: Count = 1,
        queries: Natural = 15,
        ways: Annotated[int, Limit(least=2)] = 5,
        dim: Count = 2,
        spread: Positive = 1.0,
        noise: Positive = 0.2,
        pool_classes: Annotated[int, Limit(least=2)] = 64,
        test: dict[str, Natural | None] | None = None,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        super().__init__(shots, queries, ways, test, seed, eval_seed)
        self.x_shape, self.y_dim, self.spread, self.noise = (dim,), ways, spread, noise
        self.pool_classes = pool_classes

    @property
    def pool_dim(self) -> int:
        """Number of classes in the pooled data."""
        return self.pool_classes if self._first is None else super().pool_dim

    def sample(
        self,
        split: str,
        indices: Tensor,
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """See TaskFamily.sample; info holds centres, [tasks, ways, dim]."""
        key, ways = self.keys(split, indices), self.size(split, "ways", ways)
        own = fold(fold(key, 0)[:, None], torch.arange(ways, device=key.device))  # [tasks, ways], one key per class
        centres = self._centres(own)
        target = torch.eye(ways, dtype=self.dtype, device=key.device)

        def examples(stream: int, k: int) -> Examples:
            x = centres.unsqueeze(-2) + self.noise * normal(own, stream, (k, *self.x_shape), dtype=self.dtype)
            y = target.repeat_interleave(k, 0)  # [ways k, ways]
            return Examples(x.flatten(1, 2), y.expand(len(indices), *y.shape))

        support = examples(1, self.size(split, "shots", shots))
        return Episode(support, examples(2, self.size(split, "queries", queries)), key, {"centres": centres})

    def pool(self, split: str, indices: Tensor, n: int) -> Examples:
        """See TaskFamily.pool: n examples, each of one of `pool_classes` classes."""
        no_task = torch.full_like(indices[:1], -1)  # -1 is not a task: its key gives the split's pooled classes
        key = fold(self.keys(split, indices)[:, None], torch.arange(n, device=indices.device))  # [batches, n]
        drawn = integers(key, 0, (), self.pool_classes)
        centres = self._centres(fold(fold(self.keys(split, no_task), 0), drawn))  # [batches, n, dim]
        x = centres + self.noise * normal(key, 1, self.x_shape, dtype=self.dtype)
        every = torch.arange(self.pool_classes, device=indices.device)
        return Examples(x, (drawn.unsqueeze(-1) == every).to(self.dtype))

    def oracle(self, episode: Episode, x: Tensor) -> Tensor:
        """The Bayes classifier's logits, -|x - c|^2 / (2 noise^2): x [m, dim] -> [m, ways]."""
        return self._logits(x, episode.info["centres"])

    def _centres(self, key: Tensor) -> Tensor:
        """Keys of classes [*n] -> their centres [*n, dim]."""
        return self.spread * normal(key, 0, self.x_shape, dtype=self.dtype)

    def _logits(self, x: Tensor, centres: Tensor) -> Tensor:
        # [*n, m, dim], [*n, ways, dim] -> [*n, m, ways].
        return -((x.unsqueeze(-2) - centres.unsqueeze(-3)) ** 2).sum(-1) / (2 * self.noise**2)
