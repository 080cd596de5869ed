"""Training episodes drawn ahead: the meta-batches of many steps in one call, which costs a step next to nothing."""

from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

TASKS, BYTES = 4096, 4 * 2**20  # most that is drawn ahead


class Ahead:
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
        one = tree_flatten(self.draw(first, 1))[0]
        rows = {leaf.shape[1] for leaf in one}
        bytes_ = sum(leaf.nbytes for leaf in one)
        self.steps = max(1, min(TASKS // size, BYTES // max(bytes_, 1)))
        # Where tasks differ in size, or a batch is not one row per index, a block cannot be cut into meta-batches.
        if rows != {size} or learner.family.varying("train"):
            self.steps = 1
        self._block: Any = None
        self._start = 0

    def draw(self, first: int, steps: int) -> Any:
        """The meta-batches from task `first` on, without info: [steps, size, ...] each."""
        with torch.no_grad():
            device = self.learner.family.device
            firsts = first + self.stride * torch.arange(steps, device=device)
            indices = firsts[:, None] + torch.arange(self.size, device=device)
            drawn = self.learner.train_batch(indices.flatten())._replace(info={})
        return tree_map(lambda t: t.reshape(steps, len(t) // steps, *t.shape[1:]).contiguous(), drawn)

    def __call__(self, first: int) -> Any:
        """One meta-batch: [size, ...] each."""
        place, between = divmod(first - self._start, self.stride)
        if self._block is None or between or not 0 <= place < self.steps:
            self._block, self._start, place = self.draw(first, self.steps), first, 0
        return tree_map(lambda t: t[place], self._block)
