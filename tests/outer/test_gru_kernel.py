"""The code of a recurrent unit in compiled graphs against the unit's steps, by autograd, and what it depends on."""

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor

from metaexp.models.functional import functional_call
from metaexp.models.gru import GRU, operations
from metaexp.outer import graph_cache
from metaexp.outer.compiler import _traced, compiled
from metaexp.outer.gru_kernel import LARGEST, sources

F64 = torch.float64
compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: no g++")


class Steps(torch.nn.Module):
    """All steps by the unit's own step, or by `sequence`."""

    def __init__(self, gru: GRU, at_once: bool):
        super().__init__()
        self.gru, self.at_once = gru, at_once

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        if self.at_once:
            return self.gru.sequence(x, h)
        rows = []
        for row in x:
            h = self.gru(row, h)
            rows.append(h)
        return torch.stack(rows)


def drawn(steps: int, tasks: int, inputs: int, hidden: int, dtype: torch.dtype) -> tuple[GRU, list[Tensor]]:
    gen = torch.Generator().manual_seed(steps)
    gru = GRU(inputs, hidden).to(F64)
    with torch.no_grad():
        for p in gru.parameters():
            p.copy_(0.7 * torch.randn(p.shape, dtype=F64, generator=gen))
    sizes = ((steps, tasks, inputs), (tasks, hidden), (steps, tasks, hidden))
    return gru.to(dtype), [torch.randn(size, dtype=F64, generator=gen).to(dtype) for size in sizes]


def gradients(gru: GRU, at_once: bool, params: dict[str, Tensor], x: Tensor, h: Tensor, weights: Tensor) -> list[Any]:
    """The memories, and the gradients to inputs, first memory and parameters of a weighted sum of squares."""
    own = {name: p.detach().requires_grad_() for name, p in params.items()}
    x, h = x.detach().requires_grad_(), h.detach().requires_grad_()
    with torch.enable_grad():
        made = functional_call(Steps(gru, at_once), {f"gru.{name}": p for name, p in own.items()}, (x, h))
        return [made.detach(), *torch.autograd.grad((made**2 * weights).sum(), [x, h, *own.values()])]


# Sizes that no vector divides; more than one block of tasks and a rest; one step.
SIZES = [(5, 29, 3, 7), (1, 2, 2, 8)]


@compiler
def test_memories_and_gradients_against_autograd_through_the_steps() -> None:
    """In float64 and, against the same in float64, in float32; all in one graph."""
    cases = [(drawn(*sizes, dtype), dtype) for sizes in SIZES for dtype in (F64, torch.float32)]
    params = [{name: p.detach() for name, p in gru.named_parameters()} for (gru, _), _ in cases]
    given = [operands for (_, operands), _ in cases]

    def all_of_them(at_once: bool, params: Any, given: Any) -> list[Any]:
        grus = [gru for (gru, _), _ in cases]
        return [gradients(gru, at_once, p, *o) for gru, p, o in zip(grus, params, given, strict=True)]

    made = compiled(lambda p, o: all_of_them(True, p, o), params, given, one_thread=True)(params, given)
    for ((gru, operands), dtype), own, found in zip(cases, params, made, strict=True):
        exact = {name: p.double() for name, p in own.items()}
        expected = gradients(gru.double(), False, exact, *(o.double() for o in operands))
        assert len(found) == len(expected) == 7
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == dtype
            assert (a - b).abs().max() / b.abs().max() < 40 * torch.finfo(dtype).eps


@compiler
def test_a_memory_above_the_largest_is_refused() -> None:
    gru, operands = drawn(2, 2, 2, LARGEST + 1, torch.float32)
    params = {name: p.detach() for name, p in gru.named_parameters()}
    with pytest.raises(Exception, match="memory above 256"):
        compiled(lambda p, *o: gradients(gru, True, p, *o), params, *operands, one_thread=True)


def test_a_graph_with_a_recurrent_unit_depends_on_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    gru, operands = drawn(3, 2, 2, 4, F64)
    params = {name: p.detach() for name, p in gru.named_parameters()}
    names = list(params)
    flat = [*params.values(), *operands]
    with torch.no_grad():
        graph = _traced(lambda *t: gradients(gru, True, dict(zip(names, t[:4], strict=True)), *t[4:]), flat)
        other = _traced(lambda a: [a + 1], operands[:1])
    assert {node.target for node in graph.graph.nodes} >= set(operations())
    assert len(sources(graph)) == 3
    assert sources(other) == []
    before = graph_cache.digest(graph, flat), graph_cache.digest(other, operands[:1])
    monkeypatch.setattr("metaexp.outer.gru_kernel.GRU", "other code")
    after = graph_cache.digest(graph, flat), graph_cache.digest(other, operands[:1])
    assert before[0] != after[0]
    assert before[1] == after[1]
