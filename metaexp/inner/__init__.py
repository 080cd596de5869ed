"""The inner loop, which learns one task: its settings, pure functions on dicts of tensors, and optimisers."""

from metaexp.inner.descent import Descent, descend, minibatches, minimise
from metaexp.inner.implicit import conjugate_gradient, with_gradient
from metaexp.inner.loop import Carried, InnerLoop, learn, slashed
from metaexp.inner.optimisers import SGD, Adam, InnerOptimiser, Rate, Tree
from metaexp.inner.recomputation import recomputed

__all__ = [
    "SGD",
    "Adam",
    "Carried",
    "Descent",
    "InnerLoop",
    "InnerOptimiser",
    "Rate",
    "Tree",
    "conjugate_gradient",
    "descend",
    "learn",
    "minibatches",
    "minimise",
    "recomputed",
    "slashed",
    "with_gradient",
]
