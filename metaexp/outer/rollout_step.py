"""The outer step of learners that make several updates for each meta-batch of trials: collect, then learn from it."""

import logging
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map

from metaexp.outer.batches import TaskBatches
from metaexp.outer.clip import Clip
from metaexp.outer.compiled_rollouts import CompiledPlay, CompiledUpdates, laid_out
from metaexp.outer.compiler import reason
from metaexp.outer.outer_step import FiniteCheck, Sums
from metaexp.random import fold, permutation

log = logging.getLogger(__name__)
ORDER = 23  # folded into the first task's key: the order in which the tasks of a meta-batch are learned from


def check_alone(learner: Any, meta_batch: int, accumulate: int, world: int) -> None:
    """Refuse what a learner that collects cannot have.

    Raises:
        ValueError: several processes, several meta-batches per step, or fewer tasks than minibatches.
    """
    name = type(learner).__name__
    if world > 1:
        raise ValueError(f"device: {name} makes several updates for each meta-batch, in one process; use device=cpu")
    if accumulate > 1:
        raise ValueError(
            f"accumulate={accumulate}: {name} makes several updates for each meta-batch; set a larger meta_batch, of "
            "which each of algo.minibatches is a share"
        )
    if meta_batch < learner.minibatches:
        raise ValueError(
            f"meta_batch={meta_batch}: fewer tasks than algo.minibatches={learner.minibatches}, each of which takes "
            "at least one"
        )


class RolloutStep:
    """An `OuterStep` for learners with `update_gradient`: trials in a meta-batch, then `epochs` of `minibatches`.

    The trials are made with the parameters as they are, without gradient, one step of all tasks after the other: no
    graph holds a whole trial. Each minibatch is a share of the TASKS, in an order drawn from the step's first task, and
    gives one update: mean gradient of `learner.update_loss` over its tasks, clipping, finite check, optimiser. The
    outer step is the smallest unit: a checkpoint lies between two of them, and a loss or gradient that is not finite
    undoes all updates of its outer step.

    Args:
        learner: has `collect`, `update_gradient`, `epochs` and `minibatches`; see `algos.rollouts.RolloutLearner`.
        optimizer: optimises its meta-parameters.
        clip: clips the mean gradient of each minibatch.
        finite: the check of loss and gradient.
        meta_batch: tasks per meta-batch.
    """

    def __init__(
        self, learner: Any, optimizer: torch.optim.Optimizer, clip: Clip, finite: FiniteCheck, meta_batch: int
    ):
        self.learner, self.optimizer, self.clip, self.finite = learner, optimizer, clip, finite
        self.meta_batch = meta_batch
        self._params, self._buffers = learner.meta_parameters(), dict(learner.named_buffers())
        self._batches: TaskBatches | None = None
        self.play: CompiledPlay | None = None
        self.updates: CompiledUpdates | None = None
        self.form: TreeSpec | None = None
        self.last: Tensor | None = None
        self.sums: Tensor | None = None
        self.count = 0

    def __call__(self, index: int) -> None:
        """Outer step number `index` (from 0)."""
        before = self._state()
        episode = self.draw(index)
        with torch.no_grad():
            trials, seen = self._collect(episode)
        key = fold(episode.key[0], ORDER)
        total: Any = None
        updates = 0
        for epoch in range(self.learner.epochs):
            order = permutation(key, epoch, self.meta_batch)
            for rows in torch.tensor_split(order, self.learner.minibatches):
                made = self._update(index, trials, rows, before)
                if made is None:
                    return
                total = made if total is None else tree_map(torch.add, total, made)
                updates += 1
        told = tree_map(lambda t: t / updates, total)
        told["logs"] = self.learner.absorb(seen | told["logs"])
        leaves, self.form = tree_flatten(told)
        self.last = torch.stack([leaf.to(told["loss"].dtype) for leaf in leaves])
        self.sums = self.last if self.sums is None else self.sums + self.last
        self.count += 1
        self.learner.meta_step.add_(1)

    def compile(self, index: int) -> str | None:
        """Compile updates and trials, before outer step number `index`. Returns why trials are not, or None.

        Raises whatever the compiler raises for an update.
        """
        learner, refused = self.learner, None
        episode = self.draw(index)
        with torch.no_grad():
            try:
                self.play = CompiledPlay(learner, episode)
            except Exception as error:
                log.debug("no compiled trials", exc_info=True)
                refused = f"{type(learner.family).__name__}: {reason(error)}"
            trials, _ = self._collect(episode)
        sizes = {len(rows) for rows in torch.tensor_split(torch.arange(self.meta_batch), learner.minibatches)}
        self.updates = CompiledUpdates(learner, trials, sizes)
        return refused

    def check(self) -> None:
        """Nothing: every update is checked."""

    def set_sums(self, sums: Sums | None) -> None:
        """Continue from these sums; None: start from zero."""
        self.sums, self.count = (None, 0) if sums is None else (sums.values, sums.steps)
        self.form = self.form if sums is None else sums.form

    def draw(self, index: int) -> Any:
        """The meta-batch of an outer step."""
        first = index * self.meta_batch
        self._batches = self._batches or TaskBatches(self.learner, self.meta_batch, self.meta_batch, first)
        return self._batches(first)

    def _collect(self, episode: Any) -> Any:
        if self.play is None:
            trials, seen = self.learner.collect(episode)
        else:
            trials, seen = self.learner.collect(episode, self.play)
        return trials if self.updates is None else laid_out(trials), seen

    def _gradient(self, trials: Any, rows: Tensor) -> Any:
        params = {name: p.detach() for name, p in self._params.items()}
        if self.updates is None:
            return self.learner.update_gradient(params, tree_map(lambda t: t[rows], trials), self._buffers)
        return self.updates(params, trials, rows, self._buffers)

    def _update(
        self, index: int, trials: Any, rows: Tensor, before: list[tuple[Tensor, Tensor]]
    ) -> dict[str, Any] | None:
        """One update: its loss, gradient norm and logs; None: not finite, and the outer step is skipped.

        Raises:
            NonFiniteError: not finite, and no further step may be skipped; the state is that before the outer step.
        """
        grads, loss, logs = self._gradient(trials, rows)
        with torch.no_grad():
            norm, gradients = self.clip(list(grads.values()))
            if not (torch.isfinite(loss) and torch.isfinite(norm)):
                self._undo(before)
                first = index * self.meta_batch
                self.finite.passes(index, float(loss), float(norm), (first, first + self.meta_batch - 1))
                self.finite.skip(index)
                self.learner.meta_step.add_(1)
                return None
            for p, gradient in zip(self._params.values(), gradients, strict=True):
                p.grad = gradient
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return {"loss": loss, "norm": norm, "logs": logs}

    def _state(self) -> list[tuple[Tensor, Tensor]]:
        """What an outer step changes, each with a copy."""
        slots = [slot for state in self.optimizer.state.values() for slot in state.values()]
        tensors = [*self._params.values(), *self._buffers.values(), *(t for t in slots if isinstance(t, Tensor))]
        return [(tensor, tensor.detach().clone()) for tensor in tensors]

    def _undo(self, before: list[tuple[Tensor, Tensor]]) -> None:
        known = {id(tensor) for tensor, _ in before}
        for p in [p for p, state in self.optimizer.state.items() if not all(_known(s, known) for s in state.values())]:
            del self.optimizer.state[p]  # made in this very step
        for tensor, copy in before:
            tensor.detach().copy_(copy)


def _known(slot: Any, known: set[int]) -> bool:
    return not isinstance(slot, Tensor) or id(slot) in known
