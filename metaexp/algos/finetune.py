"""Fine-tuning a network on each support set: what the transfer baselines share."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metaexp import metrics
from metaexp.algos.base import MetaLearner, ModelFactory, Validate
from metaexp.algos.gradient import trainable
from metaexp.checks import whole
from metaexp.inner import InnerOptimiser, Tree, learn
from metaexp.models.functional import predicted
from metaexp.random import uniform
from metaexp.types import Examples


class FineTuner(MetaLearner):
    """Plain training on minibatches of the support set at test. A method writes `outputs`, and how it is trained.

    The rate is chosen in `finish`, with all queries in one batch, whatever `test.normalise` says.

    Args:
        test_lr: fine-tuning rate; of a list, the one with the best validation metric is taken.
        test_epochs, test_batch: epochs over the support set and batch size (None: all of it at once).
        inner: the optimiser, `metaexp.inner.SGD` or `Adam`.
        family, model, loss, mapping: see `MetaLearner`.
    """

    any_ways = True
    test_lr: Tensor  # the rate in use

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        test_lr: float | Sequence[float],
        test_epochs: int,
        test_batch: int | None,
        inner: InnerOptimiser,
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, model, loss, mapping)
        self.rates = check_fine_tuning(test_lr, test_epochs, test_batch)
        self.test_epochs, self.test_batch, self.inner = test_epochs, test_batch, inner
        self.permutation_invariant = test_batch is None
        n = family.sizes["test"]["shots"] * (family.sizes["test"]["ways"] or 1)
        self.test_steps = epochs_to_steps(test_epochs, test_batch, n)
        self.register_buffer("test_lr", torch.tensor(self.rates[0], dtype=family.dtype))

    def initial(self, support: Examples, key: Tensor) -> Tree:
        """The parameters before fine-tuning, by name."""
        return {name: p.detach() for name, p in trainable(self.model).items()}

    def adapt(self, support: Examples, key: Tensor) -> Tree:
        """The fine-tuned parameters."""
        return self.path(support, key, self.steps_at_test(len(support.x)))[-1]

    def steps_at_test(self, examples: int) -> int:
        """Steps that `test_epochs` take over so many support examples; of a family whose support sets vary those of the
        test's size for all, since the tasks of a test share one number of steps."""
        if self.family.varying("test"):
            return self.test_steps
        return epochs_to_steps(self.test_epochs, self.test_batch, examples)

    def path(self, support: Examples, key: Tensor, steps: int) -> list[Tree]:
        """The parameters after 0, 1, ..., steps steps."""

        def loss(params: Tree, examples: Examples) -> Tensor:
            return self.loss(self.predict(params, examples.x), examples.y)

        start = self.initial(support, key)
        return learn(loss, start, support, key, self.inner, self.test_lr, steps, self.test_batch, first_order=True).path

    def predict(self, adapted: Tree, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, out]: the network with the fine-tuned parameters instead of its own."""
        return predicted(self.model, adapted, x)

    def finish(self, validate: Validate) -> dict[str, Any]:
        """Choose the rate on 200 validation tasks."""
        if len(self.rates) == 1:
            self.test_lr.fill_(self.rates[0])  # a checkpoint may have brought another one
            return {}
        name = next(iter(self.metrics))
        sign = -metrics.sign(metrics.direction(metrics.declared(self), name))
        means = {}
        for rate in self.rates:
            self.test_lr.fill_(rate)
            means[rate] = validate(200)
        best = min(self.rates, key=lambda rate: sign * means[rate] if math.isfinite(means[rate]) else math.inf)
        self.test_lr.fill_(best)
        return {"test_lr": best, "validation_" + name: {str(rate): mean for rate, mean in means.items()}}


def epochs_to_steps(epochs: int, batch: int | None, n: int) -> int:
    """Number of minibatch steps in so many epochs over n examples."""
    return epochs * (1 if batch is None else math.ceil(n / max(1, min(batch, n))))


def check_fine_tuning(lr: object, epochs: int, batch: int | None) -> list[float]:
    """The candidate rates as a list; refuses what is out of range, naming the argument."""
    rates = [float(rate) for rate in lr] if isinstance(lr, (list, tuple)) else [float(lr)]  # type: ignore[arg-type]
    if not rates or any(not rate > 0 for rate in rates):
        raise ValueError(f"test_lr={lr}: must be above 0 (one rate, or a list to choose from)")
    whole("test_epochs", epochs, 0)
    if batch is not None:
        whole("test_batch", batch, 1)
    return rates


def new_head(head: nn.Module, outputs: int, key: Tensor) -> Tree:
    """Parameters "head.weight" and "head.bias" of a linear layer with so many outputs, drawn from the task's key.

    Uniform within 1 / sqrt(inputs), as torch initialises `nn.Linear`.
    """
    assert isinstance(head, nn.Linear)
    bound, dtype = 1 / math.sqrt(head.in_features), head.weight.dtype
    new = {"head.weight": uniform(key, 65, (outputs, head.in_features), -bound, bound, dtype)}
    if head.bias is not None:
        new["head.bias"] = uniform(key, 66, (outputs,), -bound, bound, dtype)
    return new
