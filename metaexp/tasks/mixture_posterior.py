"""The Bayes prediction for a mixture of kinds of functions, by importance sampling (see `metaexp.tasks.mixture`).

Every kind is, given at most one parameter eta, a linear model: f(x) = c(x; eta) + phi(x; eta) beta. For each kind,
N values eta_i are drawn from the prior, evenly stratified, and for each one beta_i from the Gaussian

    q(beta | eta) ~ N(y | c + phi beta, noise^2 I) N(beta | 0, diag(spread^2)),

the exact posterior under a Gaussian prior as wide as the true one. The true priors are uniform, not Gaussian, and so
nothing here is conjugate; the importance weight

    w_i = N(y | c + phi beta_i, noise^2 I) p(beta_i) / q(beta_i | eta_i)

corrects that, and the mean of a kind's weights estimates its marginal likelihood. As the proposal has seen the support
set, the weights of the kinds without eta are bounded by the ratio of the two priors, and a thousand samples do what
samples of the prior need millions for. Kinds are equally likely beforehand; whether the second input is 1 everywhere
tells the flat kinds from the others. Exact are: the Gaussian proposal, and for kinds that are linear in all their
parameters the prediction at the posterior mean of beta. Everything is computed in float64 wherever the device has it.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metaexp.random import normal, uniform
from metaexp.types import Examples

PIECE = 256  # samples whose predictions are in memory at once


class Posterior(NamedTuple):
    """What is known of one task."""

    mean: Tensor  # [m]  of the function, at the points that were asked for
    kinds: Tensor  # [kinds]  probability of each kind
    effective_samples: Tensor  # []  (sum w)^2 / sum w^2 over the samples of all kinds


class LinearModel(NamedTuple):
    """A kind of function as a linear model given eta."""

    features: Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]  # (u, v, eta) -> phi_1, ..., phi_d
    spread: tuple[float, ...]  # standard deviations of the proposal's Gaussian prior on beta
    log_prior: Callable[[Tensor], Tensor]  # [N, d] -> [N], -inf outside
    eta: tuple[float, float] | None = None  # (low, high) of its uniform prior
    constant: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None  # c(u, v, eta)


def _box(*half: float) -> Callable[[Tensor], Tensor]:
    """Log density of uniform numbers, each in [-h, h]."""

    def log_prior(beta: Tensor) -> Tensor:
        outside = torch.stack([beta[:, j].abs() > h for j, h in enumerate(half)]).any(0)
        return torch.where(outside, -math.inf, -sum(math.log(2.0 * h) for h in half))

    return log_prior


def _ring(beta: Tensor) -> Tensor:
    """Log density of (a cos b, a sin b) with a ~ U[0.1, 5], b ~ U[0, 2 pi]: 1 / r in a ring."""
    r = torch.linalg.vector_norm(beta, dim=1)
    log_density = -torch.log(r.clamp(min=0.1)) - math.log(4.9 * 2.0 * math.pi)
    return torch.where((r < 0.1) | (r > 5.0), -math.inf, log_density)


def _wave(angle: Tensor) -> tuple[Tensor, Tensor]:
    return torch.sin(angle), torch.cos(angle)


def _polynomial(*half: float) -> LinearModel:
    degree = len(half) - 1
    return LinearModel(lambda u, v, _: [u ** (degree - j) for j in range(degree + 1)], half, _box(*half))


MODELS: dict[str, LinearModel] = {
    # a sin(w u + b) = a cos b sin(w u) + a sin b cos(w u)
    "sine": LinearModel(lambda u, v, w: _wave(w * u), (3.0, 3.0), _ring, (0.8, 1.2)),
    "line": _polynomial(3.0, 3.0),
    "quadratic": _polynomial(0.2, 2.0, 3.0),
    "cubic": _polynomial(0.1, 0.2, 2.0, 3.0),
    "surface": LinearModel(lambda u, v, _: (u**2, v**2), (1.0, 1.0), _box(1.0, 1.0)),
    "ripple": LinearModel(
        lambda u, v, _: (torch.ones_like(u),),
        (3.0,),
        _box(3.0),
        (-0.2, 0.2),
        lambda u, v, a: torch.sin(-a * (u**2 + v**2)),
    ),
}


class _Samples(NamedTuple):
    """Samples of one kind."""

    log_weights: Tensor  # [N]
    eta: Tensor  # [N], or [1] for a kind that has none
    beta: Tensor  # [N, d]


def posterior(
    names: Sequence[str], flat: Sequence[bool], support: Examples, x: Tensor, noise: float, samples: int, key: Tensor
) -> Posterior:
    """The posterior of ONE task.

    Args:
        names, flat: the kinds (of `MODELS`) that may be, and for each whether its second input is always 1.
        support: x [n, 2], y [n, 1].
        x: where to predict, [m, 2].
        noise: standard deviation of the noise on y, above 0.
        samples: N, of each kind.
        key: [] of the samples.
    """
    precise = torch.float32 if x.device.type == "mps" else torch.float64
    given, y, at = support.x.to(precise), support.y.to(precise).flatten(), x.to(precise)
    level = (given[:, 1] == 1.0).all()
    drawn = [_draw(MODELS[name], given, y, noise, samples, key, 8 * i) for i, name in enumerate(names)]
    log_weights = torch.stack(
        [torch.where(level == own, one.log_weights, -math.inf) for own, one in zip(flat, drawn, strict=True)]
    )  # [kinds, N]
    weights = torch.softmax(log_weights.flatten(), 0).view_as(log_weights)
    mean = torch.zeros_like(at[:, 0])
    for name, one, w in zip(names, drawn, weights, strict=True):
        mean = mean + _weighted(MODELS[name], one, w, at)
    return Posterior(mean, weights.sum(1), 1.0 / (weights**2).sum())


def _draw(model: LinearModel, x: Tensor, y: Tensor, noise: float, samples: int, key: Tensor, stream: int) -> _Samples:
    d, precise = len(model.spread), y.dtype
    eta = torch.zeros(1, dtype=precise, device=y.device)
    if model.eta is not None:
        low, high = model.eta
        place = torch.arange(samples, device=y.device) + uniform(key, stream, (samples,), dtype=precise)
        eta = low + (high - low) / samples * place
    phi = torch.stack(list(model.features(x[:, 0], x[:, 1], eta[:, None])), -1)  # [n, d] or [N, n, d]
    phi = phi.expand(len(eta), -1, -1)
    target = y if model.constant is None else y - model.constant(x[:, 0], x[:, 1], eta[:, None])
    target = target.expand(len(eta), -1)  # [N or 1, n]
    spread = torch.tensor(model.spread, dtype=precise, device=y.device)
    scaled = phi * spread / noise  # in units in which the proposal's prior is standard normal
    precision = scaled.mT @ scaled + torch.eye(d, dtype=precise, device=y.device)
    root = torch.linalg.cholesky_ex(precision).L  # [N or 1, d, d]
    centre = torch.cholesky_solve(scaled.mT @ (target / noise).unsqueeze(-1), root)  # [N or 1, d, 1]
    z = normal(key, stream + 1, (samples, d), dtype=precise)
    off = torch.linalg.solve_triangular(root.mT, z.unsqueeze(-1), upper=True)  # [N, d, 1]
    beta = (centre + off).squeeze(-1) * spread  # [N, d]
    log_q = torch.log(torch.diagonal(root, dim1=-2, dim2=-1)).sum(-1) - 0.5 * (z**2).sum(-1)
    log_q = log_q - sum(math.log(s) for s in model.spread) - 0.5 * d * math.log(2.0 * math.pi)
    error = target - (phi @ beta.unsqueeze(-1)).squeeze(-1)  # [N, n]
    return _Samples(-0.5 * ((error / noise) ** 2).sum(-1) + model.log_prior(beta) - log_q, eta, beta)


def _weighted(model: LinearModel, one: _Samples, weights: Tensor, at: Tensor) -> Tensor:
    """sum_i w_i f_i(x) at x [m, 2]: [m]."""
    u, v = at[:, 0], at[:, 1]
    if model.eta is None:  # linear in all parameters
        mean = weights @ one.beta  # [d]
        return sum((phi * mean[j] for j, phi in enumerate(model.features(u, v, one.eta))), torch.zeros_like(u))
    total = torch.zeros_like(u)
    for start in range(0, len(weights), PIECE):
        w, eta, beta = (t[start : start + PIECE] for t in (weights, one.eta[:, None], one.beta))
        for j, phi in enumerate(model.features(u, v, eta)):
            total = total + (w * beta[:, j]) @ phi.expand(len(w), -1)
        if model.constant is not None:
            total = total + w @ model.constant(u, v, eta)
    return total
