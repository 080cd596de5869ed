"""Mixed-effects linear regression with coefficients that vary between tasks, by maximum likelihood (EM)."""

from typing import NamedTuple

import numpy as np

from tabling.table import Pool

# "Random-Effects Models for Longitudinal Data", Laird and Ware, 1982.


class Mixed(NamedTuple):
    """y = [1, x] (beta + u) + e with u ~ N(0, cov) for each task and e ~ N(0, noise)."""

    beta: np.ndarray  # [d + 1]
    cov: np.ndarray  # [d + 1, d + 1]; zero rows and columns where a coefficient does not vary
    noise: float
    log_likelihood: float

    def predict(self, x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
        """The conditional mean for inputs `new` [m, d] of a task with the support x [n, d], y [n]; n may be 0."""
        z, w = with_one(x), with_one(new)
        if not len(y):
            return w @ self.beta
        gram = z @ self.cov @ z.T + self.noise * np.eye(len(y))
        return w @ self.beta + w @ self.cov @ z.T @ np.linalg.solve(gram, y - z @ self.beta)


def with_one(x: np.ndarray) -> np.ndarray:
    """[n, d] -> [n, d + 1], a column of ones first."""
    return np.concatenate([np.ones((len(x), 1)), x], 1)


def fit(pool: Pool, slopes: bool, steps: int = 1000, tolerance: float = 1e-6) -> Mixed:
    """Maximum likelihood by EM: only the intercept varies between tasks, or with `slopes` every coefficient.

    Ends when a step gains less than `tolerance` of log-likelihood per row.
    """
    z = with_one(pool.x)
    varies = np.arange(z.shape[1] if slopes else 1)
    tasks = np.unique(pool.task)
    parts = [(z[pool.task == t], pool.y[pool.task == t]) for t in tasks]
    zz = np.stack([part.T @ part for part, _ in parts])  # [tasks, d + 1, d + 1]
    zy = np.stack([part.T @ y for part, y in parts])
    yy = np.array([y @ y for _, y in parts])
    counts = np.array([len(y) for _, y in parts])
    inverse = np.linalg.pinv(zz.sum(0))
    beta = inverse @ zy.sum(0)
    noise = float(np.mean((pool.y - z @ beta) ** 2)) / 2 + 1e-12
    cov = noise * np.eye(len(varies))
    before = -np.inf
    for _ in range(steps):
        rest = zy - zz @ beta  # z' (y - z beta), [tasks, d + 1]
        square = yy - 2 * zy @ beta + np.einsum("i,tij,j->t", beta, zz, beta)
        own = zz[:, varies][:, :, varies]
        post = np.linalg.inv(np.linalg.inv(cov) + own / noise)  # [tasks, v, v]
        mean = np.einsum("tij,tj->ti", post, rest[:, varies]) / noise
        now = _log_likelihood(cov, noise, post, mean, rest[:, varies], square, counts)
        if now - before < tolerance * counts.sum():
            break
        before = now
        cov = (post + mean[:, :, None] * mean[:, None]).mean(0) + 1e-10 * np.eye(len(varies))
        shift = np.zeros_like(zy)
        shift[:, varies] = mean
        beta = inverse @ (zy.sum(0) - np.einsum("tij,tj->i", zz, shift))
        rest = zy - zz @ beta
        square = yy - 2 * zy @ beta + np.einsum("i,tij,j->t", beta, zz, beta)
        left = square - 2 * np.einsum("ti,ti->t", mean, rest[:, varies]) + np.einsum("ti,tij,tj->t", mean, own, mean)
        noise = float((left + np.einsum("tij,tji->t", own, post)).sum() / counts.sum())
    whole = np.zeros((z.shape[1], z.shape[1]))
    whole[np.ix_(varies, varies)] = cov
    return Mixed(beta, whole, noise, float(before))


def _log_likelihood(
    cov: np.ndarray,
    noise: float,
    post: np.ndarray,
    mean: np.ndarray,
    rest: np.ndarray,
    square: np.ndarray,
    counts: np.ndarray,
) -> float:
    """log p(y) of all tasks: y - z beta ~ N(0, z cov z' + noise), by the determinant and inversion lemmas."""
    fitted = (square - np.einsum("ti,ti->t", mean, rest)) / noise  # the quadratic form
    logdet = counts * np.log(noise) + np.linalg.slogdet(cov)[1] - np.linalg.slogdet(post)[1]
    return float(-0.5 * (fitted + logdet + counts * np.log(2 * np.pi)).sum())
