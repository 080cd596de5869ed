"""Training episodes drawn ahead: one call draws the meta-batches of many steps, which makes drawing almost free."""

from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

TASKS, BYTES = 4096, 4 * 2**20  # limits on what is drawn ahead


class TaskBatches:
    """Meta-batches of the tasks first, ..., first + size - 1, cut from blocks of several meta-batches.

    A task is a pure function of its index, so a meta-batch is the same whatever block it comes from.

    Args:
        learner: the meta-learner whose `train_batch` draws the tasks.
        size: tasks per meta-batch.
        stride: distance between the first tasks of successive meta-batches, at least `size`; the tasks in between
            belong to other processes.
        first: first task of any meta-batch; it is drawn once to find out how many meta-batches fit into a block.
    """

    def __init__(self, learner: Any, size: int, stride: int, first: int = 0):
        self.learner, self.size, self.stride = learner, size, stride
        # If tasks differ in size, or a batch is not one row per index, a block cannot be cut into meta-batches.
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
            self._block = None  # freed before the new one is drawn: never two at once
            self._block, self._start, place = self.draw(first, self.steps), first, 0
        return tree_map(lambda t: t[place], self._block)
