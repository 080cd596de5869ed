"""The inner loop: gradient steps on one task's loss that can be differentiated through."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value
from torch.utils._pytree import tree_map

from metaexp.inner.optimisers import InnerOptimiser, Rate, Tree
from metaexp.inner.recomputation import recomputed
from metaexp.random import fold, permutation


class Descent(NamedTuple):
    """The result of an inner loop."""

    path: list[Tree]  # parameters after 0, 1, ..., `steps` steps
    losses: list[Tensor]  # each []: the loss before step 1, ..., `steps`
    state: dict[str, Tree]  # of the inner optimiser


def descend(
    loss: Callable[..., Tensor],
    params: Tree,
    optimiser: InnerOptimiser,
    lr: Rate,
    steps: int,
    first_order: bool = False,
    state: dict[str, Tree] | None = None,
    given: Any = None,
) -> Descent:
    """`steps` steps of the optimiser on loss(params, step) -> [], differentiable in params, lr and state.

    With `first_order` the inner gradients are treated as constants (their graph is never built), which gives FOMAML's
    meta-gradient (Finn, Abbeel, Levine 2017, section 5.2).

    With `given`, a tree of ALL other tensors that the loss reads, the loss is called as loss(params, step, given) and
    the graph of a step is not kept but rebuilt in the backward pass (`recomputed`): only the parameters of each step
    stay in memory, at the cost of one more evaluation of the inner gradients.
    """
    state = optimiser.init(params) if state is None else state
    path, losses = [params], []

    def advance(step: int, params: Tree, state: dict[str, Tree], lr: Rate, *given: Any) -> tuple[Any, Any, Tensor]:
        at = {k: p.detach() for k, p in params.items()} if first_order else params
        grads, value = grad_and_value(loss)(at, step, *given)
        if first_order:
            grads, value = {k: g.detach() for k, g in grads.items()}, value.detach()
        return *optimiser.update(grads, state, params, lr), value

    for step in range(steps):
        if given is None:
            params, state, value = advance(step, params, state, lr)
        else:
            params, state, value = recomputed(advance, step, params, state, lr, given)
        path.append(params)
        losses.append(value)
    return Descent(path, losses, state)


def minimise(
    objective: Callable[[Tree], Tensor], params: Tree, optimiser: InnerOptimiser, lr: float, steps: int
) -> Iterator[tuple[Tree, Tree]]:
    """Parameters and the objective's gradient after 0, 1, ..., `steps` steps, without a graph: the memory of one step.

    A step after which the objective [] is larger, or NaN, is undone and the rate halved: the objective never increases
    and everything stays finite, whatever the rate.
    """

    def at(params: Tree) -> tuple[Tree, Tensor]:
        grads, value = grad_and_value(objective)(params)
        return {k: g.detach() for k, g in grads.items()}, value.detach()

    params = {k: p.detach() for k, p in params.items()}
    state, (grads, value) = optimiser.init(params), at(params)
    rate = torch.full_like(value, lr)
    yield params, grads
    for _ in range(steps):
        moved, moved_state = optimiser.update(grads, state, params, rate)
        moved_grads, moved_value = at(moved)
        well = moved_value <= value + 8 * torch.finfo(value.dtype).eps * value.abs()  # rounding is not an increase
        here, there = (params, state, grads, value), (moved, moved_state, moved_grads, moved_value)
        params, state, grads, value = tree_map(lambda new, old, w=well: torch.where(w, new, old), there, here)
        rate = torch.where(well, rate, 0.5 * rate)
        yield params, grads


def minibatches(key: Tensor, stream: int, n: int, size: int | None, steps: int) -> Tensor | None:
    """Rows of each inner step: int64 [steps, size], consecutive slices of one random order of the n rows per epoch.

    A batch may straddle two epochs, as in the Reptile authors' code. None (all rows in every step) if size is None or
    not below n.
    """
    if size is None or size >= n:
        return None
    epochs = math.ceil(max(1, steps) * size / n)  # at least one: 0 steps still give a tensor [0, size]
    orders = permutation(fold(key, torch.arange(epochs, device=key.device)), stream, n)  # [epochs, n]
    return orders.flatten()[: steps * size].view(steps, size)
