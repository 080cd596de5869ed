"""Outer optimisers as pure functions of flat vectors, for steps that are one compiled graph.

The state remains that of the torch optimiser: its tensors become views of the vectors, so checkpoints, schedules and
`state_dict` do not notice.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metaexp.errors import ConfigError

Slots = dict[str, Tensor]  # the optimiser's vectors by torch's name for them: [numbers of all parameters]
Rule = Callable[[Tensor, Tensor, Slots, Tensor, Tensor, dict[str, Any]], tuple[Tensor, Slots]]


def _sgd(p: Tensor, g: Tensor, slots: Slots, count: Tensor, lr: Tensor, group: dict[str, Any]) -> tuple[Tensor, Slots]:
    g = g + group["weight_decay"] * p if group["weight_decay"] else g
    if group["momentum"]:
        velocity = group["momentum"] * slots["momentum_buffer"] + g
        slots = {"momentum_buffer": velocity}
        g = g + group["momentum"] * velocity if group["nesterov"] else velocity
    return p - lr * g, slots


def _adam(p: Tensor, g: Tensor, slots: Slots, count: Tensor, lr: Tensor, group: dict[str, Any]) -> tuple[Tensor, Slots]:
    (beta1, beta2), decay = group["betas"], group["weight_decay"]
    if decay and group.get("decoupled_weight_decay"):
        p = p * (1 - lr * decay)
    elif decay:
        g = g + decay * p
    mean = slots["exp_avg"] + (1 - beta1) * (g - slots["exp_avg"])
    square = beta2 * slots["exp_avg_sq"] + (1 - beta2) * g * g
    correction1, correction2 = 1 - beta1**count, torch.sqrt(1 - beta2**count)
    p = p - (lr / correction1) * mean / (torch.sqrt(square) / correction2 + group["eps"])
    return p, {"exp_avg": mean, "exp_avg_sq": square}


RULES: dict[type, tuple[Rule, tuple[str, ...]]] = {
    torch.optim.SGD: (_sgd, ("momentum_buffer",)),
    torch.optim.Adam: (_adam, ("exp_avg", "exp_avg_sq")),
    torch.optim.AdamW: (_adam, ("exp_avg", "exp_avg_sq")),
}


class FlatOptimiser(NamedTuple):
    """Parameters and optimiser state as vectors; the learner's and the optimiser's own tensors are views of them."""

    theta: Tensor
    slots: Slots
    counts: Tensor  # [parameters] updates so far, all equal; torch keeps one per parameter
    rule: Rule
    group: dict[str, Any]

    def update(self, theta: Tensor, gradient: Tensor, slots: Slots, counts: Tensor, lr: Tensor) -> tuple[Tensor, Slots]:
        """New parameters and slots after update number counts[0] (from 1)."""
        return self.rule(theta, gradient, slots, counts[0].to(theta.dtype), lr, self.group)


def flatten(optimizer: torch.optim.Optimizer, params: dict[str, nn.Parameter]) -> FlatOptimiser | None:
    """Make parameters and optimiser state views of vectors; None for an optimiser or option that has no rule here."""
    group = optimizer.param_groups[0]
    made = RULES.get(type(optimizer))
    options = ("amsgrad", "maximize", "differentiable", "dampening")
    if made is None or len(optimizer.param_groups) > 1 or any(group.get(name) for name in options):
        return None
    own = list(params.values())
    if len({(p.dtype, p.device) for p in own}) > 1 or {id(p) for p in own} != {id(p) for p in group["params"]}:
        return None
    rule, names = made
    if type(optimizer) is torch.optim.SGD and not group["momentum"]:
        names = ()
    with torch.no_grad():
        theta = torch.cat([p.detach().reshape(-1) for p in own])
        counts = torch.zeros(len(own), dtype=torch.float32, device=theta.device)
        slots = {name: torch.zeros_like(theta) for name in names}
        pieces = {name: torch.split(slot, [p.numel() for p in own]) for name, slot in slots.items()}
        for place, (p, piece) in enumerate(zip(own, torch.split(theta, [p.numel() for p in own]), strict=True)):
            p.data = piece.view_as(p)
            before = dict(optimizer.state[p])
            state = optimizer.state[p] = {"step": counts[place]} if "exp_avg" in names else {}
            for name, view in (state | {name: pieces[name][place].view_as(p) for name in names}).items():
                if before.get(name) is not None:
                    view.copy_(before[name])
                state[name] = view
    return FlatOptimiser(theta, slots, counts, rule, group)


def make_optimizer(make: Callable[..., Any], learner: Any) -> torch.optim.Optimizer:
    """The outer optimiser of the learner's meta-parameters; of a dummy parameter for a method that trains nothing.

    Raises:
        ConfigError: the learner has no parameter to train.
    """
    params = list(learner.meta_parameters().values())
    if not params and learner.trains:
        raise ConfigError("model: has no parameter that requires a gradient, so there is nothing to meta-learn")
    return make(params or [torch.nn.Parameter(torch.zeros(()))])
