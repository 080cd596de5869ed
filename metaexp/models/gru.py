"""A gated recurrent unit that vmap, the compiler and long sequences can take."""

import math
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
        steps, tasks, width = into.shape
        hidden = width // 3
        h = into.new_empty(steps + 1, tasks, hidden)
        gates = into.new_empty(steps, tasks, 2 * hidden)  # reset, update
        kept, new = into.new_empty(steps, tasks, hidden), into.new_empty(steps, tasks, hidden)
        h[0] = first
        turned = weight.T.contiguous()
        for t in range(steps):
            sums = torch.addmm(bias, h[t], turned)
            torch.add(into[t, :, : 2 * hidden], sums[:, : 2 * hidden], out=gates[t]).sigmoid_()
            kept[t] = sums[:, 2 * hidden :]
            torch.addcmul(into[t, :, 2 * hidden :], gates[t, :, :hidden], kept[t], out=new[t]).tanh_()
            torch.lerp(new[t], h[t], gates[t, :, hidden:], out=h[t + 1])
        ctx.save_for_backward(h, gates, kept, new, weight)
        return h[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h, gates, kept, new, weight = ctx.saved_tensors
        steps, tasks, hidden = new.shape
        into, sums = grad.new_empty(steps, tasks, 3 * hidden), grad.new_empty(steps, tasks, 3 * hidden)
        carried = torch.zeros_like(new[0])
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
        flat = sums.flatten(0, 1)
        return into, carried, flat.T @ h[:-1].flatten(0, 1), flat.sum(0)
