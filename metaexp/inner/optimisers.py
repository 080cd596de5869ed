"""Inner optimisers: differentiable update rules as pure functions of dicts of tensors."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Tree = dict[str, Tensor]
Rate = float | Tensor | Tree  # one rate, or one per parameter (with its shape, or one that broadcasts to it)


class InnerOptimiser(Protocol):
    """A differentiable update rule: gradients, state and parameters in, parameters and state out."""

    def init(self, params: Tree) -> dict[str, Tree]: ...
    def update(self, grads: Tree, state: dict[str, Tree], params: Tree, lr: Rate) -> tuple[Tree, dict[str, Tree]]: ...


def _rate(lr: Rate, name: str) -> float | Tensor:
    return lr[name] if isinstance(lr, dict) else lr


class SGD(NamedTuple):
    """Gradient descent; with momentum m: v <- m v + g, p <- p - lr v (Nesterov: p <- p - lr (g + m v))."""

    momentum: float = 0.0
    nesterov: bool = False

    def init(self, params: Tree) -> dict[str, Tree]:
        """Zero velocities, or an empty state if momentum is 0."""
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
            # sqrt has no derivative at 0, the value for a dead unit: its second-order gradient would be inf * 0.
            alive = variance > 0
            root = torch.where(alive, torch.sqrt(torch.where(alive, variance, 1.0)), 0.0)
            new[k] = p - _rate(lr, k) * mean / (root + self.eps)
        return new, {"moment1": moment1, "moment2": moment2, "count": {"steps": count}}
