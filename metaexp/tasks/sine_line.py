"""Sinusoids and straight lines: two kinds of task in one family."""

import math

import torch
from torch import Tensor

from metaexp.constraints import Count, Interval, Natural, NonNegative, Share, checked
from metaexp.random import fold, normal, uniform
from metaexp.tasks.base import TaskFamily
from metaexp.types import Episode, Examples

# The functions of a batch of tasks: whether each is a line (bool), a and b of the lines, A and phase of the sinusoids,
# each [*tasks, 1, 1].
Functions = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class SineLine(TaskFamily):
    """Each task is, with probability `line`, a straight line y = a x + b, else a sinusoid y = A sin(x - phase).

    The 5-shot regression of "Probabilistic Model-Agnostic Meta-Learning", Finn, Xu, Levine, 2018, section 5: half of
    the tasks are lines with a and b ~ U[-3, 3], half sinusoids with A ~ U[0.1, 5] and phase ~ U[0, pi]; x ~ U[-5, 5].
    The Gaussian noise on y, standard deviation 0.3, is that of public implementations. The sinusoids are those of
    `Sine`: with the same seed and without noise, a task that is not a line is bit-identical to the task there.

    The noise is also on the query targets, so no prediction has an expected mse below noise^2.

    Args:
        line: probability that a task is a line: 0 gives sinusoids only, 1 lines only.
        amplitude, phase: (low, high) of the sinusoids' A and phase (radians).
        slope, intercept: (low, high) of the lines' a and b.
        x_range: (low, high) of the inputs.
        noise: standard deviation of the Gaussian noise on y.

    Raises:
        ValueError: a number is out of range.
    """

    x_shape, y_dim = (1,), 1
    kind_names = ("sine", "line")

    @checked
    def __init__(
        self,
        shots: Count = 5,
        queries: Natural = 10,
        line: Share = 0.5,
        amplitude: Interval = (0.1, 5.0),
        phase: Interval = (0.0, math.pi),
        slope: Interval = (-3.0, 3.0),
        intercept: Interval = (-3.0, 3.0),
        x_range: Interval = (-5.0, 5.0),
        noise: NonNegative = 0.3,
        test: dict[str, Natural | None] | None = None,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        super().__init__(shots, queries, None, test, seed, eval_seed)
        self.line, self.amplitude, self.phase, self.slope, self.intercept = line, amplitude, phase, slope, intercept
        self.x_range, self.noise = x_range, noise

    def sample(
        self,
        split: str,
        indices: Tensor,
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """See TaskFamily.sample.

        info holds, each [tasks]: kind (int64: 0 a sinusoid, 1 a line), slope and intercept (meaningful for lines only),
        amplitude and phase (for sinusoids only).
        """
        key = self.keys(split, indices)
        functions = self._functions(key)
        support = self._examples(key, 2, self.size(split, "shots", shots), functions)
        query = self._examples(key, 3, self.size(split, "queries", queries), functions)
        kind, *numbers = (value.flatten() for value in functions)
        names = ("slope", "intercept", "amplitude", "phase")
        return Episode(support, query, key, {"kind": kind.long()} | dict(zip(names, numbers, strict=True)))

    def pool(self, split: str, indices: Tensor, n: int) -> Examples:
        """See TaskFamily.pool: n points, each of a different function."""
        key = fold(self.keys(split, indices)[:, None], torch.arange(n, device=indices.device))  # [batches, n]
        x, y = self._examples(key, 2, 1, self._functions(key))
        return Examples(x.squeeze(-2), y.squeeze(-2))

    def oracle(self, episode: Episode, x: Tensor) -> Tensor:
        """The function itself, without noise: [m, 1] -> [m, 1]."""
        return _values(x, *(episode.info[n] for n in ("kind", "slope", "intercept", "amplitude", "phase")))

    def _functions(self, key: Tensor) -> Functions:
        # Streams 0 to 5 are used as in `Sine`.
        def draw(stream: int, low: float, high: float) -> Tensor:
            return uniform(key, stream, (1, 1), low, high, dtype=self.dtype)

        kind = draw(6, 0.0, 1.0) < self.line
        return kind, draw(7, *self.slope), draw(8, *self.intercept), draw(0, *self.amplitude), draw(1, *self.phase)

    def _examples(self, key: Tensor, stream: int, n: int, functions: Functions) -> Examples:
        x = uniform(key, stream, (n, 1), *self.x_range, dtype=self.dtype)
        y = _values(x, *functions)
        if self.noise:
            y = y + self.noise * normal(key, stream + 2, (n, 1), dtype=self.dtype)
        return Examples(x, y)


def _values(x: Tensor, kind: Tensor, slope: Tensor, intercept: Tensor, amplitude: Tensor, phase: Tensor) -> Tensor:
    return torch.where(kind > 0, slope * x + intercept, amplitude * torch.sin(x - phase))
