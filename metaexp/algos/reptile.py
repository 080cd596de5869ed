"""Reptile."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from metaexp.algos.base import MetaLearner, ModelFactory
from metaexp.algos.maml import check_inner_loop
from metaexp.checks import whole
from metaexp.constraints import Count, Natural, Positive
from metaexp.inner import SGD, Descent, InnerOptimiser, Tree, descend, minibatches, with_gradient
from metaexp.types import Episode, Examples


class Reptile(MetaLearner):
    """Reptile: move the initialisation towards the weights that plain training on each task ends at.

    "On First-Order Meta-Learning Algorithms", Nichol, Achiam, Schulman, 2018, algorithms 1 and 2:
    theta <- theta + eps * mean_i(theta_i - theta). The outer optimiser is plain SGD and its `lr` IS eps. With
    `state="carried"` the inner optimiser's state (Adam's second moments and step count) lives on across tasks and into
    the test, as in the authors' code. There the tasks of a meta-batch follow one another; here each starts from the
    state at the meta-batch's start and the mean of their states is kept, so that tasks can be mapped: the same with a
    meta-batch of 1.

    Args:
        inner_lr, inner_steps, inner_batch: of the inner loop at training; inner_batch rows of the support set a step
            (None: all), each epoch in a random order of its own.
        test_lr, test_steps, test_batch: at validation and test; None takes the training value.
        inner: the inner optimiser, `metaexp.inner.SGD` or `Adam`.
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
        super().__init__(family, model, loss, mapping)
        self.inner_lr, self.inner_steps, self.inner_batch = inner_lr, inner_steps, inner_batch
        self.test_lr = inner_lr if test_lr is None else test_lr
        self.test_steps = inner_steps if test_steps is None else test_steps
        self.test_batch = inner_batch if test_batch is None else test_batch
        check_inner_loop(inner_lr, inner_steps, self.test_lr, self.test_steps)
        for name, size in (("inner_batch", inner_batch), ("test_batch", self.test_batch)):
            if size is not None:
                whole(name, size, 1)
        if state not in ("fresh", "carried"):
            raise ValueError(f"state={state}: must be fresh or carried")
        self.permutation_invariant = self.inner_batch is None and self.test_batch is None
        self.inner = inner
        self.carried = _Carried(inner.init(self._start())) if state == "carried" else None

    def _start(self) -> Tree:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def _descend(self, support: Examples, key: Tensor, lr: float, steps: int, batch: int | None) -> Descent:
        rows = minibatches(key, 64, len(support.x), batch, steps)

        def loss(params: Tree, step: int) -> Tensor:
            x, y = support if rows is None else (support.x[rows[step]], support.y[rows[step]])
            return self.loss(self.predict(params, x), y)

        state = self.carried.tree() if self.carried else None
        start = {name: p.detach() for name, p in self._start().items()}
        return descend(loss, start, self.inner, lr, steps, first_order=True, state=state)

    def adapt(self, support: Examples, key: Tensor) -> Tree:
        """The weights after `inner_steps` minibatches of the support set; constants, not differentiable."""
        return self._descend(support, key, self.inner_lr, self.inner_steps, self.inner_batch).path[-1]

    def path(self, support: Examples, key: Tensor, steps: int) -> list[Tree]:
        """The weights after 0, 1, ..., steps minibatches at the test rate and batch."""
        return self._descend(support, key, self.test_lr, steps, self.test_batch).path

    def predict(self, adapted: Tree, x: Tensor) -> Tensor:
        """The network with the adapted weights in place of its own."""
        return functional_call(self.model, adapted, (x,))

    def meta_loss(self, episode: Episode) -> tuple[Tensor, dict[str, Any]]:
        """Mean inner loss, with gradient theta - theta_i. Needs no query set."""
        support, key = episode.support, episode.key
        done = self._descend(support, key, self.inner_lr, self.inner_steps, self.inner_batch)
        start = self._start()
        gradient = {name: p.detach() - done.path[-1][name] for name, p in start.items()}
        logs: dict[str, Any] = {"last_inner_loss": done.losses[-1]}
        if self.carried:
            logs["carried"] = done.state
        return with_gradient(torch.stack(done.losses).mean(), start, gradient), logs

    def diagnostics(self, episode: Episode) -> dict[str, Tensor]:
        """`inner_gradient_norm`: Euclidean norm of the support loss's gradient at the initialisation."""
        gradient = grad(lambda p: self.loss(self.predict(p, episode.support.x), episode.support.y))(self._start())
        return {"inner_gradient_norm": torch.sqrt(sum((g**2).sum() for g in gradient.values()))}

    def absorb(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Keep the mean inner optimiser state."""
        if self.carried:
            self.carried.set(logs["carried"])
        return {name: value for name, value in logs.items() if name != "carried"}


class _Carried(nn.Module):
    """The inner optimiser's state as buffers: part of every checkpoint, moved with the module."""

    def __init__(self, state: dict[str, Tree]):
        super().__init__()
        for group, tree in state.items():
            for name, value in tree.items():
                self.register_buffer(self._flat(group, name), value.detach().clone())
        self.names = {group: list(tree) for group, tree in state.items()}

    @staticmethod
    def _flat(group: str, name: str) -> str:
        return f"{group}/{name}".replace(".", "/")  # a buffer's name may not contain a dot

    def tree(self) -> dict[str, Tree]:
        return {g: {n: getattr(self, self._flat(g, n)) for n in names} for g, names in self.names.items()}

    def set(self, state: dict[str, Tree]) -> None:
        with torch.no_grad():
            for group, tree in state.items():
                for name, value in tree.items():
                    getattr(self, self._flat(group, name)).copy_(value)
