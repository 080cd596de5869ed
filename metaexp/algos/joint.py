"""Joint training on the pooled data of all tasks: the transfer baseline."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metaexp.algos.base import MetaLearner, ModelFactory
from metaexp.algos.finetune import check_fine_tuning, choose_rate, epochs_to_steps, fine_tune, steps_on
from metaexp.constraints import Count, Natural, Positive
from metaexp.inner import SGD, InnerOptimiser, Tree
from metaexp.random import uniform
from metaexp.types import Episode, Examples


class Joint(MetaLearner):
    """Train one network on the pooled data of all tasks, then fine-tune it on each test task's support set.

    The "pretrained" baseline of Finn, Abbeel, Levine 2017 (section 5.1); for classification a classifier over all
    training classes whose head (the attribute `head` of the network, an `nn.Linear`) is drawn anew for every test task,
    as in "A Closer Look at Few-shot Classification", Chen et al. 2019. Their baseline trains the new head alone, on
    frozen features; here the whole network is fine-tuned, its batch norms with the statistics of the batch at hand. The
    rate is chosen with all queries in one batch, whatever `test.normalise` says.

    Args:
        batch: pooled examples per outer step and task of the meta-batch (with meta_batch=1: the batch size).
        test_lr: fine-tuning rate; of a list, the one with the best validation metric is taken after training.
        test_epochs, test_batch: epochs over the support set and batch size (None: all of it at once).
        inner: the fine-tuning optimiser, `metaexp.inner.SGD` or `Adam`.

    Raises:
        ValueError: a setting out of range, or a network without `head` where a new one is needed.
    """

    any_ways = True
    test_lr: Tensor  # the fine-tuning rate in use

    reads_queries = False

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        batch: Count = 64,
        test_lr: Positive | Sequence[Positive] = 0.01,
        test_epochs: Natural = 10,
        test_batch: Count | None = None,
        inner: InnerOptimiser = SGD(),
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, model, loss, mapping)
        self.rates = check_fine_tuning(test_lr, test_epochs, test_batch)
        if batch < 1:
            raise ValueError(f"batch={batch}: must be at least 1")
        self.batch, self.test_batch, self.inner = batch, test_batch, inner
        self.new_head = family.classification
        if self.new_head and not isinstance(getattr(self.model, "head", None), nn.Linear):
            raise ValueError("model: joint training needs a network with a linear layer named head for new classes")
        self.permutation_invariant = test_batch is None
        n = family.sizes["test"]["shots"] * (family.sizes["test"]["ways"] or 1)
        self.test_epochs = test_epochs
        self.test_steps = epochs_to_steps(test_epochs, test_batch, n)
        self.register_buffer("test_lr", torch.tensor(self.rates[0], dtype=family.dtype))

    def outputs(self, family: Any) -> int:
        """All training classes, or y_dim."""
        return family.pool_dim

    def train_batch(self, indices: Tensor) -> Episode:
        """Pooled minibatches, one per index, as support-less episodes."""
        pooled = self.family.pool("train", indices, self.batch)
        empty = Examples(pooled.x[:, :0], pooled.y[:, :0])
        return Episode(empty, pooled, self.family.keys("train", indices), {})

    def meta_loss(self, episode: Episode) -> tuple[Tensor, dict[str, Any]]:
        """The plain loss of one pooled minibatch."""
        prediction = self.model(episode.query.x)
        metrics = {name: metric(prediction, episode.query.y) for name, metric in self.metrics.items()}
        return self.loss(prediction, episode.query.y), metrics

    def adapt(self, support: Examples, key: Tensor) -> Tree:
        """The fine-tuned parameters."""
        return self.path(support, key, self.steps_at_test(len(support.x)))[-1]

    def steps_at_test(self, examples: int) -> int:
        """See `finetune.steps_on`."""
        return steps_on(self, examples)

    def path(self, support: Examples, key: Tensor, steps: int) -> list[Tree]:
        """The parameters after 0, 1, ..., steps fine-tuning steps."""
        start = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
        if self.new_head:
            start |= self._head(support.y.shape[-1], key)

        def loss(params: Tree, examples: Examples) -> Tensor:
            return self.loss(self.predict(params, examples.x), examples.y)

        return fine_tune(loss, start, support, key, self.inner, self.test_lr, steps, self.test_batch)

    def _head(self, ways: int, key: Tensor) -> Tree:
        head: nn.Linear = self.model.head  # type: ignore[assignment]
        bound = 1 / math.sqrt(head.in_features)  # torch's own initialisation of a linear layer
        new = {"head.weight": uniform(key, 65, (ways, head.in_features), -bound, bound, head.weight.dtype)}
        if head.bias is not None:
            new["head.bias"] = uniform(key, 66, (ways,), -bound, bound, head.weight.dtype)
        return new

    def predict(self, adapted: Tree, x: Tensor) -> Tensor:
        """The network with the fine-tuned parameters in place of its own."""
        return functional_call(self.model, adapted, (x,))

    def finish(self) -> dict[str, Any]:
        """Choose the fine-tuning rate on validation tasks."""
        return choose_rate(self, self.rates)
