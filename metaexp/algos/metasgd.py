"""Meta-SGD: a learned rate for every parameter."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metaexp.algos.base import MetaLearner, ModelFactory
from metaexp.algos.views import Bars, View
from metaexp.checks import whole
from metaexp.constraints import Count, Natural, Positive
from metaexp.inner import SGD, Descent, Tree, descend
from metaexp.types import Episode, Examples


class MetaSGD(MetaLearner):
    """MAML with a rate of its own for every element of every parameter: theta' = theta - alpha o grad L_S(theta).

    "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", Li, Zhou, Chen, Li, 2017, algorithm 1. alpha has the
    shape of theta and is meta-learned with it; it is not bounded and may become negative, so that the inner loop learns
    its direction too. The paper takes one step; more use the same rates at every step.

    Args:
        inner_lr: [low, high] between which the rates start, uniformly; or one number for all.
        inner_steps, test_steps: steps at training and at validation and test; None takes the training value.
        first_order: inner gradients count as constants (the rates are still learned).

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        inner_lr: Positive | Sequence[Positive] = (0.005, 0.1),
        inner_steps: Count = 1,
        test_steps: Natural | None = None,
        first_order: bool = False,
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, model, loss, mapping)
        low, high = (inner_lr, inner_lr) if isinstance(inner_lr, (int, float)) else _range(inner_lr)
        if not 0 < low <= high:
            raise ValueError(f"inner_lr={inner_lr}: must be above 0, one number or [low, high]")
        self.inner_steps, self.first_order = inner_steps, first_order
        self.test_steps = inner_steps if test_steps is None else test_steps
        for name, steps, least in (("inner_steps", inner_steps, 1), ("test_steps", self.test_steps, 0)):
            whole(name, steps, least)
        start = {_key(name): torch.empty_like(p).uniform_(low, high) for name, p in self._start().items()}
        self.rates = nn.ParameterDict({name: nn.Parameter(rate.detach()) for name, rate in start.items()})

    def _start(self) -> Tree:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def _descend(self, support: Examples, steps: int, first_order: bool) -> Descent:
        start = self._start()
        rates = {name: self.rates[_key(name)] for name in start}

        def loss(params: Tree, step: int) -> Tensor:
            return self.loss(self.predict(params, support.x), support.y)

        return descend(loss, start, SGD(), rates, steps, first_order)

    def adapt(self, support: Examples, key: Tensor) -> Tree:
        """The adapted parameters after `inner_steps` steps on the support set."""
        return self._descend(support, self.inner_steps, self.first_order).path[-1]

    def path(self, support: Examples, key: Tensor, steps: int) -> list[Tree]:
        """The adapted parameters after 0, 1, ..., steps steps."""
        return self._descend(support, steps, first_order=True).path

    def predict(self, adapted: Tree, x: Tensor) -> Tensor:
        """The network with the adapted parameters in place of its own."""
        return functional_call(self.model, adapted, (x,))

    def _layers(self) -> dict[str, Tensor]:
        """The rates of each layer, [numbers in it]."""
        layers: dict[str, list[Tensor]] = {}
        for name in self._start():
            layers.setdefault(name.rpartition(".")[0], []).append(self.rates[_key(name)].flatten())
        return {layer: torch.cat(rates) for layer, rates in layers.items()}

    def diagnostics(self, episode: Episode) -> dict[str, Tensor]:
        """`rate/LAYER`: mean rate of the layer's parameters; `rates_below_0`: the fraction that is negative."""
        layers = self._layers()
        every = torch.cat([*layers.values()])
        means = {f"rate/{layer}": rates.mean() for layer, rates in layers.items()}
        return means | {"rates_below_0": (every < 0).to(every.dtype).mean()}

    def views(self, episode: Episode) -> dict[str, View]:
        """`rates`: the mean rate of every layer."""
        layers = self._layers()
        values = torch.stack([rates.mean() for rates in layers.values()])
        return {"rates": Bars(values, list(layers), "learned inner rates", "mean rate of the layer")}


def _key(name: str) -> str:
    return name.replace(".", "/")  # a parameter's name may not contain a dot


def _range(inner_lr: Sequence[float]) -> tuple[float, float]:
    if len(inner_lr) != 2:
        raise ValueError(f"inner_lr={list(inner_lr)}: must be above 0, one number or [low, high]")
    return float(inner_lr[0]), float(inner_lr[1])
