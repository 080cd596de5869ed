"""Reptile."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from metaexp.algos.base import ModelFactory
from metaexp.algos.gradient import GradientLearner, trainable
from metaexp.constraints import Count, Natural, Positive
from metaexp.inner import SGD, Carried, InnerLoop, InnerOptimiser, Tree, with_gradient
from metaexp.types import Episode


class Reptile(GradientLearner):
    """Reptile: move the initialisation towards the weights that plain training on each task ends at.

    "On First-Order Meta-Learning Algorithms", Nichol, Achiam, Schulman, 2018, algorithms 1 and 2:
    theta <- theta + eps * mean_i(theta_i - theta). The outer optimiser is plain SGD and its `lr` IS eps. With
    `state="carried"` the inner optimiser's state (Adam's second moments and step count) is kept across tasks and for
    the test, as in the authors' code. There the tasks of a meta-batch follow one another; here each starts from the
    state at the meta-batch's start and the mean of their states is kept, so that tasks can be mapped: the same with a
    meta-batch of 1.

    Args:
        inner_lr, inner_steps, test_lr, test_steps, inner: of the inner loop, as in `MAML`.
        inner_batch, test_batch: rows of the support set per step, each epoch in a random order of its own; None: all of
            them at training, the training value at test.
        state: "fresh" for every task, or "carried".

    Raises:
        ValueError: a rate, a batch or a number of steps out of range, an unknown `state`.
    """

    reads_queries = False

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        inner_lr: Positive = 0.02,
        inner_steps: Count = 5,
        inner_batch: Count | None = None,
        test_lr: Positive | None = None,
        test_steps: Natural | None = None,
        test_batch: Count | None = None,
        inner: InnerOptimiser = SGD(),
        state: Literal["fresh", "carried"] = "fresh",
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        inner_loop = InnerLoop.of(inner, inner_lr, inner_steps, test_lr, test_steps, True, inner_batch, test_batch)
        super().__init__(family, model, inner_loop, loss, mapping)
        if state not in ("fresh", "carried"):
            raise ValueError(f"state={state}: must be fresh or carried")
        self.permutation_invariant = inner_loop.batch is None and inner_loop.test_batch is None
        self.carried = Carried(inner.init(trainable(self.model))) if state == "carried" else None

    def initial(self) -> Tree:
        """theta, as constants: nothing is differentiated through the inner loop."""
        return {name: p.detach() for name, p in trainable(self.model).items()}

    def inner_loop(self) -> InnerLoop:
        """With the optimiser's state that is carried on, if any."""
        return self.inner._replace(state=self.carried.tree()) if self.carried else self.inner

    def meta_loss(self, episode: Episode) -> tuple[Tensor, dict[str, Any]]:
        """Mean inner loss, with gradient theta - theta_i. Needs no query set."""
        done = self.inner_loop().train(self.inner_loss, self.initial(), episode.support, episode.key)
        start = trainable(self.model)
        gradient = {name: p.detach() - done.path[-1][name] for name, p in start.items()}
        logs: dict[str, Any] = {"last_inner_loss": done.losses[-1]}
        if self.carried:
            logs["carried"] = done.state
        return with_gradient(torch.stack(done.losses).mean(), start, gradient), logs

    def absorb(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Keep the mean inner optimiser state."""
        if self.carried:
            self.carried.set(logs["carried"])
        return {name: value for name, value in logs.items() if name != "carried"}
