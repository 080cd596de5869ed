"""The outer step in separate parts: the meta-gradient, eager or compiled, then torch's own optimiser."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from metaexp.errors import NonFiniteError
from metaexp.outer.batches import TaskBatches
from metaexp.outer.clip import Clip
from metaexp.outer.outer_step import FiniteCheck, Sums
from metaexp.system.lean import stepping

Gradient = Callable[[dict[str, Tensor], dict[str, Tensor], Any], Any]


class EagerStep:
    """An `OuterStep` for any optimiser, with accumulation and several processes.

    Args:
        learner: the meta-learner.
        optimizer: optimises its meta-parameters.
        clip: clips the meta-gradient.
        finite: the check of loss and gradient.
        meta_batch: tasks per meta-batch over all processes; `accumulate` meta-batches make one outer step.
        rank, world: of this process; each takes its own share of a meta-batch's tasks.
        gradient: (parameters, buffers, episodes) -> (gradient, loss, logs); None uses the learner's.
    """

    def __init__(
        self,
        learner: Any,
        optimizer: torch.optim.Optimizer,
        clip: Clip,
        finite: FiniteCheck,
        meta_batch: int,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        gradient: Gradient | None = None,
    ):
        self.learner, self.optimizer, self.clip, self.finite = learner, optimizer, clip, finite
        self.meta_batch, self.accumulate, self.rank, self.world = meta_batch, accumulate, rank, world
        # Collected once: walking the modules at every step costs more than Adam.
        self._params, self._buffers = learner.meta_parameters(), dict(learner.named_buffers())
        self.gradient = gradient or (lambda params, buffers, batch: learner.meta_gradient(params, batch, buffers))
        self._batches: TaskBatches | None = None
        self.form: TreeSpec | None = None
        self.last: Tensor | None = None
        self.sums: Tensor | None = None
        self.count = 0
        self._bad: Tensor | None = None  # on a GPU: whether any step since the last check was not finite

    def __call__(self, index: int) -> None:
        """Outer step number `index` (from 0)."""
        params = {name: p.detach() for name, p in self._params.items()}
        grads, loss, logs = self._reduce(self._accumulated(params, index))
        with torch.no_grad():
            norm, gradients = self.clip(list(grads.values()))
            if loss.device.type == "cpu" or self.finite.limit:
                if not self.finite.passes(index, float(loss), float(norm), self._tasks(index)):
                    self.finite.skip(index)
                    self.learner.meta_step.add_(1)
                    return
            else:  # reading a number here would make the host wait for the GPU
                bad = ~(torch.isfinite(loss) & torch.isfinite(norm))
                self._bad = bad if self._bad is None else self._bad | bad
            for p, gradient in zip(self._params.values(), gradients, strict=True):
                p.grad = _laid_out_as(p, gradient)
            with stepping(self.optimizer):
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            leaves, self.form = tree_flatten({"loss": loss, "norm": norm, "logs": self.learner.absorb(logs)})
            self.last = torch.stack([leaf.to(loss.dtype) for leaf in leaves])
            self.sums = self.last if self.sums is None else self.sums + self.last
            self.count += 1
            self.learner.meta_step.add_(1)

    def check(self) -> None:
        """On a GPU without `skips`: run the finite check for all steps since the last call."""
        if self._bad is None or not self._bad:
            return
        assert self.last is not None
        loss, norm = self.last[:2].tolist()
        done = int(self.learner.meta_step)
        self.finite.passes(done - 1, loss, norm, self._tasks(done - 1))
        raise NonFiniteError(
            f"non-finite outer loss or meta-gradient before outer step {done}: lower the inner or outer rate, or set "
            "clip.norm or skips"
        )

    def set_sums(self, sums: Sums | None) -> None:
        """Continue from these sums; None: start from zero."""
        self.sums, self.count = (None, 0) if sums is None else (sums.values, sums.steps)
        self.form = self.form if sums is None else sums.form

    def _accumulated(self, params: dict[str, Tensor], index: int) -> Any:
        """(gradient by name, loss [], logs), means over the meta-batches of the step."""
        total: Any = None
        for part in range(self.accumulate):
            made = self.gradient(params, self._buffers, self.draw(index, part))
            total = made if total is None else tree_map(torch.add, total, made)
        return tree_map(lambda t: t / self.accumulate, total) if self.accumulate > 1 else total

    def draw(self, index: int, part: int) -> Any:
        """Meta-batch `part` of an outer step."""
        share, first = self.meta_batch // self.world, first_task(self, index, part)
        self._batches = self._batches or TaskBatches(self.learner, share, self.meta_batch, first)
        return self._batches(first)

    def _reduce(self, total: Any) -> Any:
        """Means of gradient, loss and logs over the processes."""
        if self.world == 1:
            return total
        leaves, tree = tree_flatten(total)
        vector = torch.cat([leaf.flatten() for leaf in leaves])
        torch.distributed.all_reduce(vector)
        parts = torch.split(vector / self.world, [leaf.numel() for leaf in leaves])
        return tree_unflatten([part.view_as(leaf) for part, leaf in zip(parts, leaves, strict=True)], tree)

    def _tasks(self, index: int) -> tuple[int, int]:
        first = first_task(self, index, 0)
        return first, first + self.meta_batch - 1


def first_task(of: Any, index: int, part: int) -> int:
    """The first training task of this process in meta-batch `part` of outer step `index`.

    `of` has meta_batch, accumulate, rank and world.
    """
    share = of.meta_batch // of.world
    return int((index * of.accumulate + part) * of.meta_batch + of.rank * share)


def _laid_out_as(p: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the memory layout of its parameter.

    torch's fused optimisers assume equal layouts and silently compute wrong updates otherwise (a convolution's gradient
    may be channels-last).
    """
    return gradient if gradient.stride() == p.stride() else torch.empty_like(p).copy_(gradient)
