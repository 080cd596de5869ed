"""Meta-SGD: a learned rate for every parameter."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metaexp.algos.base import ModelFactory
from metaexp.algos.gradient import GradientLearner, trainable
from metaexp.algos.views import View, layer_bars, layer_means
from metaexp.constraints import Count, Natural, Positive
from metaexp.inner import SGD, InnerLoop, Tree, slashed
from metaexp.types import Episode


class MetaSGD(GradientLearner):
    """MAML with a rate of its own for every element of every parameter: theta' = theta - alpha o grad L_S(theta).

    "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", Li, Zhou, Chen, Li, 2017, algorithm 1. alpha has the
    shape of theta and is meta-learned with it; it is not bounded and may become negative, so that the inner loop learns
    its direction too. The paper takes one step; more use the same rates at every step.

    Args:
        inner_lr: [low, high] between which the rates start, uniformly; or one number for all.
        inner_steps, test_steps, first_order: of the inner loop, as in `MAML`.

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
        bounds = [inner_lr] * 2 if isinstance(inner_lr, int | float) else list(inner_lr)
        if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
            raise ValueError(f"inner_lr={inner_lr}: must be above 0, one number or [low, high]")
        inner_loop = InnerLoop.of(SGD(), {}, inner_steps, test_steps=test_steps, first_order=first_order)
        super().__init__(family, model, inner_loop, loss, mapping)
        self.inner_lr = inner_lr
        start = {name: torch.empty_like(p).uniform_(*bounds) for name, p in self.initial().items()}
        self.rates = nn.ParameterDict({slashed(name): nn.Parameter(rate.detach()) for name, rate in start.items()})

    def initial(self) -> Tree:
        """theta."""
        return trainable(self.model)

    def learned(self) -> Tree:
        """alpha, by the names of theta."""
        return {name: self.rates[slashed(name)] for name in self.initial()}

    def inner_loop(self) -> InnerLoop:
        """With the rates as they have been learned."""
        return self.inner._replace(lr=self.learned(), test_lr=self.learned())

    def diagnostics(self, episode: Episode) -> dict[str, Tensor]:
        """`rate/LAYER`: mean rate of the layer's parameters; `rates_below_0`: the fraction that is negative."""
        every = torch.cat([rate.flatten() for rate in self.rates.values()])
        means = {f"rate/{layer}": mean for layer, mean in layer_means(self.learned()).items()}
        return means | {"rates_below_0": (every < 0).to(every.dtype).mean()}

    def views(self, episode: Episode) -> dict[str, View]:
        """`rates`: the mean rate of every layer."""
        return {"rates": layer_bars(self.learned(), "learned inner rates", "mean rate of the layer")}
