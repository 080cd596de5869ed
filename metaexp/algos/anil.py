"""Almost no inner loop."""

from typing import Any, Literal

from torch import Tensor, nn

from metaexp.algos.base import ModelFactory
from metaexp.algos.features import FeatureLearner, check_head
from metaexp.algos.gradient import GradientLearner, trainable
from metaexp.constraints import Count, Natural, Positive
from metaexp.inner import SGD, InnerLoop, InnerOptimiser, Tree
from metaexp.models.functional import predicted
from metaexp.models.norms import depends_on_batch
from metaexp.types import Examples


class ANIL(FeatureLearner, GradientLearner):
    """MAML whose inner loop adapts the head alone: h' = h - a grad_h L_S(h, body), meta-gradient in h and body.

    "Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML", Raghu, Raghu, Bengio, Vinyals,
    2020, section 4. The body's features of a task's support set are computed once, whatever the number of steps, and
    those of its queries once per mode of the test. Differs from the paper in that classification losses are means over
    examples (theirs, as MAML's, sum over the classes) and in the choice `normalise="running"`; the default keeps
    support and query statistics apart, as in MAML.

    Args:
        inner_lr, inner_steps, test_lr, test_steps, first_order, inner: of the inner loop, as in `MAML`.
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
        inner_loop = InnerLoop.of(inner, inner_lr, inner_steps, test_lr, test_steps, first_order)
        super().__init__(family, model, inner_loop, loss, mapping)
        check_head(self.model, "ANIL")
        self.keep(normalise)
        if not self.initial():
            raise ValueError("model: ANIL adapts the head, and no parameter of it requires a gradient")

    def initial(self) -> Tree:
        """The meta-learned head."""
        return trainable(self.model.get_submodule("head"))

    def fit(self, z: Tensor, y: Tensor, key: Tensor) -> Tree:
        """The head after `inner_steps` steps on the support features."""
        return self.inner.train(self.inner_loss, self.initial(), Examples(z, y), key).path[-1]

    def read(self, adapted: Tree, z: Tensor) -> Tensor:
        """The adapted head on features: [m, d] -> [m, out]."""
        return predicted(self.model.get_submodule("head"), adapted, z)

    def reads_batch(self) -> bool:
        """See `FeatureLearner`: the head may contain a batch norm."""
        return depends_on_batch(self.model.get_submodule("head"))
