"""Model-agnostic meta-learning."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad

from metaexp.algos.base import MetaLearner, ModelFactory
from metaexp.checks import whole
from metaexp.constraints import Count, Natural, Positive
from metaexp.inner import SGD, Descent, InnerOptimiser, Tree, descend
from metaexp.types import Episode, Examples


class MAML(MetaLearner):
    """MAML and FOMAML: meta-learn an initialisation from which a few gradient steps on the support set do well.

    "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", Finn, Abbeel, Levine, 2017, algorithms 1, 2.
    The outer loss is that of the last inner step. Differs from the authors' code in that classification losses are
    means over examples (theirs sum over the classes: their rate of 0.4 at 5 ways is 2.0 here) and that the scale and
    shift of the norms take part in the inner loop (`adapt` says which parameters do).

    Args:
        inner_lr, inner_steps: of the inner loop at training.
        test_lr, test_steps: of the inner loop at validation and test; None takes the training value.
        first_order: FOMAML: inner gradients count as constants.
        inner: the inner optimiser, `metaexp.inner.SGD` or `Adam`.
        adapt: shell patterns of the names of the network's parameters that the inner loop adapts; with a ! in front,
            of those that it leaves alone.
        checkpoint: keep of each inner step its parameters alone and make its graph again in the backward pass: much
            less memory for many steps, and about a third more time. The meta-gradient is the same.

    Raises:
        ValueError: a rate or a number of steps out of range, a pattern that matches no parameter, `checkpoint` with
            `first_order`, which keeps no graph anyway, or with a loss that has parameters.
    """

    def __init__(
        self,
        family: Any,
        model: ModelFactory | torch.nn.Module,
        inner_lr: Positive = 0.01,
        inner_steps: Count = 1,
        test_steps: Natural | None = None,
        test_lr: Positive | None = None,
        first_order: bool = False,
        inner: InnerOptimiser = SGD(),
        adapt: Sequence[str] = ("*",),
        checkpoint: bool = False,
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, model, loss, mapping)
        self.inner_lr, self.inner_steps = inner_lr, inner_steps
        self.test_lr = inner_lr if test_lr is None else test_lr
        self.test_steps = inner_steps if test_steps is None else test_steps
        check_inner_loop(inner_lr, inner_steps, self.test_lr, self.test_steps)
        if checkpoint and first_order:
            raise ValueError("checkpoint=true: first_order keeps no graph of the inner steps; leave one of the two out")
        own = [name for name in self.meta_parameters() if not name.startswith("model.")]
        if checkpoint and own:
            raise ValueError(f"checkpoint=true: would lose the gradient of the loss's own parameter {own[0]}")
        self.first_order, self.inner, self.checkpoint = first_order, inner, checkpoint
        trainable = {name for name, p in self.model.named_parameters() if p.requires_grad}
        for pattern in adapt:
            if not pattern.startswith("!") and not any(fnmatchcase(name, pattern) for name in trainable):
                raise ValueError(f"adapt={pattern}: matches none of the parameters {', '.join(sorted(trainable))}")
        left_out = [pattern[1:] for pattern in adapt if pattern.startswith("!")]
        self.adapted_names = {
            name
            for name in trainable
            if any(fnmatchcase(name, pattern) for pattern in adapt)
            and not any(fnmatchcase(name, pattern) for pattern in left_out)
        }
        if not self.adapted_names:
            raise ValueError(f"adapt={list(adapt)}: leaves no parameter for the inner loop")

    def _descend(self, support: Examples, lr: float, steps: int, first_order: bool) -> Descent:
        start = self._start()
        if first_order or not self.checkpoint:
            return descend(lambda p, _: self._loss(p, support), start, self.inner, lr, steps, first_order)
        # What a step reads besides what it adapts: the rest of the network, and the support set.
        tensors = [*self.model.named_parameters(), *self.model.named_buffers()]
        rest = {name: tensor for name, tensor in tensors if name not in start}

        def loss(p: Tree, _: int, given: tuple[Tree, Examples]) -> Tensor:
            return self._loss(given[0] | p, given[1])

        return descend(loss, start, self.inner, lr, steps, given=(rest, support))

    def _start(self) -> Tree:
        return {n: p for n, p in self.model.named_parameters() if n in self.adapted_names}

    def _loss(self, params: Tree, examples: Examples) -> Tensor:
        return self.loss(self.predict(params, examples.x), examples.y)

    def adapt(self, support: Examples, key: Tensor) -> Tree:
        """The adapted parameters after `inner_steps` steps on the support set."""
        return self._descend(support, self.inner_lr, self.inner_steps, self.first_order).path[-1]

    def path(self, support: Examples, key: Tensor, steps: int) -> list[Tree]:
        """The adapted parameters after 0, 1, ..., steps steps at the test rate."""
        return self._descend(support, self.test_lr, steps, first_order=True).path

    def predict(self, adapted: Tree, x: Tensor) -> Tensor:
        """The network with the adapted parameters in place of its own."""
        return functional_call(self.model, adapted, (x,))

    def diagnostics(self, episode: Episode) -> dict[str, Tensor]:
        """`inner_gradient_norm`: Euclidean norm of the support loss's gradient at the initialisation."""
        gradient = grad(self._loss)(self._start(), episode.support)
        return {"inner_gradient_norm": torch.sqrt(sum((g**2).sum() for g in gradient.values()))}


def check_inner_loop(inner_lr: float, inner_steps: int, test_lr: float, test_steps: int) -> None:
    """Refuse rates that are not above 0 and counts of steps below 0 (1 at training), naming the argument."""
    for name, rate in (("inner_lr", inner_lr), ("test_lr", test_lr)):
        if not rate > 0:
            raise ValueError(f"{name}={rate}: must be above 0")
    for name, steps, least in (("inner_steps", inner_steps, 1), ("test_steps", test_steps, 0)):
        whole(name, steps, least)
