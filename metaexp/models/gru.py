"""A gated recurrent unit that vmap, the compiler and long sequences can take."""

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from metaexp.constraints import Count


class GRU(nn.Module):
    """One layer of gated recurrent units (Cho et al. 2014), with torch's names and equations of `nn.GRUCell`.

    `forward` makes one step in elementary operations, which vmap maps and a compiler fuses; `nn.GRUCell` has no rule
    for vmap. `sequence` makes all steps of a batch. Its gradient is written out: one product for the gradient of the
    recurrent weights instead of one for each step.

    Args:
        inputs, hidden: lengths of an input and of the memory.

    Raises:
        ValueError: a length below 1.
    """

    def __init__(self, inputs: Count, hidden: Count):
        super().__init__()
        for name, size in (("inputs", inputs), ("hidden", hidden)):
            if size < 1:
                raise ValueError(f"{name}={size}: must be at least 1")
        self.hidden = hidden
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden, inputs))
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden, hidden))
        self.bias_ih = nn.Parameter(torch.zeros(3 * hidden))
        self.bias_hh = nn.Parameter(torch.zeros(3 * hidden))
        with torch.no_grad():
            nn.init.uniform_(self.weight_ih, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))
            for gate in self.weight_hh.split(hidden):
                nn.init.orthogonal_(gate)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """[*, inputs], [*, hidden] -> the memory after one step, [*, hidden]."""
        into, kept = F.linear(x, self.weight_ih, self.bias_ih), F.linear(h, self.weight_hh, self.bias_hh)
        (ir, iz, into), (hr, hz, kept) = into.chunk(3, -1), kept.chunk(3, -1)
        update = torch.sigmoid(iz + hz)
        new = torch.tanh(into + torch.sigmoid(ir + hr) * kept)
        return new + update * (h - new)

    def sequence(self, x: Tensor, h: Tensor) -> Tensor:
        """[steps, tasks, inputs], [tasks, hidden] -> the memories after every step, [steps, tasks, hidden].

        Differentiable once, by `backward` and `torch.autograd.grad`.
        """
        made: Tensor = _Sequence.apply(F.linear(x, self.weight_ih, self.bias_ih), h, self.weight_hh, self.bias_hh)
        return made


class _Sequence(torch.autograd.Function):
    """All steps; the inputs' part of the sums is given."""

    @staticmethod
    def forward(ctx: Any, into: Tensor, first: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        made = operations()[0](into, first, weight.T.contiguous(), bias)
        ctx.save_for_backward(made, weight)
        ctx.steps = len(into)
        return _parts(made, len(into), *first.shape)[0][1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        made, weight = ctx.saved_tensors
        steps, tasks, hidden = grad.shape
        h = _parts(made, steps, tasks, hidden)[0]
        into, sums, first = _gradients(operations()[1](grad.contiguous(), made, weight), steps, tasks, hidden)
        flat = sums.flatten(0, 1)
        return into, first, flat.T @ h[:-1].flatten(0, 1), flat.sum(0)


def _parts(made: Tensor, steps: int, tasks: int, hidden: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Memories [steps + 1, tasks, hidden], reset and update gates [steps, tasks, 2 hidden], what is kept of the memory
    and what is new [steps, tasks, hidden] in the vector that holds them one after the other."""
    one = steps * tasks * hidden
    h, gates, kept, new = made.split([one + tasks * hidden, 2 * one, one, one])
    shape = (steps, tasks, hidden)
    return h.view(steps + 1, tasks, hidden), gates.view(steps, tasks, 2 * hidden), kept.view(shape), new.view(shape)


def _gradients(made: Tensor, steps: int, tasks: int, hidden: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the inputs' part and of the memory's part of the sums, [steps, tasks, 3 hidden], and of the first
    memory, [tasks, hidden], in the vector that holds them one after the other."""
    one = 3 * steps * tasks * hidden
    into, sums, first = made.split([one, one, tasks * hidden])
    shape = (steps, tasks, 3 * hidden)
    return into.view(shape), sums.view(shape), first.view(tasks, hidden)


def _forwards(into: Tensor, first: Tensor, turned: Tensor, bias: Tensor) -> Tensor:
    steps, (tasks, hidden) = len(into), first.shape
    made = _room(into, first)
    h, gates, kept, new = _parts(made, steps, tasks, hidden)
    h[0] = first
    for t in range(steps):
        sums = torch.addmm(bias, h[t], turned)
        torch.add(into[t, :, : 2 * hidden], sums[:, : 2 * hidden], out=gates[t]).sigmoid_()
        kept[t] = sums[:, 2 * hidden :]
        torch.addcmul(into[t, :, 2 * hidden :], gates[t, :, :hidden], kept[t], out=new[t]).tanh_()
        torch.lerp(new[t], h[t], gates[t, :, hidden:], out=h[t + 1])
    return made


def _backwards(grad: Tensor, made: Tensor, weight: Tensor) -> Tensor:
    steps, tasks, hidden = grad.shape
    h, gates, kept, new = _parts(made, steps, tasks, hidden)
    result = _room_back(grad)
    into, sums, first = _gradients(result, steps, tasks, hidden)
    carried = torch.zeros_like(first)
    for t in reversed(range(steps)):  # one step at a time: what a step needs stays in the processor's cache
        reset, update = gates[t].split(hidden, -1)
        g = grad[t] + carried
        after = update * g
        by_new = (g - after).mul_(1 - new[t] * new[t])
        by_update = (h[t] - new[t]).mul_(after).mul_(1 - update)
        passed = by_new * reset
        by_reset = (passed * kept[t]).mul_(1 - reset)
        torch.cat((by_reset, by_update, by_new), -1, out=into[t])
        torch.cat((by_reset, by_update, passed), -1, out=sums[t])
        carried = torch.addmm(after, sums[t], weight)
    first.copy_(carried)
    return result


def _room(into: Tensor, first: Tensor) -> Tensor:
    return into.new_empty((5 * len(into) + 1) * first.numel())


def _room_back(grad: Tensor) -> Tensor:
    return grad.new_empty((6 * len(grad) + 1) * math.prod(grad.shape[1:]))


_kept: list[torch.library.Library] = []


@cache
def operations() -> tuple[Any, Any]:
    """`metaexp::gru(into, first, turned, bias)` and `metaexp::gru_back(grad, made, weight)`: one node each in a graph,
    for which `metaexp.outer.gru_kernel` has code of its own.

    The first returns the vector of `_parts` for into [steps, tasks, 3 hidden], first [tasks, hidden] and turned, the
    recurrent weights [hidden, 3 hidden], all contiguous. The second returns that of `_gradients` for the gradient of
    the memories after the steps, [steps, tasks, hidden], contiguous.
    """
    library = torch.library.Library("metaexp", "FRAGMENT")
    library.define("gru(Tensor into, Tensor first, Tensor turned, Tensor bias) -> Tensor")
    library.define("gru_back(Tensor grad, Tensor made, Tensor weight) -> Tensor")
    for device in ("CPU", "CUDA"):
        library.impl("gru", _forwards, device)
        library.impl("gru_back", _backwards, device)
    library.impl("gru", lambda into, first, turned, bias: _room(into, first), "Meta")
    library.impl("gru_back", lambda grad, made, weight: _room_back(grad), "Meta")
    _kept.append(library)  # it lives as long as the operations
    return torch.ops.metaexp.gru.default, torch.ops.metaexp.gru_back.default
