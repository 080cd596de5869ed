"""Training episodes drawn ahead: the meta-batches of many steps in one call, which costs a step next to nothing."""

from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

TASKS, BYTES = 4096, 4 * 2**20  # most that is drawn ahead


class TaskBatches:
    """The meta-batches of tasks first, ..., first + size - 1, from blocks of several.

    A task is a pure function of its index, so a meta-batch is the same whatever block it stands in.

    Args:
        learner: whose `train_batch` draws.
        size: tasks per meta-batch.
        stride: from a meta-batch's first task to that of the next, at least `size`: other processes take the rest.
        first: of any meta-batch: what is drawn there tells how much fits.
    """

    def __init__(self, learner: Any, size: int, stride: int, first: int = 0):
        self.learner, self.size, self.stride = learner, size, stride
        # Where tasks differ in size, or a batch is not one row per index, a block cannot be cut into meta-batches.
        self.steps = 1
        if not learner.family.varying("train"):
            two = tree_flatten(self._episodes(first, 2))[0]
            bytes_ = sum(leaf.nbytes for leaf in two) / 2
            if all(len(leaf) == 2 * size for leaf in two):
                self.steps = max(1, min(TASKS // size, int(BYTES / max(bytes_, 1))))
        self._block: Any = None
        self._start = 0

    def draw(self, first: int, steps: int) -> Any:
        """The meta-batches from task `first` on, without info: [steps, size, ...] each."""
        drawn = self._episodes(first, steps)
        return tree_map(lambda t: t.reshape(steps, len(t) // steps, *t.shape[1:]).contiguous(), drawn)

    def _episodes(self, first: int, steps: int) -> Any:
        with torch.no_grad():
            device = self.learner.family.device
            firsts = first + self.stride * torch.arange(steps, device=device)
            indices = firsts[:, None] + torch.arange(self.size, device=device)
            return self.learner.train_batch(indices.flatten())._replace(info={})

    def __call__(self, first: int) -> Any:
        """One meta-batch: [size, ...] each."""
        if self.steps == 1:  # nothing to keep
            return tree_map(lambda t: t[0], self.draw(first, 1))
        place, between = divmod(first - self._start, self.stride)
        if self._block is None or between or not 0 <= place < self.steps:
            self._block = None  # before the new one is there: never two
            self._block, self._start, place = self.draw(first, self.steps), first, 0
        return tree_map(lambda t: t[place], self._block)
