"""Small products written out in compiled graphs: numbers, bound on the size, and derivatives through them."""

import shutil

import pytest
import torch
from torch.func import grad

from metaexp.outer import graph_cache, small_products
from metaexp.outer.compiler import _traced, aten, compiled
from metaexp.outer.small_products import MOST_B, MOST_ROWS, MOST_TURNED, operation, write_out

F64 = torch.float64
compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: no g++")


def products(a, b, w):
    """Every order of strides, sizes that no vector divides, operands in one buffer, and what reads them transposed."""
    shared = a.reshape(-1, 23)
    back = a.mT @ a
    return {
        "straight": a @ b,
        "one for all": a @ w.T,
        "rows": shared @ w.T,
        "left": a.mT @ (a @ b),
        "both": b.mT @ a.mT,
        "same buffer": a[0] @ a[1].T,
        "strided": a[:, ::2, 1::3] @ b[:, 1::3, ::4],
        "expanded": w.expand(3, 37, 23) @ b,
        "read transposed": back.mT * 2 + 1,
        "summed transposed": (back.view(3, 23, 23).mT - 1).sum(0),
        "alone": a[2] @ b[2],
    }


@compiler
def test_products_against_float64():
    generator = torch.Generator().manual_seed(1)
    sizes = ((3, 10, 23), (3, 23, 37), (37, 23))
    true = [torch.randn(size, generator=generator, dtype=F64) for size in sizes]
    given = [[one.to(dtype) for one in true] for dtype in (torch.float32, F64)]
    call = compiled(lambda *both: [products(*one) for one in both], *given, one_thread=True)
    made, again = call(*given), call(*given)
    for dtype, operands, found, same in zip((torch.float32, F64), given, made, again, strict=True):
        for name, exact in products(*(one.double() for one in operands)).items():
            error = (found[name] - exact).abs().max() / exact.abs().max()
            assert error < 4 * torch.finfo(dtype).eps, name
            assert torch.equal(found[name], same[name]), name
        # A task's product does not depend on how many tasks are computed at once.
        assert torch.equal(found["alone"], found["straight"][2])


def test_only_small_products_are_written_out():
    sizes = {
        "small": ((10, 40), (40, 40), True),
        "batch": ((5, 10, 40), (5, 40, 40), True),
        "large": ((10, MOST_B // 8 + 1), (MOST_B // 8 + 1, 8), False),
        "long": ((MOST_ROWS + 1, 8), (8, 8), False),
        "column": ((10, 1), (1, 40), False),
        "row": ((1, 40), (40, 40), False),
    }
    for name, (a, b, small) in sizes.items():
        made = _traced(lambda x, y: [torch.matmul(x, y)], [torch.randn(a), torch.randn(b)])
        assert write_out(made) == small, name
        assert any(node.target is operation() for node in made.graph.nodes) == small, name
    # To be turned round, a matrix must be smaller.
    wide = torch.randn(MOST_TURNED // 8 + 1, 8)
    assert small_products.small(torch.randn(8, len(wide)), wide)
    assert not small_products.small(torch.randn(8, len(wide)), wide.T.contiguous().T)
    assert not small_products.small(torch.ones(4, 4, dtype=torch.int64), torch.ones(4, 4, dtype=torch.int64))


def _both_ways(x, y):
    product = x @ y
    return [product.mT + 1, product + 1]


def test_a_product_transposed_twice_is_viewed_flat():
    a, b = torch.randn(3, 4, 5), torch.randn(3, 5, 6)
    made = _traced(lambda x, y: [(x @ y).mT.mT.view(-1)], [a, b])
    assert write_out(made) == 1
    torch.testing.assert_close(made(a, b)[0], (a @ b).view(-1))


def test_a_product_read_transposed_is_computed_transposed():
    a, b = torch.randn(3, 4, 5), torch.randn(3, 5, 6)
    ways = (
        (lambda x, y: [(x @ y).mT + 1], True),
        (_both_ways, False),
        (lambda x, y: [(x @ y).mT.detach().mT + 1], False),
        (lambda x, y: [(x @ y).mT.mT.expand(3, 4, 6).mT + 1], True),
    )
    for function, turned in ways:
        made = _traced(function, [a, b])
        assert write_out(made) == sum(node.target is operation() for node in made.graph.nodes)
        node = next(node for node in made.graph.nodes if node.target is operation())
        assert (node.args[0].target is aten.transpose.int) == turned
        for found, true in zip(made(a, b), function(a, b), strict=True):
            torch.testing.assert_close(found, true)


@compiler
def test_second_derivatives():
    """The meta-gradient of two inner steps, with its second-order terms, equals the eager one in float64."""
    generator = torch.Generator().manual_seed(2)
    first, second = (torch.randn(size, generator=generator, dtype=F64) for size in ((7, 3), (2, 7)))
    x, y = (torch.randn(size, generator=generator, dtype=F64) for size in ((5, 3), (5, 2)))

    def loss(p, x, y):
        return ((torch.tanh(x @ p[0].T) @ p[1].T - y) ** 2).mean()

    def meta(p, x, y):
        q = p
        for _ in range(2):
            q = [one - 0.3 * slope for one, slope in zip(q, grad(loss)(q, x, y), strict=True)]
        return loss(q, x + 1, y)

    def gradient(p, x, y):
        return grad(meta)(p, x, y)

    traced = _traced(lambda *t: gradient(list(t[:2]), *t[2:]), [first, second, x, y])
    assert write_out(traced) > 10
    made = compiled(gradient, [first, second], x, y, one_thread=True)([first, second], x, y)
    for found, true in zip(made, gradient([first, second], x, y), strict=True):
        torch.testing.assert_close(found, true, rtol=1e-12, atol=1e-13)
    small_step, along = 1e-6, [torch.ones_like(first), torch.zeros_like(second)]
    ends = [meta([p + s * small_step * d for p, d in zip((first, second), along, strict=True)], x, y) for s in (1, -1)]
    assert float((ends[0] - ends[1]) / (2 * small_step)) == pytest.approx(float(made[0].sum()), rel=1e-7)


def test_other_source_is_another_graph(monkeypatch):
    a = torch.randn(4, 4)
    graph = _traced(lambda x: [x @ x], [a])
    write_out(graph)
    before = graph_cache.digest(graph, [a])
    monkeypatch.setattr(graph_cache, "SOURCE", graph_cache.SOURCE + " ")
    assert graph_cache.digest(graph, [a]) != before
