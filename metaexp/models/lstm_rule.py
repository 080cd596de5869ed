"""An LSTM as an update rule, which `metaexp.algos.l2l` learns."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from metaexp.constraints import Count, Positive

Tree = dict[str, Tensor]


class LSTMRule(nn.Module):
    """A small LSTM that maps each coordinate's gradient to its step: theta <- theta + lr m(gradient, state).

    All coordinates share the weights and each has its own state, so the rule fits any network. It is a
    `metaexp.inner.InnerOptimiser` whose parameters can be learned. The cell is written out in elementary operations,
    because `nn.LSTM` can neither be mapped by vmap nor differentiated twice.

    Args:
        hidden, layers: width and number of the LSTM's layers.
        preprocess: p in the log and sign of the gradient (see `inputs`); None: the unchanged gradient.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, hidden: Count = 20, layers: Count = 2, preprocess: Positive | None = 10.0):
        super().__init__()
        for name, size in (("hidden", hidden), ("layers", layers)):
            if size < 1:
                raise ValueError(f"{name}={size}: must be at least 1")
        if preprocess is not None and not preprocess > 0:
            raise ValueError(f"preprocess={preprocess}: must be above 0, or null for the gradient as it is")
        self.hidden, self.p = hidden, preprocess
        inputs = [1 if preprocess is None else 2] + [hidden] * (layers - 1)
        cells = [nn.Linear(i + hidden, 4 * hidden) for i in inputs]
        self.cells = nn.ModuleList(cells)
        self.head = nn.Linear(hidden, 1)
        with torch.no_grad():
            for cell in cells:
                cell.bias[:hidden] = 1.0  # the forget gate starts open

    def init(self, params: Tree) -> dict[str, Tree]:
        """Zero states: h and c of every layer, each [coordinates, hidden]."""
        coordinates = sum(p.numel() for p in params.values())
        zero = next(iter(params.values())).new_zeros(coordinates, self.hidden)
        return {name: {str(i): zero for i in range(len(self.cells))} for name in ("h", "c")}

    def update(self, grads: Tree, state: dict[str, Tree], params: Tree, lr: Any) -> tuple[Tree, dict[str, Tree]]:
        """One step of all coordinates; nothing is changed in place."""
        x = self.inputs(torch.cat([grads[name].flatten() for name in params]))
        new: dict[str, Tree] = {"h": {}, "c": {}}
        for i, cell in enumerate(self.cells):
            sums = cell(torch.cat((x, state["h"][str(i)]), -1))
            forget, into, out = torch.sigmoid(sums[:, : 3 * self.hidden]).chunk(3, -1)
            c = forget * state["c"][str(i)] + into * torch.tanh(sums[:, 3 * self.hidden :])
            x = out * torch.tanh(c)
            new["h"][str(i)], new["c"][str(i)] = x, c
        steps = self.head(x).squeeze(-1).split([p.numel() for p in params.values()])
        moved = {name: p + lr * s.view(p.shape) for (name, p), s in zip(params.items(), steps, strict=True)}
        return moved, new

    def inputs(self, gradient: Tensor) -> Tensor:
        """[n] -> [n, 2] (appendix A): (log|g| / p, sign g) if |g| >= e^-p, else (-1, e^p g); [n, 1] without p."""
        if self.p is None:
            return gradient[:, None]
        size = torch.log(torch.clamp(gradient.abs(), min=math.exp(-self.p))) / self.p
        return torch.stack((size, torch.clamp(gradient * math.exp(self.p), -1.0, 1.0)), -1)
