"""Random quadratics: the smallest optimisation problems, for learned optimisers."""

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from metaexp.constraints import Count, Limit, Natural, NonNegative, checked
from metaexp.random import fold, normal, uniform
from metaexp.tasks.base import TaskFamily
from metaexp.types import Episode, Examples


class Quadratic(TaskFamily):
    """A task is the function f(theta) = |W theta - y|^2, W [rows, dim] and y [rows]; adapting means minimising it.

    "Learning to learn by gradient descent by gradient descent", Andrychowicz et al., 2016, section 3.1: dim = rows =
    10, all elements of W and y standard normal. (The authors' code draws them from U[0, 1): `elements="uniform"`.)

    It is a regression task like any other: x are the rows of W, y their targets, and the network is the optimisee,
    which is theta itself if it is a linear map without bias (model=linear, whose bias is off for this family). The
    loss, a mean over rows, is f / rows, so every gradient-based method runs on it.

    An optimiser is judged by the function that it was given, not by other data. So, UNLIKE in every other family, the
    queries are not separate examples: support and query set are the beginnings of ONE list of rows. The queries are
    the objective: mse on them is f / rows. The support set holds the same rows (with fewer shots than queries, a part
    of them: a minibatch of the objective). With `fresh`, the queries are other rows, and the task is plain regression.

    Args:
        shots: rows of W that the method is given.
        queries: rows of W on which f is measured; None: as many as shots, the same rows.
        dim: length of theta.
        elements: "normal" or "uniform" (in [0, 1)), the distribution of the elements of W and, without `noise`, of y.
        condition: column j of W is multiplied by condition^(-j / (2 dim - 2)), j = 0 ... dim - 1: with normal elements
            the mean Hessian then has this condition number. 1 is the paper's W (whose own W^T W varies a lot).
        noise: None: y is drawn like W, independently of it, as in the paper. A number: y = W theta* + noise e with
            theta* and e standard normal, so that f is small at theta*.
        fresh: queries are rows from a separate stream; needs `noise`, without which they could not be predicted.

    Raises:
        ValueError: a setting is out of range.
    """

    y_dim = 1

    @checked
    def __init__(
        self,
        shots: Count = 10,
        queries: Natural | None = None,
        dim: Count = 10,
        elements: Literal["normal", "uniform"] = "normal",
        condition: Annotated[float, Limit(least=1)] = 1.0,
        noise: NonNegative | None = None,
        fresh: bool = False,
        test: dict[str, Natural | None] | None = None,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        changed = dict(test or {})
        if queries is None:
            queries, test_shots = shots, changed.get("shots")
            changed["queries"] = test_shots if changed.get("queries") is None else changed["queries"]
        super().__init__(shots, queries, None, changed, seed, eval_seed)
        if fresh and noise is None:
            raise ValueError("fresh=True: nothing can be known of fresh rows where y is independent of W; set noise")
        self.x_shape, self.elements, self.noise, self.fresh = (dim,), elements, noise, fresh
        self.queries_in_support = not fresh
        self.scales = [condition ** (-j / (2 * max(dim - 1, 1))) for j in range(dim)]

    def sample(
        self,
        split: str,
        indices: Tensor,
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """See TaskFamily.sample, and the class for the queries; with `noise`, info holds theta* as theta [tasks, dim].

        The number of queries is the setting `queries`, not the shots of this call: shots=1 gives one row of the same
        objective.
        """
        key = self.keys(split, indices)
        theta = self._theta(key)
        support = self._rows(key, 1, self.size(split, "shots", shots), theta)
        query = self._rows(key, 3 if self.fresh else 1, self.size(split, "queries", queries), theta)
        return Episode(support, query, key, {} if theta is None else {"theta": theta})

    def pool(self, split: str, indices: Tensor, n: int) -> Examples:
        """See TaskFamily.pool: n rows, each of a different function."""
        key = fold(self.keys(split, indices)[:, None], torch.arange(n, device=indices.device))  # [batches, n]
        x, y = self._rows(key, 1, 1, self._theta(key))
        return Examples(x.squeeze(-2), y.squeeze(-2))

    def oracle(self, episode: Episode, x: Tensor) -> Tensor:
        """x [m, dim] -> [m, 1] at the minimum of f (least squares over the query rows); with `fresh`, at theta*."""
        if self.fresh:
            return x @ episode.info["theta"].unsqueeze(-1)
        return x @ (torch.linalg.pinv(episode.query.x) @ episode.query.y)

    def _theta(self, key: Tensor) -> Tensor | None:
        return None if self.noise is None else normal(key, 0, self.x_shape, dtype=self.dtype)  # [*tasks, dim]

    def _elements(self, key: Tensor, stream: int, shape: tuple[int, ...]) -> Tensor:
        draw: Any = normal if self.elements == "normal" else uniform
        drawn: Tensor = draw(key, stream, shape, dtype=self.dtype)
        return drawn

    def _rows(self, key: Tensor, stream: int, n: int, theta: Tensor | None) -> Examples:
        """The first n rows: x [*tasks, n, dim], y [*tasks, n, 1]."""
        w = self._elements(key, stream, (n, *self.x_shape))
        if self.scales[-1] != 1:
            w = w * torch.tensor(self.scales, dtype=self.dtype, device=key.device)
        if theta is None:
            return Examples(w, self._elements(key, stream + 1, (n, 1)))
        assert self.noise is not None
        y = self.noise * normal(key, stream + 1, (n, 1), dtype=self.dtype)
        # Summed column by column, not as a matrix product: a task's exact values must not depend on the batch size.
        for j in range(self.x_shape[0]):
            y = y + w[..., j : j + 1] * theta[..., None, j : j + 1]
        return Examples(w, y)
