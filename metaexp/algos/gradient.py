"""What methods share that learn a task by gradient steps on the loss of its support set."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad

from metaexp.algos.base import MetaLearner, ModelFactory
from metaexp.inner import InnerLoop, Tree
from metaexp.models.functional import predicted
from metaexp.types import Episode, Examples


class GradientLearner(MetaLearner):
    """From initial values that the outer loop learns, gradient steps on the support loss lead to those of a task.

    A method must write

        initial         what the inner loop adapts, at its initial values;

    and may write

        features        what no adapted value changes about an input, computed once per task;
        read            the prediction from it with adapted values;
        inner_loop      the inner loop of this moment, where rates or the optimiser's state are learned or carried on.

    Everything else is here: `adapt` and `path` take the steps, `diagnostics` measures the first gradient.

    Args:
        inner: the settings of the inner loop; the attributes inner_lr, inner_steps, test_lr, test_steps repeat them.
        family, model, loss, mapping: see `MetaLearner`.
    """

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        inner: InnerLoop,
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, model, loss, mapping)
        self.inner = inner
        self.exact_gradient = not inner.first_order
        self.inner_lr: Any = inner.lr
        self.inner_steps, self.test_lr, self.test_steps = inner.steps, inner.test_lr, inner.test_steps

    def initial(self) -> Tree:
        """What the inner loop adapts, by name."""
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, ...]: the inputs themselves."""
        return x

    def read(self, adapted: Tree, z: Tensor) -> Tensor:
        """[n, ...] -> [n, out]: the network with the adapted parameters instead of its own."""
        return predicted(self.model, adapted, z)

    def inner_loop(self) -> InnerLoop:
        """The inner loop of this moment."""
        return self.inner

    @property
    def plain_rate(self) -> float | None:
        """The inner rate of training if it is a plain number."""
        return float(self.inner.lr) if isinstance(self.inner.lr, int | float) else None

    @contextmanager
    def at_rate(self, rate: Tensor) -> Iterator[None]:
        """Inside, training takes the inner rate [] from a tensor: a compiled graph then serves every rate."""
        own, self.inner = self.inner, self.inner._replace(lr=rate)
        try:
            yield
        finally:
            self.inner = own

    def inner_loss(self, adapted: Tree, seen: Examples) -> Tensor:
        """The support loss [], which the inner loop descends; `seen` has features instead of inputs."""
        return self.loss(self.read(adapted, seen.x), seen.y)

    def _seen(self, support: Examples) -> Examples:
        return Examples(self.features(support.x), support.y)

    def adapt(self, support: Examples, key: Tensor) -> Tree:
        """The adapted values after `inner_steps` steps on the support set."""
        return self.inner_loop().train(self.inner_loss, self.initial(), self._seen(support), key).path[-1]

    def path(self, support: Examples, key: Tensor, steps: int) -> list[Tree]:
        """The adapted values after 0, 1, ..., steps steps with the settings of the test."""
        return self.inner_loop().test(self.inner_loss, self.initial(), self._seen(support), key, steps).path

    def predict(self, adapted: Tree, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, out]: see `read`."""
        return self.read(adapted, self.features(x))

    def diagnostics(self, episode: Episode) -> dict[str, Tensor]:
        """`inner_gradient_norm`: Euclidean norm of the support loss's gradient at the initial values."""
        gradient = grad(self.inner_loss)(self.initial(), self._seen(episode.support))
        return {"inner_gradient_norm": torch.sqrt(sum((g**2).sum() for g in gradient.values()))}


def trainable(module: nn.Module) -> Tree:
    """The parameters that require a gradient, by name; frozen ones are neither adapted nor meta-learned."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def matching(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """The names that match one of the shell patterns, and none of those with a ! in front.

    Raises:
        ValueError: a pattern that matches no name, or nothing is left; the message is about the argument `adapt`.
    """
    for pattern in patterns:
        if not pattern.startswith("!") and not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"adapt={pattern}: matches none of the parameters {', '.join(sorted(names))}")
    left_out = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    found = {
        name
        for name in names
        if any(fnmatchcase(name, pattern) for pattern in patterns)
        and not any(fnmatchcase(name, pattern) for pattern in left_out)
    }
    if not found:
        raise ValueError(f"adapt={list(patterns)}: leaves no parameter for the inner loop")
    return found
