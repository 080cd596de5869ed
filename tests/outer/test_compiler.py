"""Functions of tensors as compiled graphs: products that are turned, casts, arguments that change; when to compile."""

import pytest
import torch
from compiling import compiler

from metaexp.algos.features import full_precision
from metaexp.outer.compiler import aten, compiled, decide_compile, orient


def test_products_and_sums_of_transposed_matrices_are_turned():
    a, b, c = torch.randn(5, 7, 3), torch.randn(5, 4, 7), torch.randn(5, 7, 4)

    def function(a, b, c):
        wide = a.mT.sum(0, dtype=torch.float64)
        return a.mT @ b.mT, a.mT @ c, a[0].t() @ b[0].t(), a.mT.sum(0), a.sum(0), a.mT.sum((0,), keepdim=True), wide

    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(function)(a, b, c)
    assert orient(graph) == 5
    assert sum(node.target in (aten.mm.default, aten.bmm.default) for node in graph.graph.nodes) == 3
    for turned, straight in zip(graph(a, b, c), function(a, b, c), strict=True):
        assert (turned - straight).abs().max() < 1e-6
        assert (turned.shape, turned.dtype) == (straight.shape, straight.dtype)


@compiler
def test_casts_come_once():
    """What a function computes outside half precision stays outside it, although the compiler traces it once more."""
    x, y = torch.randn(30, 16).bfloat16(), torch.randn(20, 16).bfloat16()

    def function(x, y):
        with full_precision(x, y) as (a, b):
            exact = a @ b.T
        return exact, x.float() @ y.float().T

    with torch.autocast("cpu", torch.bfloat16):
        exact, half = compiled(function, x, y)(x, y)
    assert (exact.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    wanted = x.double() @ y.double().T
    assert (exact - wanted).abs().max() < 1e-5
    assert (half - wanted).abs().max() > 1e-3


@compiler
def test_a_compiled_function_may_change_its_arguments():
    def function(state, x):
        state["a"].add_(x.sum())
        return {"twice": 2 * x}

    state, x = {"a": torch.zeros(3)}, torch.ones(4)
    call = compiled(function, {"a": torch.zeros(3)}, x)
    for _ in range(3):
        result = call(state, x)
    assert state["a"].tolist() == [12.0] * 3
    assert result["twice"].tolist() == [2.0] * 4


def test_whether_to_compile():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert decide_compile(True, 1, "vmap", cpu) is True
    assert decide_compile(False, 10**9, "vmap", gpu) is False
    for mapping, device in (("vmap", cpu), ("loop", cpu), ("vmap", gpu)):
        decisions = [decide_compile("auto", steps, mapping, device) for steps in (1, 10, 10**7)]
        assert decisions == [False, False, True]
    assert decide_compile("auto", 10**9, "vmap", torch.device("mps")) is False
    with pytest.raises(ValueError, match="compile=yes: must be auto, true or false"):
        decide_compile("yes", 1, "vmap", cpu)
