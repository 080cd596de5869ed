"""The inner loop: how one task is learned. Free functions on dicts of tensors, and the inner optimisers."""

from metaexp.inner.descent import Descent, descend, minibatches, minimise
from metaexp.inner.implicit import conjugate_gradient, with_gradient
from metaexp.inner.optimisers import SGD, Adam, InnerOptimiser, Rate, Tree
from metaexp.inner.recomputation import recomputed

__all__ = [
    "SGD",
    "Adam",
    "Descent",
    "InnerOptimiser",
    "Rate",
    "Tree",
    "conjugate_gradient",
    "descend",
    "minibatches",
    "minimise",
    "recomputed",
    "with_gradient",
]
