"""The whole outer step as one compiled graph: inner loops, meta-gradient, clipping, finite check and optimiser."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_flatten, tree_map

from metaexp.models.functional import functional_call
from metaexp.outer.batches import TaskBatches
from metaexp.outer.clip import Clip
from metaexp.outer.compiler import compiled
from metaexp.outer.optimisers import FlatOptimiser
from metaexp.outer.outer_step import FiniteCheck, Sums
from metaexp.system.lean_tracing import traced_lightly


class CompiledStep:
    """An `OuterStep` as one compiled graph that changes parameters, optimiser state, clock and sums in place.

    A step whose loss or gradient is not finite changes only the clock and is counted as skipped. Once more steps were
    skipped than allowed, the clock stops too and later steps change nothing; `check` detects this. Tasks are drawn
    outside the graph, the meta-batches of many steps at once: this costs almost nothing per step, whereas the hash
    behind the draws would take a third of the compile time.

    Args:
        learner: the meta-learner; its parameters are views of `flat.theta`.
        optimizer: the torch optimiser, whose rate is read at every step; its state tensors are views of `flat`.
        flat: parameters and optimiser state.
        params: the meta-parameters by name.
        meta_batch: tasks per step.
        clip: clips the meta-gradient.
        finite: the check of loss and gradient.
        index: number of the next step.

    Raises whatever the compiler raises.
    """

    def __init__(
        self,
        learner: Any,
        optimizer: torch.optim.Optimizer,
        flat: FlatOptimiser,
        params: dict[str, nn.Parameter],
        meta_batch: int,
        clip: Clip,
        finite: FiniteCheck,
        index: int,
    ):
        self.learner, self.optimizer, self.flat, self.clip = learner, optimizer, flat, clip
        self.meta_batch, self.finite, self.count = meta_batch, finite, 0
        self.names, self.shapes = list(params), [p.shape for p in params.values()]
        self.sizes = [p.numel() for p in params.values()]
        device, dtype = flat.theta.device, flat.theta.dtype
        self.buffers = dict(learner.named_buffers())  # includes the clock, meta_step
        self.batches = TaskBatches(learner, meta_batch, meta_batch, index * meta_batch)
        self.steps = self.batches.steps
        self.block = self._draw(index)  # [steps, tasks, ...] each
        self.first = torch.tensor(index, device=device)  # the block's first step
        self._next, self._end = index, index + self.steps
        self.lr = torch.zeros((), dtype=dtype, device=device)
        plain = getattr(learner, "plain_rate", None)  # of the inner loop: an input, so that one graph serves all rates
        self.rate = [] if plain is None else [torch.tensor(plain, dtype=dtype, device=device)]
        self.alive = torch.ones((), dtype=torch.bool, device=device)
        self.skipped = torch.tensor(finite.skipped, device=device)
        self.form = traced_lightly(lambda light: self._form())
        self.sums = torch.zeros(self.form.num_leaves, dtype=dtype, device=device)  # sums of loss, norm, logs
        self.last = torch.full_like(self.sums, torch.nan)  # loss, norm, logs of the last step
        args = (
            flat.theta, flat.slots, flat.counts, self.buffers, self.lr, self.alive, self.skipped, self.last, self.sums,
            self.first, self.block, self.rate,
        )  # fmt: skip
        self._args = tree_flatten(args)[0]
        self._graph = compiled(self._step, *args, one_thread=True).flat  # type: ignore[attr-defined]

    def __call__(self, index: int) -> None:
        """Outer step number `index` (from 0)."""
        if index != self._next or index == self._end:
            for old, new in zip(tree_flatten(self.block)[0], tree_flatten(self._draw(index))[0], strict=True):
                old.copy_(new)
            self.first.fill_(index)
            self._end = index + self.steps
        self._next = index + 1
        self.lr.fill_(self.optimizer.param_groups[0]["lr"])
        self._graph(*self._args)
        self.count += 1

    def check(self) -> None:
        """Run the finite check for all steps since the last call, and count those that were skipped."""
        done = int(self.learner.meta_step)
        if not self.alive:
            self.finite.skipped = self.finite.limit
            loss, norm = self.last[:2].tolist()
            self.finite.passes(done, loss, norm, (done * self.meta_batch, (done + 1) * self.meta_batch - 1))
        if self.finite.limit and (new := int(self.skipped) - self.finite.skipped):
            self.count -= new
            self.finite.skip(done - 1, new)

    def set_sums(self, sums: Sums | None) -> None:
        """Continue from these sums; None: start from zero."""
        self.count = 0 if sums is None else sums.steps
        self.sums.copy_(torch.zeros_like(self.sums) if sums is None else sums.values)

    def _draw(self, index: int) -> Any:
        """The meta-batches of steps index, index + 1, ..."""
        return self.batches.draw(index * self.meta_batch, self.steps)

    def _params(self, theta: Tensor) -> dict[str, Tensor]:
        pieces = torch.split(theta, self.sizes)
        return {n: piece.view(shape) for n, piece, shape in zip(self.names, pieces, self.shapes, strict=True)}

    def _form(self) -> Any:
        """The tree of loss, norm and logs, found by one meta-gradient on fake tensors without computing anything."""
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with torch.no_grad(), fake:
            theta, buffers, block = tree_map(fake.from_tensor, (self.flat.theta, self.buffers, self.block))
            episode = tree_map(lambda t: t[0], block)
            _, loss, logs = self.learner.meta_gradient(self._params(theta), episode, buffers)
            logs, _ = self._absorb(logs, buffers)
        return tree_flatten({"loss": loss, "norm": loss, "logs": logs})[1]

    def _absorb(self, logs: dict[str, Any], buffers: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The remaining logs, and the learner's buffers after the step, without the clock."""
        new = {name: value.clone() for name, value in buffers.items()}
        tensors = {f"learner.{name}": value for name, value in new.items()}
        return functional_call(_Absorb(self.learner), tensors, (logs,)), new

    def _step(
        self, theta: Tensor, slots: dict[str, Tensor], counts: Tensor, buffers: dict[str, Tensor], lr: Tensor,
        alive: Tensor, skipped: Tensor, last: Tensor, sums: Tensor, first: Tensor, block: Any, rate: list[Tensor],
    ) -> list[Tensor]:  # fmt: skip
        clock = buffers["meta_step"]
        place = torch.clamp(clock - first, 0, self.steps - 1)  # the clock stops after too many skips
        episode = tree_map(lambda t: t.index_select(0, place.view(1))[0], block)
        with self.learner.at_rate(*rate) if rate else nullcontext():
            grads, loss, logs = self.learner.meta_gradient(self._params(theta), episode, buffers)
        logs, absorbed = self._absorb(logs, buffers)
        norm, (gradient,) = self.clip([torch.cat([grads[name].reshape(-1) for name in self.names])])
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        well, lost = alive & finite, skipped + (alive & ~finite)
        goes_on = alive & (lost <= self.finite.limit)
        made, made_slots = self.flat.update(theta, gradient, slots, counts + 1, lr)
        values = torch.stack([t.to(theta.dtype) for t in tree_flatten({"loss": loss, "norm": norm, "logs": logs})[0]])

        def keep(old: Tensor, new: Tensor) -> None:
            old.copy_(torch.where(well, new, old))

        last.copy_(torch.where(well | (alive & ~goes_on), values, last))
        for old, new in (
            (theta, made), (counts, counts + 1), (sums, sums + values),
            *((slots[name], made_slots[name]) for name in slots),
            *((buffers[name], absorbed[name]) for name in buffers if name != "meta_step"),
        ):  # fmt: skip
            keep(old, new)
        clock.copy_(clock + goes_on)
        skipped.copy_(lost)
        alive.copy_(goes_on)
        return []


class _Absorb(nn.Module):
    # functional_call calls forward; this makes forward the learner's `absorb`.
    def __init__(self, learner: Any):
        super().__init__()
        self.learner = learner

    def forward(self, logs: dict[str, Any]) -> dict[str, Any]:
        return self.learner.absorb(logs)
