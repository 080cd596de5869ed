"""Model-agnostic meta-learning."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from metaexp.algos.base import ModelFactory
from metaexp.algos.gradient import GradientLearner, matching, trainable
from metaexp.constraints import Count, Natural, Positive
from metaexp.inner import SGD, InnerLoop, InnerOptimiser, Tree
from metaexp.models.dropping import dropping_layers


class MAML(GradientLearner):
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
        checkpoint: keep only the parameters of each inner step and recompute its graph in the backward pass: much less
            memory for many steps, and about a third more time. The meta-gradient is the same.

    Raises:
        ValueError: a rate or a number of steps out of range, a pattern that matches no parameter, `checkpoint` with
            `first_order`, which keeps no graph anyway, with a loss that has parameters, or with layers that drop
            features.
    """

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
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
        inner_loop = InnerLoop.of(inner, inner_lr, inner_steps, test_lr, test_steps, first_order)
        super().__init__(family, model, inner_loop, loss, mapping)
        if checkpoint and first_order:
            raise ValueError("checkpoint=true: first_order keeps no graph of the inner steps; leave one of the two out")
        if checkpoint and (drops := dropping_layers(self.model)):
            raise ValueError(f"checkpoint=true: steps are computed twice, and {drops[0]} draws anew at every pass")
        own = [name for name in self.meta_parameters() if not name.startswith("model.")]
        if checkpoint and own:
            raise ValueError(f"checkpoint=true: would lose the gradient of the loss's own parameter {own[0]}")
        self.checkpoint, self.adapted_names = checkpoint, matching(list(trainable(self.model)), adapt)

    def initial(self) -> Tree:
        """The meta-learned parameters that `adapt` names."""
        return {name: p for name, p in self.model.named_parameters() if name in self.adapted_names}

    def inner_loop(self) -> InnerLoop:
        """With `checkpoint`, it needs the rest of the network too: what a step reads besides what it adapts."""
        if not self.checkpoint:
            return self.inner
        tensors = [*self.model.named_parameters(), *self.model.named_buffers()]
        return self.inner._replace(rest={name: t for name, t in tensors if name not in self.adapted_names})
