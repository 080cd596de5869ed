"""No meta-training: the floor."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metaexp.algos.base import MetaLearner, ModelFactory
from metaexp.algos.finetune import check_fine_tuning, choose_rate, epochs_to_steps, fine_tune, steps_on
from metaexp.constraints import Count, Natural, Positive
from metaexp.inner import Adam, InnerOptimiser, Tree
from metaexp.types import Examples


class Scratch(MetaLearner):
    """Train the randomly initialised network on each test task's support set alone: nothing is learned across tasks.

    Args:
        test_lr: training rate; of a list, the one with the best validation metric is taken.
        test_epochs, test_batch: epochs over the support set and batch size (None: all of it at once).
        inner: the optimiser, `metaexp.inner.SGD` or `Adam`.

    Raises:
        ValueError: a setting out of range.
    """

    trains, any_ways = False, True
    test_lr: Tensor  # the training rate in use

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        test_lr: Positive | Sequence[Positive] = 0.01,
        test_epochs: Natural = 10,
        test_batch: Count | None = None,
        inner: InnerOptimiser = Adam(),
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, model, loss, mapping)
        self.rates = check_fine_tuning(test_lr, test_epochs, test_batch)
        self.test_batch, self.inner = test_batch, inner
        self.permutation_invariant = test_batch is None
        n = family.sizes["test"]["shots"] * (family.sizes["test"]["ways"] or 1)
        self.test_epochs = test_epochs
        self.test_steps = epochs_to_steps(test_epochs, test_batch, n)
        self.register_buffer("test_lr", torch.tensor(self.rates[0], dtype=family.dtype))

    def outputs(self, family: Any) -> int:
        """The classes of a test episode, or y_dim."""
        return family.sizes["test"]["ways"] or family.y_dim

    def adapt(self, support: Examples, key: Tensor) -> Tree:
        """The trained parameters."""
        return self.path(support, key, self.steps_at_test(len(support.x)))[-1]

    def steps_at_test(self, examples: int) -> int:
        """See `finetune.steps_on`."""
        return steps_on(self, examples)

    def path(self, support: Examples, key: Tensor, steps: int) -> list[Tree]:
        """The parameters after 0, 1, ..., steps steps."""
        start = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

        def loss(params: Tree, examples: Examples) -> Tensor:
            return self.loss(self.predict(params, examples.x), examples.y)

        return fine_tune(loss, start, support, key, self.inner, self.test_lr, steps, self.test_batch)

    def predict(self, adapted: Tree, x: Tensor) -> Tensor:
        """The network with the trained parameters in place of its own."""
        return functional_call(self.model, adapted, (x,))

    def finish(self) -> dict[str, Any]:
        """Choose the rate on validation tasks."""
        return choose_rate(self, self.rates)
