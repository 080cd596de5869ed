"""Six kinds of functions of two numbers in one family: the regression benchmark of task heterogeneity."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from metaexp.constraints import Count, Interval, Limit, Natural, NonNegative, checked
from metaexp.random import fold, integers, normal, uniform
from metaexp.tasks.base import TaskFamily
from metaexp.tasks.mixture_posterior import Posterior, posterior
from metaexp.types import Episode, Examples

KindName = Literal["sine", "line", "quadratic", "cubic", "surface", "ripple"]
NAMES: tuple[KindName, ...] = get_args(KindName)  # info["kind"] counts in this order
MOST = 4  # parameters of a kind


class Kind(NamedTuple):
    """One kind of function: its parameters are uniform in `ranges` and independent."""

    function: Callable[..., Tensor]  # (u, v, *parameters), broadcasting
    ranges: tuple[tuple[float, float], ...]
    flat: bool  # the second input is 1 and plays no part


KINDS: dict[str, Kind] = {
    "sine": Kind(
        lambda u, v, a, w, b: a * torch.sin(w * u + b), ((0.1, 5.0), (0.8, 1.2), (0.0, 2.0 * math.pi)), flat=True
    ),
    "line": Kind(lambda u, v, a, b: a * u + b, ((-3.0, 3.0),) * 2, flat=True),
    "quadratic": Kind(lambda u, v, a, b, c: (a * u + b) * u + c, ((-0.2, 0.2), (-2.0, 2.0), (-3.0, 3.0)), flat=True),
    "cubic": Kind(
        lambda u, v, a, b, c, d: ((a * u + b) * u + c) * u + d,
        ((-0.1, 0.1), (-0.2, 0.2), (-2.0, 2.0), (-3.0, 3.0)),
        flat=True,
    ),
    "surface": Kind(lambda u, v, a, b: a * u**2 + b * v**2, ((-1.0, 1.0),) * 2, flat=False),
    "ripple": Kind(lambda u, v, a, b: torch.sin(-a * (u**2 + v**2)) + b, ((-0.2, 0.2), (-3.0, 3.0)), flat=False),
}


class Mixture(TaskFamily):
    """Each task is a function of (u, v) of one of six kinds, all equally likely, with noise on every target.

    "Automated Relational Meta-learning", Yao, Wu, Tao, Li, Ding, Li, Li, ICLR 2020, section 5.2 and its authors' code:

        sine       a sin(w u + b)           a ~ U[0.1, 5], w ~ U[0.8, 1.2], b ~ U[0, 2 pi]
        line       a u + b                  a, b ~ U[-3, 3]
        quadratic  a u^2 + b u + c          a ~ U[-0.2, 0.2], b ~ U[-2, 2], c ~ U[-3, 3]
        cubic      a u^3 + b u^2 + c u + d  a ~ U[-0.1, 0.1], b ~ U[-0.2, 0.2], c ~ U[-2, 2], d ~ U[-3, 3]
        surface    a u^2 + b v^2            a, b ~ U[-1, 1]
        ripple     sin(-a (u^2 + v^2)) + b  a ~ U[-0.2, 0.2], b ~ U[-3, 3]

    with (u, v) ~ U[0, 5]^2, except that v = 1 in the first four kinds, and noise of standard deviation 0.3 on support
    and query targets alike, so that no prediction has an expected mse below 0.09. The paper writes [0, 5] for the
    inputs; the code that its authors published draws from [-5, 5] (`x_range`), which is harder.

    The upper bound is the Bayes prediction: the posterior mean of the function given the support set, by importance
    sampling (see `metaexp.tasks.mixture_posterior`). It knows the family, but not the task. Without noise it is not
    defined, and the family has no upper bound.

    Args:
        shots, queries: support and query points.
        kinds: the kinds that occur; a task's parameters do not depend on which others do.
        x_range: (low, high) of both inputs.
        noise: standard deviation of the Gaussian noise on y.
        oracle_samples: samples per kind from which the upper bound is computed.

    Raises:
        ValueError: a setting is out of range, or a kind stands twice or not at all.
    """

    x_shape, y_dim = (2,), 1
    kind_names = NAMES

    @checked
    def __init__(
        self,
        shots: Count = 10,
        queries: Natural = 10,
        kinds: Sequence[KindName] = NAMES,
        x_range: Interval = (0.0, 5.0),
        noise: NonNegative = 0.3,
        oracle_samples: Annotated[int, Limit(least=16)] = 1024,
        test: dict[str, Natural | None] | None = None,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        super().__init__(shots, queries, None, test, seed, eval_seed)
        if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(NAMES):
            raise ValueError(f"kinds={list(kinds)}: must be one or more of {', '.join(NAMES)}, each at most once")
        self.kinds = sorted(NAMES.index(kind) for kind in kinds)
        self.x_range, self.noise, self.oracle_samples = x_range, noise, oracle_samples
        self.oracle = self.bayes if noise else None

    def sample(
        self,
        split: str,
        indices: Tensor,
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """See TaskFamily.sample; info holds `kind`, int64 [tasks], a place in `NAMES`, and `parameters` [tasks, 4].

        The parameters are in the order of the formula; a kind with fewer than four has zeros behind its own.
        """
        key = self.keys(split, indices)
        kind, parameters = self._functions(key)
        support = self._examples(key, 2, self.size(split, "shots", shots), kind, parameters)
        query = self._examples(key, 3, self.size(split, "queries", queries), kind, parameters)
        return Episode(support, query, key, {"kind": kind, "parameters": parameters})

    def pool(self, split: str, indices: Tensor, n: int) -> Examples:
        """See TaskFamily.pool: n points, each of a different function."""
        key = fold(self.keys(split, indices)[:, None], torch.arange(n, device=indices.device))  # [batches, n]
        x, y = self._examples(key, 2, 1, *self._functions(key))
        return Examples(x.squeeze(-2), y.squeeze(-2))

    def bayes(self, episode: Episode, x: Tensor) -> Tensor:
        """The posterior mean of ONE task's function at x [m, 2], given its support set: [m, 1]."""
        return self.posterior(episode, x).mean.unsqueeze(-1).to(x.dtype)

    def oracle_diagnostics(self, episode: Episode) -> dict[str, Tensor]:
        """`effective_samples` behind the Bayes prediction of ONE task, and `p_kind`, what it gives the true kind."""
        found = self.posterior(episode, episode.query.x[:1])
        own = torch.tensor(self.kinds, device=found.kinds.device) == episode.info["kind"]
        return {"effective_samples": found.effective_samples, "p_kind": (found.kinds * own).sum()}

    def posterior(self, episode: Episode, x: Tensor, draw: int = 0) -> Posterior:
        """What is known of ONE task after its support set, at x [m, 2]; `draw` numbers independent samples."""
        names = [NAMES[kind] for kind in self.kinds]
        flat = [KINDS[name].flat for name in names]
        return posterior(names, flat, episode.support, x, self.noise, self.oracle_samples, fold(episode.key, draw))

    def _functions(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """Each task's kind [*tasks] and parameters [*tasks, 4]."""
        place = integers(key, 0, (), len(self.kinds))  # [*tasks]
        kind, parameters = torch.full_like(place, self.kinds[0]), None
        share = uniform(key, 1, (MOST,), dtype=self.dtype)  # [*tasks, 4] in [0, 1)
        for i, number in enumerate(self.kinds):
            ranges = KINDS[NAMES[number]].ranges
            own = [low + (high - low) * share[..., j] for j, (low, high) in enumerate(ranges)]
            drawn = torch.stack([*own, *[torch.zeros_like(own[0])] * (MOST - len(own))], -1)
            chosen = place == i
            kind = torch.where(chosen, number, kind)
            parameters = drawn if parameters is None else torch.where(chosen.unsqueeze(-1), drawn, parameters)
        assert parameters is not None
        return kind, parameters

    def _examples(self, key: Tensor, stream: int, n: int, kind: Tensor, parameters: Tensor) -> Examples:
        """The first n points of a stream: x [*tasks, n, 2], y [*tasks, n, 1]."""
        u, v = uniform(key, stream, (n, 2), *self.x_range, dtype=self.dtype).split(1, -1)  # [*tasks, n, 1] each
        each = [p[..., None] for p in parameters.split(1, -1)]  # [*tasks, 1, 1]
        own, plane, y = kind[..., None, None], v, torch.zeros_like(u)
        for number in self.kinds:
            function, ranges, flat = KINDS[NAMES[number]]
            y = torch.where(own == number, function(u, v, *each[: len(ranges)]), y)
            plane = torch.where(own == number, 1.0, plane) if flat else plane
        if self.noise:
            y = y + self.noise * normal(key, stream + 2, (n, 1), dtype=self.dtype)
        return Examples(torch.cat((u, plane), -1), y)
