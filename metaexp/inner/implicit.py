"""Meta-gradients without differentiation through the inner loop: a linear solver, a given gradient as a loss."""

from collections.abc import Callable

import torch
from torch import Tensor

from metaexp.inner.optimisers import Tree


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, steps: int, tolerance: float | None = None, least: float = 0.0
) -> Tensor:
    """Solve A x = b [n] for a symmetric A given by v [n] -> A v [n], from x = 0 (Hestenes, Stiefel 1952).

    `steps` products are taken whatever happens, so that it maps over tasks. x stays where it is once the residual is
    below `tolerance` |b| (None: the rounding of the type), or once a direction p has p^T A p <= least |p|^2: with
    `least` 0 where A is seen not to be positive definite, above 0 also where it is nearly singular. Where that is the
    first direction, x is b. x is finite wherever the products are.
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
    """A scalar of the given value whose gradient in `params` IS the given one: any hand-made meta-gradient as a loss.

    The gradient counts as a constant: second derivatives are zero, and nothing flows to tensors outside `params`.
    An inf in `params` or `gradient` makes the value NaN, so check value and gradient apart.
    """
    carrier = sum(((p - p.detach()) * gradient[k].detach()).sum() for k, p in params.items())
    return value.detach() + carrier
