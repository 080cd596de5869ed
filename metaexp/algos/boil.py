"""Body only update in inner loop."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from metaexp.algos.base import MetaLearner, ModelFactory
from metaexp.algos.features import check_head
from metaexp.algos.maml import check_inner_loop
from metaexp.constraints import Count, Natural, Positive
from metaexp.inner import SGD, Descent, InnerOptimiser, Tree, descend
from metaexp.types import Episode, Examples


class BOIL(MetaLearner):
    """MAML whose inner loop adapts the body alone: b' = b - a grad_b L_S(head, b), meta-gradient in head and body.

    "BOIL: Towards Representation Change for Few-shot Learning", Oh, Yoo, Kim, Yun, 2021, section 3. As in the authors'
    code the body is everything but the head, scale and shift of the norms included, and the head learns in the outer
    loop; their options of an orthogonal, a centred and a fixed head are left out.

    Args:
        inner_lr, inner_steps: of the inner loop at training.
        test_lr, test_steps: of the inner loop at validation and test; None takes the training value.
        first_order: inner gradients count as constants.
        inner: the inner optimiser, `metaexp.inner.SGD` or `Adam`.

    Raises:
        ValueError: a setting out of range, or a network without `head` and a body before it.
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
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, model, loss, mapping)
        check_head(self.model, "BOIL")
        self.inner_lr, self.inner_steps = inner_lr, inner_steps
        self.test_lr = inner_lr if test_lr is None else test_lr
        self.test_steps = inner_steps if test_steps is None else test_steps
        check_inner_loop(inner_lr, inner_steps, self.test_lr, self.test_steps)
        self.first_order, self.inner = first_order, inner
        if not self._start():
            raise ValueError("model: BOIL adapts the body, and no parameter before the head requires a gradient")

    def _start(self) -> Tree:
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad and not n.startswith("head.")}

    def _loss(self, body: Tree, examples: Examples) -> Tensor:
        return self.loss(self.predict(body, examples.x), examples.y)

    def _descend(self, support: Examples, lr: float, steps: int, first_order: bool) -> Descent:
        return descend(lambda b, _: self._loss(b, support), self._start(), self.inner, lr, steps, first_order)

    def adapt(self, support: Examples, key: Tensor) -> Tree:
        """The body's parameters after `inner_steps` steps on the support set."""
        return self._descend(support, self.inner_lr, self.inner_steps, self.first_order).path[-1]

    def path(self, support: Examples, key: Tensor, steps: int) -> list[Tree]:
        """The body's parameters after 0, 1, ..., steps steps at the test rate."""
        return self._descend(support, self.test_lr, steps, first_order=True).path

    def predict(self, adapted: Tree, x: Tensor) -> Tensor:
        """The network with the adapted body in place of its own."""
        return functional_call(self.model, adapted, (x,))

    def diagnostics(self, episode: Episode) -> dict[str, Tensor]:
        """`inner_gradient_norm`: Euclidean norm of the support loss's gradient in the body, at the initialisation."""
        gradient = grad(self._loss)(self._start(), episode.support)
        return {"inner_gradient_norm": torch.sqrt(sum((g**2).sum() for g in gradient.values()))}
