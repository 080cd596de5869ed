"""Almost no inner loop."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from metaexp.algos.base import ModelFactory
from metaexp.algos.features import FeatureLearner, check_head
from metaexp.algos.maml import check_inner_loop
from metaexp.constraints import Count, Natural, Positive
from metaexp.inner import SGD, InnerOptimiser, Tree, descend
from metaexp.models.norms import depends_on_batch
from metaexp.types import Episode, Examples


class ANIL(FeatureLearner):
    """MAML whose inner loop adapts the head alone: h' = h - a grad_h L_S(h, body), meta-gradient in h and body.

    "Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML", Raghu, Raghu, Bengio, Vinyals,
    2020, section 4. The body's features of a task's support set are computed once, whatever the number of steps, and
    those of its queries once per mode of the test. Differs from the paper in that classification losses are means over
    examples (theirs, as MAML's, sum over the classes) and in the choice `normalise="running"`; the default keeps
    support and query statistics apart, as in MAML.

    Args:
        inner_lr, inner_steps: of the inner loop at training.
        test_lr, test_steps: of the inner loop at validation and test; None takes the training value.
        first_order: inner gradients count as constants.
        inner: the inner optimiser, `metaexp.inner.SGD` or `Adam`.
        normalise: "batch" or "running", see `FeatureLearner`.

    Raises:
        ValueError: a setting out of range, or a network without `features` and `head`.
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
        normalise: Literal["batch", "running"] = "batch",
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, model, loss, mapping)
        check_head(self.model, "ANIL")
        self.keep(normalise)
        self.inner_lr, self.inner_steps = inner_lr, inner_steps
        self.test_lr = inner_lr if test_lr is None else test_lr
        self.test_steps = inner_steps if test_steps is None else test_steps
        check_inner_loop(inner_lr, inner_steps, self.test_lr, self.test_steps)
        self.first_order, self.inner = first_order, inner
        if not self._start():
            raise ValueError("model: ANIL adapts the head, and no parameter of it requires a gradient")

    def _start(self) -> Tree:
        return {n: p for n, p in self._head().named_parameters() if p.requires_grad}

    def _head(self) -> nn.Module:
        head: nn.Module = self.model.head  # type: ignore[assignment]
        return head

    def reads_batch(self) -> bool:
        """See FeatureLearner: the head may have a batch norm."""
        return depends_on_batch(self._head())

    def _loss(self, head: Tree, z: Tensor, y: Tensor) -> Tensor:
        return self.loss(self.read(head, z), y)

    def fit(self, z: Tensor, y: Tensor, key: Tensor) -> Tree:
        """The head after `inner_steps` steps on the support features."""
        start, steps = self._start(), self.inner_steps
        return descend(
            lambda h, _: self._loss(h, z, y), start, self.inner, self.inner_lr, steps, self.first_order
        ).path[-1]

    def read(self, adapted: Tree, z: Tensor) -> Tensor:
        """The adapted head on features."""
        return functional_call(self._head(), adapted, (z,))

    def path(self, support: Examples, key: Tensor, steps: int) -> list[Tree]:
        """The head after 0, 1, ..., steps steps at the test rate."""
        z = self.features(support.x)
        return descend(
            lambda h, _: self._loss(h, z, support.y), self._start(), self.inner, self.test_lr, steps, first_order=True
        ).path

    def diagnostics(self, episode: Episode) -> dict[str, Tensor]:
        """`inner_gradient_norm`: Euclidean norm of the support loss's gradient in the head, at the initialisation."""
        gradient = grad(self._loss)(self._start(), self.features(episode.support.x), episode.support.y)
        return {"inner_gradient_norm": torch.sqrt(sum((g**2).sum() for g in gradient.values()))}
