"""Gradient checkpointing that works with torch.func and vmap: the graph of a step is recomputed instead of kept."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp
from torch.utils._pytree import tree_flatten, tree_unflatten


class _Recomputed(torch.autograd.Function):
    """function, tensors -> tuple of tensors; keeps only the tensors and recomputes the function to differentiate it."""

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

        with torch.no_grad():  # otherwise torch.func.grad would keep a graph of this for a second derivative
            found = vjp(function, *(tensors[i] for i in wanted))[1](gradients)
        placed = dict(zip(wanted, _Once.apply(len(found), *found, *tensors, *gradients), strict=True))
        return None, *(placed.get(i) for i in range(len(tensors)))


class _Once(torch.autograd.Function):
    """Returns the first `count` tensors, which were computed from the others without a graph; has no derivative."""

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
    """function(*args), a tree of tensors, whose graph is not kept but recomputed in the backward pass.

    This trades time for memory: gradient checkpointing that works with torch.func and vmap, which
    `torch.utils.checkpoint` does not. The result can be differentiated once in the tensors of `args` (trees; other
    leaves are constants); a second derivative raises a RuntimeError. The function must not read any other tensor that
    is differentiated or mapped: silently, no gradient would reach it.
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
