"""Meta-gradients without differentiating through the inner loop: a linear solver, and a loss with a given gradient."""

from collections.abc import Callable

import torch
from torch import Tensor

from metaexp.inner.optimisers import Tree


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, steps: int, tolerance: float | None = None, least: float = 0.0
) -> Tensor:
    """Solve A x = b [n] for a symmetric A given by v [n] -> A v [n], starting at x = 0 (Hestenes, Stiefel 1952).

    It always computes `steps` products, so that it can be mapped over tasks. x no longer changes once the residual is
    below `tolerance` |b| (None: the rounding error of the type), or once a direction p has p^T A p <= least |p|^2: with
    `least` 0, once A turns out not to be positive definite; above 0, also once A is nearly singular. If that happens in
    the first direction, x is b. x is finite whenever the products are.
    """
    rounding = torch.finfo(b.dtype).eps
    x, r, p, left = torch.zeros_like(b), b, b, b @ b
    enough = (rounding if tolerance is None else tolerance) ** 2 * left
    going = left > enough
    for step in range(steps):
        q = product(p)
        curvature = p @ q
        convex = curvature > max(least, rounding) * (p @ p)
        alpha = torch.where(convex, left / torch.where(convex, curvature, 1.0), 1.0 if step == 0 else 0.0)
        alpha = torch.where(going, alpha, 0.0)
        x, r = x + alpha * p, r - alpha * q
        before, left = left, r @ r
        going = going & convex & (left > enough)
        p = r + torch.where(going, left / torch.where(going, before, 1.0), 0.0) * p
    return x


def with_gradient(value: Tensor, params: Tree, gradient: Tree) -> Tensor:
    """A scalar with the given value and the given gradient with respect to `params`: any meta-gradient as a loss.

    The gradient is treated as a constant: second derivatives are zero, and no gradient reaches tensors outside
    `params`. An inf in `params` or `gradient` makes the value NaN, so check value and gradient separately.
    """
    carrier = sum(((p - p.detach()) * gradient[k].detach()).sum() for k, p in params.items())
    return value.detach() + carrier
