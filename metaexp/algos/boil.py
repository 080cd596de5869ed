"""Body only update in inner loop."""

from typing import Any

from torch import nn

from metaexp.algos.base import ModelFactory
from metaexp.algos.features import check_head
from metaexp.algos.gradient import GradientLearner, trainable
from metaexp.constraints import Count, Natural, Positive
from metaexp.inner import SGD, InnerLoop, InnerOptimiser, Tree


class BOIL(GradientLearner):
    """MAML whose inner loop adapts the body alone: b' = b - a grad_b L_S(head, b), meta-gradient in head and body.

    "BOIL: Towards Representation Change for Few-shot Learning", Oh, Yoo, Kim, Yun, 2021, section 3. As in the authors'
    code the body is everything but the head, scale and shift of the norms included, and the head learns in the outer
    loop; their options of an orthogonal, a centred and a fixed head are left out.

    Args:
        inner_lr, inner_steps, test_lr, test_steps, first_order, inner: of the inner loop, as in `MAML`.

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
        inner_loop = InnerLoop.of(inner, inner_lr, inner_steps, test_lr, test_steps, first_order)
        super().__init__(family, model, inner_loop, loss, mapping)
        check_head(self.model, "BOIL")
        if not self.initial():
            raise ValueError("model: BOIL adapts the body, and no parameter before the head requires a gradient")
        if not any(bool(p.any()) for p in self.model.get_submodule("head").parameters()):
            raise ValueError(
                "model: the head is zero and BOIL does not adapt it, so that nothing reaches the body; set "
                "model.head=random, or take model=mlp"
            )

    def initial(self) -> Tree:
        """The meta-learned body."""
        return {name: p for name, p in trainable(self.model).items() if not name.startswith("head.")}
