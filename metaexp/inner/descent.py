"""Inner loops: differentiable optimisers and the descent that uses them, as free functions on dicts of tensors."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.func import grad_and_value, vjp
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from metaexp.random import fold, permutation

Tree = dict[str, Tensor]
Rate = float | Tensor | Tree  # one rate, or one per parameter (of its shape, or one that broadcasts)


class InnerOptimiser(Protocol):
    """An update rule that can be differentiated: state and parameters in, state and parameters out."""

    def init(self, params: Tree) -> dict[str, Tree]: ...
    def update(self, grads: Tree, state: dict[str, Tree], params: Tree, lr: Rate) -> tuple[Tree, dict[str, Tree]]: ...


def _rate(lr: Rate, name: str) -> float | Tensor:
    return lr[name] if isinstance(lr, dict) else lr


class SGD(NamedTuple):
    """Gradient descent; with momentum m: v <- m v + g, p <- p - lr v (Nesterov: p <- p - lr (g + m v))."""

    momentum: float = 0.0
    nesterov: bool = False

    def init(self, params: Tree) -> dict[str, Tree]:
        """Zero velocities, or nothing where momentum is 0."""
        return {"velocity": {k: torch.zeros_like(p) for k, p in params.items()}} if self.momentum else {}

    def update(self, grads: Tree, state: dict[str, Tree], params: Tree, lr: Rate) -> tuple[Tree, dict[str, Tree]]:
        """One step; nothing is changed in place."""
        if not self.momentum:
            return {k: p - _rate(lr, k) * grads[k] for k, p in params.items()}, state
        velocity = {k: self.momentum * v + grads[k] for k, v in state["velocity"].items()}
        step = {k: grads[k] + self.momentum * v for k, v in velocity.items()} if self.nesterov else velocity
        return {k: p - _rate(lr, k) * step[k] for k, p in params.items()}, {"velocity": velocity}


class Adam(NamedTuple):
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1) and any betas; Reptile uses beta1=0."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def init(self, params: Tree) -> dict[str, Tree]:
        """Zero moments and a step count."""
        first = next(iter(params.values()))
        moment1 = {k: torch.zeros_like(p) for k, p in params.items()} if self.beta1 else {}
        moment2 = {k: torch.zeros_like(p) for k, p in params.items()}
        return {"moment1": moment1, "moment2": moment2, "count": {"steps": torch.zeros_like(first.flatten()[0])}}

    def update(self, grads: Tree, state: dict[str, Tree], params: Tree, lr: Rate) -> tuple[Tree, dict[str, Tree]]:
        """One step; nothing is changed in place."""
        count = state["count"]["steps"] + 1
        moment1 = {k: self.beta1 * m + (1 - self.beta1) * grads[k] for k, m in state["moment1"].items()}
        moment2 = {k: self.beta2 * v + (1 - self.beta2) * grads[k] ** 2 for k, v in state["moment2"].items()}
        correction1, correction2 = 1 - self.beta1**count, 1 - self.beta2**count
        new = {}
        for k, p in params.items():
            mean = moment1[k] / correction1 if self.beta1 else grads[k]
            variance = moment2[k] / correction2
            # sqrt has no derivative at 0, where a dead unit's gradient is: there the second order would be inf * 0.
            alive = variance > 0
            root = torch.where(alive, torch.sqrt(torch.where(alive, variance, 1.0)), 0.0)
            new[k] = p - _rate(lr, k) * mean / (root + self.eps)
        return new, {"moment1": moment1, "moment2": moment2, "count": {"steps": count}}


class Descent(NamedTuple):
    """What an inner loop leaves behind."""

    path: list[Tree]  # parameters after 0, 1, ..., steps
    losses: list[Tensor]  # [] each: the loss before step 1, ..., steps
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

    With `first_order` the inner gradients count as constants (their graph is never built), which gives FOMAML's
    meta-gradient (Finn, Abbeel, Levine 2017, section 5.2).

    With `given`, a tree of ALL other tensors that the loss reads, the loss is called as loss(params, step, given) and
    the graph of a step is not kept but made again in the backward pass (`recomputed`): of each step its parameters stay
    in memory, for one more evaluation of the inner gradients.
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
    """Parameters and the objective's gradient after 0, 1, ..., steps steps, without a graph: memory of one step.

    A step after which the objective [] is larger, or not a number, is taken back and the rate halved: the objective
    never rises and all stays finite, whatever the rate.
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
        well = moved_value <= value + 8 * torch.finfo(value.dtype).eps * value.abs()  # a rise is more than rounding
        here, there = (params, state, grads, value), (moved, moved_state, moved_grads, moved_value)
        params, state, grads, value = tree_map(lambda new, old, w=well: torch.where(w, new, old), there, here)
        rate = torch.where(well, rate, 0.5 * rate)
        yield params, grads


class _Recomputed(torch.autograd.Function):
    """function, tensors -> tuple of tensors; keeps the tensors alone and differentiates the function afresh."""

    generate_vmap_rule = True

    @staticmethod
    def forward(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        return function(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.function = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[1:]) if needed]

        def function(*chosen: Tensor) -> tuple[Tensor, ...]:
            replaced = dict(zip(wanted, chosen, strict=True))
            made: tuple[Tensor, ...] = ctx.function(*(replaced.get(i, tensor) for i, tensor in enumerate(tensors)))
            return made

        with torch.no_grad():  # torch.func.grad would keep a graph of this, for a second derivative
            found = vjp(function, *(tensors[i] for i in wanted))[1](gradients)
        placed = dict(zip(wanted, _Once.apply(len(found), *found, *tensors, *gradients), strict=True))
        return None, *(placed.get(i) for i in range(len(tensors)))


class _Once(torch.autograd.Function):
    """The first `count` of the tensors, which were made of the others without a graph; their derivative is refused."""

    generate_vmap_rule = True

    @staticmethod
    def forward(count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError("recomputed: can be differentiated once, not twice")


def recomputed(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args), a tree of tensors, whose graph is not kept but made again in the backward pass.

    Memory for time: gradient checkpointing that goes with torch.func and vmap, where `torch.utils.checkpoint` does not.
    Differentiable in the tensors of `args` (trees; other leaves are constants), once: a second derivative is refused
    with a RuntimeError. The function must read no other tensor that is differentiated or mapped: no gradient would
    reach it, without a word.
    """
    leaves, form = tree_flatten(args)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    made_form: list[Any] = []

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        filled = dict(zip(places, tensors, strict=True))
        made, shape = tree_flatten(
            function(*tree_unflatten([filled.get(i, leaf) for i, leaf in enumerate(leaves)], form))
        )
        made_form[:] = [shape]
        return tuple(made)

    made = _Recomputed.apply(flat, *(leaves[i] for i in places))
    return tree_unflatten(list(made), made_form[0])


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


def minibatches(key: Tensor, stream: int, n: int, size: int | None, steps: int) -> Tensor | None:
    """Rows of each inner step: int64 [steps, size], consecutive pieces of one random order of the n rows per epoch.

    A batch may straddle two epochs, as in the Reptile authors' code. None (all rows, every step) where size is None
    or not below n.
    """
    if size is None or size >= n:
        return None
    epochs = math.ceil(max(1, steps) * size / n)  # at least one: of no steps there is still a tensor [0, size]
    orders = permutation(fold(key, torch.arange(epochs, device=key.device)), stream, n)  # [epochs, n]
    return orders.flatten()[: steps * size].view(steps, size)
