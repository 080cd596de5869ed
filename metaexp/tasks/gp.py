"""Functions drawn from Gaussian processes: neural processes' regression benchmark, with a known best prediction."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypedDict, get_args

import torch
from torch import Tensor

from metaexp.constraints import Count, Natural, NonNegative, Ordered, Positive, checked
from metaexp.random import GAMMA, fold, normal, uniform
from metaexp.tasks.base import TaskFamily, Varying
from metaexp.types import Episode, Examples

Kernel = Literal["eq", "matern52", "periodic"]
KERNELS = get_args(Kernel)
FIRST = 16  # support points that are always drawn, before the queries
PIECE = 256  # tasks whose covariances are in memory at once
TEST_BUCKET = 10  # bucket size of validation and test tasks: they must not depend on meta_batch

Number = Positive | Annotated[tuple[Positive, Positive], Ordered()]  # a number, or [low, high] to draw it from
Shots = Natural | Annotated[tuple[Natural, Natural], Ordered()]


class Sizes(TypedDict, total=False):
    """Settings that may differ at validation and test; None: as in training."""

    shots: Shots | None
    queries: Natural | None


class GP(TaskFamily):
    """y = f(x) + noise, f drawn from a Gaussian process of mean 0; x ~ U[x_range].

    With scale s, length l, period p and d = x - x', the covariance is
    eq: s^2 exp(-d^2 / (2 l^2)); matern52: s^2 (1 + r + r^2 / 3) exp(-r), r = sqrt(5) |d| / l;
    periodic: s^2 exp(-2 sin^2(pi d / p) / l^2).

    "Conditional Neural Processes", Garnelo et al., 2018, section 4.1. The defaults of kernel and range are those of
    the "eq" data of the NeuralProcesses.jl package (with noise of variance 1e-8, and a context of 0 to 50 points in
    training and 0 to 10 in its tests); the CNP authors' notebook has length 0.4, noise 0.02 and 3 to 9 points.

    The number of support points may vary: `shots=[0, 50]`. All tasks of a bucket (consecutive tasks) have the same
    number. From bucket to bucket it runs through the range in steps of the golden ratio, starting at a position drawn
    for each seed and split, so that in any sequence of buckets every number is nearly equally frequent. The number of
    queries does not vary.

    All points of a task are drawn from one covariance, in this order: the first 16 support points, the queries, further
    support points up to the largest number of any split; points that were not requested are dropped. As a result, a
    support set with fewer shots is the beginning of one with more. The queries do not depend on the number of shots
    (above the largest number of any split, they differ by rounding only). Up to 16 shots, the support set does not
    depend on the number of queries. Covariances are computed in float64 wherever the device supports it.

    Args:
        shots: support points: a number, or the range (fewest, most) in which it varies; 0 is allowed.
        queries: query points.
        kernel: eq | matern52 | periodic.
        length, scale, period: numbers, or ranges (low, high) from which each task draws its own.
        noise: standard deviation of the noise on y; the noise variance is never below the jitter, 1e-8 scale^2
            (1e-4 scale^2 in float32, on devices without float64).
        bucket: consecutive training tasks with the same number of support points, a multiple of the meta-batch; at
            validation and test it is 10.

    Raises:
        ValueError: a number is out of range, or a meta-batch crosses the boundary of a bucket.
    """

    x_shape, y_dim = (1,), 1
    least_shots, gaussian_oracle = 0, True

    @checked
    def __init__(
        self,
        shots: Shots = 10,
        queries: Natural = 50,
        kernel: Kernel = "eq",
        length: Number = 0.25,
        scale: Number = 1.0,
        period: Number = 1.0,
        noise: NonNegative = 0.0,
        x_range: Annotated[tuple[float, float], Ordered(strict=True)] = (-2.0, 2.0),
        bucket: Count = 16,
        test: Sizes | None = None,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        changed: dict[str, Any] = dict(test or {})
        given = changed.get("shots")
        train = _range(shots)
        tested = train if given is None else _range(given)
        changed["shots"] = None if given is None else tested[1]
        super().__init__(train[1], queries, None, changed, seed, eval_seed)
        self.kernel, self.noise, self.x_range = kernel, noise, x_range
        self.length, self.scale, self.period = (_range(value) for value in (length, scale, period))
        self._shots = {"train": train, "val": tested, "test": tested}
        self._most = max(FIRST, *(int(most) for _, most in self._shots.values()))
        self._bucket = {"train": bucket, "val": TEST_BUCKET, "test": TEST_BUCKET}

    def varying(self, split: str) -> Varying | None:
        """See TaskFamily.varying."""
        fewest, most = self._shots[split]
        return None if fewest == most else Varying(int(fewest), int(most), self._bucket[split])

    def sample(
        self,
        split: str,
        indices: Tensor,
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """See TaskFamily.sample; info holds length, scale and period, each [tasks].

        Raises ValueError if the tasks belong to more than one bucket and no number of shots is given.
        """
        shots, queries = self._count(split, indices) if shots is None else shots, self.size(split, "queries", queries)
        key = self.keys(split, indices)
        info = self._hyperparameters(key)
        n = max(shots, self._most)
        support_x, query_x = (
            uniform(key, 3 + i, (m, 1), *self.x_range, self.dtype) for i, m in enumerate((n, queries))
        )
        noise = [normal(key, 5 + i, (m,), dtype=self._precise) for i, m in enumerate((n, queries))]
        x = torch.cat((support_x[:, :FIRST], query_x, support_x[:, FIRST:]), 1)
        z = torch.cat((noise[0][:, :FIRST], noise[1], noise[0][:, FIRST:]), 1)
        y = self._draw(x, z, info).to(self.dtype)
        support_y = torch.cat((y[:, :FIRST], y[:, FIRST + queries :]), 1)  # [tasks, n, 1]
        support = Examples(support_x[:, :shots], support_y[:, :shots])
        return Episode(support, Examples(query_x, y[:, FIRST : FIRST + queries]), key, info)

    def pool(self, split: str, indices: Tensor, n: int) -> Examples:
        """See TaskFamily.pool: n points, each of a different function, so that y is s times a normal number."""
        key = fold(self.keys(split, indices)[:, None], torch.arange(n, device=indices.device))  # [batches, n]
        x = uniform(key, 3, (1,), *self.x_range, dtype=self.dtype)
        scale = self._hyperparameters(key)["scale"]
        y = torch.sqrt(scale**2 + self._variance(scale)) * normal(key, 5, (), dtype=self.dtype)
        return Examples(x, y.unsqueeze(-1))

    def oracle(self, episode: Episode, x: Tensor) -> Tensor:
        """The exact posterior of ONE task at x [m, 1]: [m, 2], mean and standard deviation of y, noise included.

        It knows the task's own kernel, and predicts each target separately (the diagonal of the covariance).
        """
        info = {name: value.to(self._precise) for name, value in episode.info.items()}
        given, y, at = (t.to(self._precise) for t in (*episode.support, x))
        noise = self._variance(info["scale"])
        eye = torch.eye(len(given), dtype=self._precise, device=x.device)
        root = torch.linalg.cholesky_ex(self._covariance(given, given, info) + noise * eye).L  # [n, n]
        cross = torch.linalg.solve_triangular(root, self._covariance(given, at, info), upper=False)  # [n, m]
        mean = cross.T @ torch.linalg.solve_triangular(root, y, upper=False)  # [m, 1]
        variance = torch.clamp(info["scale"] ** 2 - (cross**2).sum(0), min=0.0) + noise
        return torch.cat((mean, torch.sqrt(variance).unsqueeze(-1)), -1).to(x.dtype)

    # -- the process -------------------------------------------------------------------------------------------------

    @property
    def _precise(self) -> torch.dtype:
        return torch.float32 if self.device.type == "mps" else torch.float64

    def _variance(self, scale: Tensor) -> Tensor:
        """Variance of the noise on y: at least the jitter that a Cholesky factor needs in finite precision."""
        jitter = 1e-8 if self._precise == torch.float64 else 1e-4
        return torch.clamp(jitter * scale**2, min=self.noise**2)

    def _count(self, split: str, indices: Tensor) -> int:
        """The number of support points of these tasks."""
        varying = self.varying(split)
        if varying is None:
            return self.size(split, "shots", None)
        first, last = int(indices.min()), int(indices.max())
        place = first // varying.bucket
        if place != last // varying.bucket:
            raise ValueError(
                f'shots=[{varying.fewest}, {varying.most}]: tasks {first} to {last} of split "{split}" have different '
                f"numbers of support points; draw at most {varying.bucket} tasks at once, of one bucket, or pass shots"
            )
        start = self.keys(split, torch.tensor([-1]))  # a key that no task has
        turn = ((start + place * torch.tensor([GAMMA])) >> 32) & 0xFFFFFFFF  # steps of the golden ratio, modulo 1
        return varying.fewest + int((turn * (varying.most - varying.fewest + 1)) >> 32)

    def _hyperparameters(self, key: Tensor) -> dict[str, Tensor]:
        """length, scale and period, each [*key.shape]."""
        ranges = {"length": self.length, "scale": self.scale, "period": self.period}
        return {name: uniform(key, i, (), *ranges[name], dtype=self.dtype) for i, name in enumerate(ranges)}

    def _draw(self, x: Tensor, z: Tensor, info: dict[str, Tensor]) -> Tensor:
        """Values [tasks, n, 1] of the functions at x [tasks, n, 1], from standard normal numbers z [tasks, n]."""
        parts = []
        for start in range(0, len(x), PIECE):
            at = x[start : start + PIECE].to(self._precise)
            own = {name: value[start : start + PIECE].to(self._precise) for name, value in info.items()}
            covariance = self._covariance(at, at, own)
            covariance.diagonal(dim1=-2, dim2=-1).add_(self._variance(own["scale"]).unsqueeze(-1))
            root = torch.linalg.cholesky(covariance)
            # Not a matrix product: a task's exact values must not depend on the size of the batch.
            parts.append((root * z[start : start + PIECE].unsqueeze(-2)).sum(-1, keepdim=True))
        return torch.cat(parts)

    def _covariance(self, a: Tensor, b: Tensor, info: dict[str, Tensor]) -> Tensor:
        """[*tasks, n, 1], [*tasks, m, 1], hyperparameters [*tasks] -> [*tasks, n, m], without noise."""
        distance = a - b.mT
        length, scale, period = (info[name][..., None, None] for name in ("length", "scale", "period"))
        if self.kernel == "eq":
            return scale**2 * torch.exp(-0.5 * (distance / length) ** 2)
        if self.kernel == "periodic":
            return scale**2 * torch.exp(-2.0 * (torch.sin(math.pi * distance / period) / length) ** 2)
        r = math.sqrt(5.0) * distance.abs() / length
        return scale**2 * (1.0 + r + r**2 / 3.0) * torch.exp(-r)


def _range(value: Any) -> tuple[Any, Any]:
    """(low, high) of one number or a list of two."""
    low, high = value if isinstance(value, Sequence) else (value, value)
    return low, high
