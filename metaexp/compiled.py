"""Compiled graphs: when to compile, and how a function of trees of tensors becomes one graph."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_flatten, tree_unflatten

aten = torch.ops.aten

# Outer steps from which a compiled graph repays its compile time (15-60 s cold on two cores), by device and by whether
# tasks are mapped by a loop (the graph is then that of one task: a convolutional step takes 0.4 of its eager time).
COMPILE_FROM = {("cpu", False): 20_000, ("cpu", True): 1_000, ("cuda", False): 5_000, ("cuda", True): 1_000}


def decide_compile(wanted: bool | str, steps: int, mapping: str | int, device: torch.device) -> bool:
    """Whether to compile: `wanted` if it is true or false, else by the table; never by a timing.

    Raises:
        ValueError: not auto, true or false.
    """
    if wanted not in ("auto", True, False):
        raise ValueError(f"compile={wanted}: must be auto, true or false")
    if wanted == "auto":
        return steps >= COMPILE_FROM.get((device.type, mapping == "loop"), math.inf)
    return bool(wanted)


def compiled(function: Callable[..., Any], *example: Any) -> Callable[..., Any]:
    """A function of trees of tensors, without gradients, as one compiled graph for arguments of the example's shapes.

    It is first traced to plain tensor operations (make_fx), so it may use any Python, torch.func and changes of its
    arguments in place. Tensors that are not among its arguments (a family's data) are constants of the graph. Raises
    what the compiler raises.
    """
    from torch._inductor import compile as inductor
    from torch.fx.experimental.proxy_tensor import make_fx

    leaves, form = tree_flatten(example)
    result: list[Any] = []

    def flat(*tensors: Tensor) -> list[Tensor]:
        made, tree = tree_flatten(function(*tree_unflatten(list(tensors), form)))
        result[:] = [tree]
        return made

    with torch.no_grad():
        graph = make_fx(flat)(*leaves)
        orient_products(graph)
        options = {"force_layout_optimization": True} if _convolves(graph) else {}
        call = inductor(graph, leaves, options=options)

    def run(*args: Any) -> Any:
        with torch.no_grad():
            return tree_unflatten(list(call(*tree_flatten(args)[0])), result[0])

    def run_flat(*tensors: Tensor) -> list[Tensor]:
        return list(call(*tensors))

    run.flat = run_flat  # type: ignore[attr-defined]
    return run


def _convolves(graph: GraphModule) -> bool:
    """Whether the graph convolves on a CPU: its pictures are then kept channels-last."""
    targets = (aten.convolution.default, aten.convolution_backward.default)
    return any(n.target in targets and n.meta["val"] is not None and _on_cpu(n) for n in graph.graph.nodes)


def _on_cpu(node: Node) -> bool:
    value = node.args[0].meta["val"]  # type: ignore[union-attr]
    return bool(value.device.type == "cpu")


def orient_products(graph: GraphModule) -> int:
    """Turn A^T B^T, made of two transposed matrices, into (B A)^T: MKL takes the former six times longer.

    Returns the number of products turned.
    """
    turned = 0
    for node in list(graph.graph.nodes):
        if node.target not in (aten.mm.default, aten.bmm.default):
            continue
        a, b = node.args
        if not (_transposed(a.meta["val"]) and _transposed(b.meta["val"])):
            continue
        with graph.graph.inserting_before(node):
            left, right = (graph.graph.call_function(aten.transpose.int, (x, -2, -1)) for x in (b, a))
            product = graph.graph.call_function(node.target, (left, right))
            new = graph.graph.call_function(aten.transpose.int, (product, -2, -1))
        new.meta["val"] = node.meta["val"].mT.contiguous().mT
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
        turned += 1
    graph.recompile()
    return turned


def _transposed(matrix: Tensor) -> bool:
    return matrix.stride()[-2] == 1 and matrix.stride()[-1] != 1
