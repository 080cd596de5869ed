"""Compiled graphs: when to compile, and how a function of trees of tensors becomes one graph."""

import copy
import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.utils._pytree import tree_flatten, tree_unflatten

from metaexp.outer import gru_kernel
from metaexp.outer.graph_cache import ahead
from metaexp.outer.small_products import UNFUSED, lowering, write_out
from metaexp.system.lean import without_collector
from metaexp.system.lean_tracing import traced_lightly

aten = torch.ops.aten
log = logging.getLogger(__name__)

# Number of outer steps from which a compiled graph repays its compile time (15-60 s cold on two cores), by device and
# by whether tasks are mapped by a loop (the graph then covers one task: a convolutional step takes 0.4 of its eager
# time).
COMPILE_FROM = {("cpu", False): 5_000, ("cpu", True): 1_000, ("cuda", False): 5_000, ("cuda", True): 1_000}
# The same for learners that collect, whose outer steps are a meta-batch of trials and several updates: 0.1-0.6 s saved.
COLLECT_FROM = {"cpu": 300}


def decide_compile(
    wanted: bool | str,
    steps: int,
    mapping: str | int,
    device: torch.device,
    varying: bool = False,
    suits: bool = True,
    collects: bool = False,
) -> bool:
    """Whether to compile: `wanted` if it is true or false, otherwise by the table; never by a timing.

    Args:
        varying: whether the sizes of training tasks vary, which a graph does not support.
        suits: whether the learner's step makes a graph of a size that the compiler can take (`MetaLearner.compiles`).
        collects: whether it makes trials and then several updates from them (`algos.rollouts.RolloutLearner`).

    Raises:
        ValueError: `wanted` is not auto, true or false, or it is true although sizes vary.
    """
    if wanted not in ("auto", True, False):
        raise ValueError(f"compile={wanted}: must be auto, true or false")
    if varying and wanted is True:
        raise ValueError(
            "compile=true: a compiled step has one shape, and task.shots varies; use compile=auto or false"
        )
    if varying:
        return False
    if wanted == "auto":
        if collects:
            return suits and steps >= COLLECT_FROM.get(device.type, math.inf)
        return suits and steps >= COMPILE_FROM.get((device.type, mapping == "loop"), math.inf)
    return bool(wanted)


def reason(error: Exception) -> str:
    """Why something cannot be compiled, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:150]


def compiled(function: Callable[..., Any], *example: Any, one_thread: bool = False) -> Callable[..., Any]:
    """Compile a function of trees of tensors, without gradients, into one graph for arguments of the example's shapes.

    The function is first traced to plain tensor operations (make_fx), so it may use any Python, torch.func and in-place
    changes of its arguments. Tensors that are not among its arguments (a family's data) become constants of the graph.
    Raises whatever the compiler raises.

    Args:
        one_thread: it will be called from one thread at a time. On a CPU, a graph without convolutions then becomes a
            library of its own, which later processes load without the compiler (`graph_cache`).
    """
    leaves, form = tree_flatten(example)
    result: list[Any] = []

    def flat(*tensors: Tensor) -> list[Tensor]:
        made, tree = tree_flatten(function(*tree_unflatten(list(tensors), form)))
        result[:] = [tree]
        return made

    with torch.no_grad(), without_collector():
        graph = traced_lightly(lambda light: _rewritten(flat, leaves, light))
        with torch.autocast(leaves[0].device.type, enabled=False):  # the graph already contains its casts
            call = _ahead(graph, leaves) if one_thread and _on_cpu(leaves) and not _convolves(graph) else None
            call = call or _inductor(graph, leaves)

    def run(*args: Any) -> Any:
        with torch.no_grad():
            return tree_unflatten(list(call(*tree_flatten(args)[0])), result[0])

    run.flat = call  # type: ignore[attr-defined]
    return run


def _rewritten(function: Callable[..., Any], leaves: list[Tensor], light: bool = False) -> GraphModule:
    """The traced function in the form that the compiler gets."""
    graph = _traced(function, leaves, light)
    if _on_cpu(leaves) and not _convolves(graph):
        write_out(graph)
    orient(graph)
    for node in graph.graph.nodes:
        node.meta.clear()  # the compiler makes its own
    return graph


def _traced(function: Callable[..., Any], leaves: list[Tensor], light: bool = False) -> GraphModule:
    """The plain operations of a function of tensors, found on fake tensors: nothing is computed, so tracing takes no
    memory for intermediate values. If `light`, they are made here: `make_fx` would ask Dynamo for them.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    table: dict[Any, Callable[..., Any]] = {
        aten.addmm.default: _addmm, aten.mm.default: _mm, aten.bmm.default: _bmm,
    }  # fmt: skip
    if not light:
        return make_fx(function, table, tracing_mode="fake", _allow_non_fake_inputs=True)(*leaves)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        return make_fx(function, table, _allow_non_fake_inputs=True)(*map(fake.from_tensor, leaves))


def _ahead(graph: GraphModule, leaves: list[Tensor]) -> Callable[..., Any] | None:
    try:
        return ahead(copy.deepcopy(graph), leaves)
    except Exception:
        log.debug("no library of its own", exc_info=True)
        return None


def _inductor(graph: GraphModule, leaves: list[Tensor]) -> Callable[..., Any]:
    from torch._inductor import compile as inductor

    lowering()
    gru_kernel.lowering()
    # Images are kept channels-last; where products are small, the calls between them are made from C++.
    options: dict[str, Any] = {"cpp_wrapper": True, **UNFUSED} if _on_cpu(leaves) else {}
    if _convolves(graph):
        options = {"force_layout_optimization": _on_cpu(leaves)}
    made: Callable[..., Any] = inductor(graph, [*leaves], options=options)
    return made


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """The sum separate from the product, so that the compiler fuses it with what follows."""
    return bias + a @ b if beta == alpha == 1 else beta * bias + alpha * (a @ b)


def _mm(a: Tensor, b: Tensor) -> Tensor:
    """A product with a vector on a CPU as elementary operations, which are fused with their neighbours; a call to the
    library would cost more than the arithmetic. (Inductor does this by itself for batches of products.)
    """
    if a.shape[1] == 1:
        return a * b
    if a.is_cpu and (a.shape[0] == 1 or b.shape[1] == 1):
        return (a.unsqueeze(2) * b).sum(1)
    return NotImplemented


def _bmm(a: Tensor, b: Tensor) -> Tensor:
    """Products of columns with rows as elementary operations."""
    return a * b if a.shape[2] == 1 else NotImplemented


def _convolves(graph: GraphModule) -> bool:
    targets = (aten.convolution.default, aten.convolution_backward.default)
    return any(node.target in targets for node in graph.graph.nodes)


def _on_cpu(tensors: list[Tensor]) -> bool:
    return all(tensor.is_cpu for tensor in tensors)


def orient(graph: GraphModule) -> int:
    """Rewrite products A^T B^T of transposed matrices as (B A)^T, and sums over transposed matrices as the transposed
    sum of untransposed ones. On a CPU the original products take six times longer in MKL, the sums ten times longer in
    compiled code.

    Returns the number of operations rewritten.
    """
    turned = 0
    for node in list(graph.graph.nodes):
        products = node.target in (aten.mm.default, aten.bmm.default)
        if products:
            operands = [node.args[1], node.args[0]]
        elif node.target == aten.sum.dim_IntList and list(node.args[1]) == [0] and node.args[0].meta["val"].dim() == 3:
            operands = [node.args[0]]
        else:
            continue
        if not all(_transposed(operand.meta["val"]) for operand in operands):
            continue
        with graph.graph.inserting_before(node):
            straight = [graph.graph.call_function(aten.transpose.int, (x, -2, -1)) for x in operands]
            rest = () if products else node.args[1:]
            made = graph.graph.call_function(node.target, (*straight, *rest), dict(node.kwargs))
            new = graph.graph.call_function(aten.transpose.int, (made, -2, -1))
        new.meta["val"] = node.meta["val"].mT.contiguous().mT
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
        turned += 1
    for node in graph.graph.nodes if turned else ():
        if node.target in (aten.view.default, aten._unsafe_view.default):  # a transposed tensor cannot be viewed flat
            node.target = aten.reshape.default
    graph.recompile()
    return turned


def _transposed(matrix: Tensor) -> bool:
    return matrix.stride()[-2] == 1 and matrix.stride()[-1] != 1
