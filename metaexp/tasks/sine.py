"""Sinusoids: the regression benchmark of MAML."""

import math
from typing import Literal

import torch
from torch import Tensor

from metaexp.constraints import Count, Interval, Natural, NonNegative, checked
from metaexp.random import fold, normal, uniform
from metaexp.tasks.base import TaskFamily
from metaexp.types import Episode, Examples


class Sine(TaskFamily):
    """y = A sin(x - phase), A ~ U[0.1, 5], phase ~ U[0, pi], x ~ U[-5, 5], no noise.

    "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", Finn, Abbeel, Levine, 2017, section 5.1.
    Reptile's sine run (Nichol, Achiam, Schulman 2018) draws the phase from U[0, 2 pi] and adds it: `phase_sign=1`.

    Args:
        amplitude, phase, x_range: (low, high) of the uniform draws; phase in radians.
        phase_sign: -1 for sin(x - phase), 1 for sin(x + phase).
        noise: standard deviation of the Gaussian noise on y.
    """

    x_shape, y_dim = (1,), 1

    @checked
    def __init__(
        self,
        shots: Count = 10,
        queries: Natural = 10,
        amplitude: Interval = (0.1, 5.0),
        phase: Interval = (0.0, math.pi),
        x_range: Interval = (-5.0, 5.0),
        phase_sign: Literal[-1, 1] = -1,
        noise: NonNegative = 0.0,
        test: dict[str, Natural | None] | None = None,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        super().__init__(shots, queries, None, test, seed, eval_seed)
        self.amplitude, self.phase, self.x_range = amplitude, phase, x_range
        self.phase_sign, self.noise = phase_sign, noise

    def sample(
        self,
        split: str,
        indices: Tensor,
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """See TaskFamily.sample; info holds amplitude and phase, each [tasks]."""
        key = self.keys(split, indices)
        amplitude, phase = self._functions(key)  # [tasks, 1, 1] each
        support = self._examples(key, 2, self.size(split, "shots", shots), amplitude, phase)
        query = self._examples(key, 3, self.size(split, "queries", queries), amplitude, phase)
        return Episode(support, query, key, {"amplitude": amplitude.flatten(), "phase": phase.flatten()})

    def oracle(self, episode: Episode, x: Tensor) -> Tensor:
        """The sinusoid itself, without the noise: [m, 1] -> [m, 1]."""
        amplitude, phase = episode.info["amplitude"], episode.info["phase"]
        return amplitude * torch.sin(x + self.phase_sign * phase)

    def pool(self, split: str, indices: Tensor, n: int) -> Examples:
        """See TaskFamily.pool: n points, each of a different sinusoid."""
        batch = self.keys(split, indices)
        key = fold(batch[:, None], torch.arange(n, device=indices.device))  # [batches, n]
        x, y = self._examples(key, 2, 1, *self._functions(key))
        return Examples(x.squeeze(-2), y.squeeze(-2))

    def _functions(self, key: Tensor) -> tuple[Tensor, Tensor]:
        return (
            uniform(key, 0, (1, 1), *self.amplitude, dtype=self.dtype),
            uniform(key, 1, (1, 1), *self.phase, dtype=self.dtype),
        )

    def _examples(self, key: Tensor, stream: int, n: int, amplitude: Tensor, phase: Tensor) -> Examples:
        x = uniform(key, stream, (n, 1), *self.x_range, dtype=self.dtype)
        y = amplitude * torch.sin(x + self.phase_sign * phase)
        if self.noise:
            y = y + self.noise * normal(key, stream + 2, (n, 1), dtype=self.dtype)
        return Examples(x, y)
