"""The outer step: sample a meta-batch, meta-gradient, all-reduce, clip, finite check, optimiser, schedule, clock.

`OuterLoop.step` is the whole of it; Lightning's `training_step` calls `OuterLoop.run` for a span of steps, so that
Lightning's price is paid once per span.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from metaexp.errors import ConfigError, NonFiniteError
from metaexp.mapping import piece_size
from metaexp.models.norms import prepare
from metaexp.outer.batches import Ahead
from metaexp.outer.clip import Clip
from metaexp.outer.compiled_gradient import compile_pieces
from metaexp.outer.compiled_step import WholeStep
from metaexp.outer.optimisers import flatten


class Span(NamedTuple):
    """Outer steps start + 1 ... stop."""

    start: int
    stop: int


class Spans:
    """The spans from start to steps, ending at every multiple of every interval; Lightning's loader of one epoch."""

    def __init__(self, start: int, steps: int, intervals: list[int]):
        self.spans = []
        while start < steps:
            stop = min([steps, *((start // interval + 1) * interval for interval in intervals)])
            self.spans.append(Span(start, stop))
            start = stop

    def __iter__(self) -> Iterator[Span]:
        return iter(self.spans)

    def __len__(self) -> int:
        return len(self.spans)


class Step(NamedTuple):
    """What one outer step reports, as tensors on the device."""

    loss: Tensor  # [] mean outer loss of the meta-batch, before the update
    norm: Tensor  # [] Euclidean norm of the meta-gradient, before clipping
    logs: dict[str, Any]


class OuterLoop:
    """The state of meta-training besides the learner: optimiser, schedule, and how a step is made.

    Args:
        learner: the MetaLearner.
        optimizer: of its meta-parameters.
        schedule: stepped after every outer step, or None.
        meta_batch: tasks per meta-batch over all ranks; `accumulate` meta-batches make one outer step.
        clip_norm, clip_value: largest norm of the meta-gradient, largest absolute value of an element (taken first).
        skips: steps with a loss or gradient that is not finite which may be left out; `skipped` counts them.
        compiled: the step, or its meta-gradient, as a compiled graph.
        rank, world: of this process; ranks take disjoint tasks.
        after_step: called after every step with the number of steps done; returns True to stop.
        tell: shows a line to the user.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self,
        learner: Any,
        optimizer: torch.optim.Optimizer,
        schedule: LRScheduler | None = None,
        meta_batch: int = 25,
        accumulate: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        skips: int = 0,
        compiled: bool = False,
        rank: int = 0,
        world: int = 1,
        after_step: Callable[[int], bool] = lambda step: False,
        tell: Callable[[str], None] = print,
    ):
        for name, value in (("meta_batch", meta_batch), ("accumulate", accumulate)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if skips < 0:
            raise ValueError(f"skips={skips}: must be at least 0")
        if meta_batch % world:
            raise ValueError(f"meta_batch={meta_batch}: must be a multiple of the {world} processes")
        self.learner, self.optimizer, self.schedule = learner, optimizer, schedule
        self.meta_batch, self.accumulate, self.clip = meta_batch, accumulate, Clip(clip_norm, clip_value)
        self.skips, self.skipped = skips, 0
        self.compiled, self.rank, self.world = compiled, rank, world
        self.after_step, self.tell = after_step, tell
        self.stopped = False
        self.count = 0  # steps in the sums
        self._sums: Tensor | None = None  # of loss, norm and logs
        self._form: Any = None  # their tree
        self._last: Tensor | None = None  # the same of the last step
        self._bad: Tensor | None = None  # on a GPU: whether a step was not finite
        self._whole: WholeStep | None = None
        self._ahead: Ahead | None = None
        self._graph: Callable[..., Any] | None = None
        self._params: dict[str, torch.nn.Parameter] = {}
        self._buffers: dict[str, Tensor] = {}

    # -- a span of steps ---------------------------------------------------------------------------------------------

    def run(self, span: Span) -> None:
        """The span's outer steps; ends early where `after_step` says so. Spans after that do nothing.

        Raises:
            NonFiniteError: the loss or the gradient of more than `skips` steps was inf or NaN. The last of them changed
                nothing, nor did any after it; where steps are not compiled on a GPU, the weights since then are
                worthless.
        """
        if self.stopped or span.start == span.stop:
            return
        self._begin(span.start)
        for step in range(span.start, span.stop):
            self.advance(step)
            if self.after_step(step + 1):
                self.stopped = True
                break
        self.check_late()

    def step(self, index: int) -> Step:
        """Outer step number `index` (from 0): changes the learner, the optimiser, the schedule and the clock.

        Raises:
            NonFiniteError: the loss or the gradient is inf or NaN, and not for one of the first `skips` times; nothing
                was changed.
        """
        self._begin(index)
        self.advance(index)
        self.check_late()
        values = self._whole.last if self._whole else self._last
        if values is None:  # the first step, skipped
            return Step(torch.tensor(math.nan), torch.tensor(math.nan), {})
        return Step(**self._tree(values))

    def sums(self) -> dict[str, Any] | None:
        """Sums over `count` steps of loss [], norm [] and the tree of logs; None before the first."""
        values = self._whole.sums if self._whole else self._sums
        return None if values is None or not self.count else self._tree(values)

    def set_sums(self, sums: dict[str, Any] | None = None, count: int = 0) -> None:
        """Go on from the sums of a checkpoint, or start anew."""
        self.count, self._sums = count, None
        if sums is not None and count:
            leaves, self._form = tree_flatten(sums)
            self._sums = torch.stack(leaves)
        if self._whole:
            self._whole.sums.copy_(torch.zeros_like(self._whole.sums) if self._sums is None else self._sums)

    def loss(self) -> float:
        """Outer loss of the last step."""
        values = self._whole.last if self._whole else self._last
        return math.nan if values is None else float(values[0])

    def _tree(self, values: Tensor) -> dict[str, Any]:
        tree: dict[str, Any] = tree_unflatten(list(values.clone().unbind()), self._form)
        return tree

    def _begin(self, index: int) -> None:
        """Before the first step, and after the move to the device: what every step needs."""
        if self._params:  # walking the modules at every step costs more than Adam
            return
        self._params, self._buffers = self.learner.meta_parameters(), dict(self.learner.named_buffers())
        if self.compiled:
            self._compile(self._first_task(index, 0))

    def advance(self, index: int) -> None:
        """Outer step number `index` (from 0), without the check that waits for the end of a span."""
        if self._whole:
            self._whole(index, self.optimizer.param_groups[0]["lr"])
            self.count += 1
        else:
            self.count += self._apart(index)
        if self.schedule is not None:
            self.schedule.step()

    def _apart(self, index: int) -> bool:
        """The step in parts: the meta-gradient, eager or compiled, then the optimiser; False: it was skipped."""
        params = {name: p.detach() for name, p in self._params.items()}
        total: Any = None
        for part in range(self.accumulate):
            made = self._gradient(params, self._first_task(index, part))
            total = made if total is None else tree_map(torch.add, total, made)
        if self.accumulate > 1:
            total = tree_map(lambda t: t / self.accumulate, total)
        grads, loss, logs = self._reduce(total)
        with torch.no_grad():
            norm, gradients = self.clip(list(grads.values()))
            if loss.device.type == "cpu" or self.skips:
                if not self._check(index, float(loss), float(norm)):
                    self._skip(index, 1)
                    self.learner.meta_step.add_(1)
                    return False
            else:  # reading a number here would make the host wait for the GPU
                bad = ~(torch.isfinite(loss) & torch.isfinite(norm))
                self._bad = bad if self._bad is None else self._bad | bad
            for p, gradient in zip(self._params.values(), gradients, strict=True):
                p.grad = _laid_out_as(p, gradient)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            leaves, self._form = tree_flatten({"loss": loss, "norm": norm, "logs": self.learner.absorb(logs)})
            self._last = torch.stack([leaf.to(loss.dtype) for leaf in leaves])
            self._sums = self._last if self._sums is None else self._sums + self._last
            self.learner.meta_step.add_(1)
        return True

    def _first_task(self, index: int, part: int) -> int:
        share = self.meta_batch // self.world
        return (index * self.accumulate + part) * self.meta_batch + self.rank * share

    # -- meta-gradient -----------------------------------------------------------------------------------------------

    def _gradient(self, params: dict[str, Tensor], first: int) -> Any:
        share = self.meta_batch // self.world
        self._ahead = self._ahead or Ahead(self.learner, share, self.meta_batch, first)
        episodes = self._ahead(first)
        if self._graph is not None:
            return self._graph(params, self._buffers, episodes)
        return self.learner.meta_gradient(params, episodes, self._buffers)

    # -- compiled ----------------------------------------------------------------------------------------------------

    def _compile(self, first: int) -> None:
        """One graph for the whole step where tasks are mapped at once; else one for the meta-gradient of a piece.

        Whatever the compiler stumbles over is told, and the eager step, which is as right, goes on.
        """
        self.tell("compiling the outer step (once; 10-60 s, a few seconds when the compiler's cache is warm) ...")
        prepare(self.learner.model, native=False)  # elementary operations are fused by the compiler
        try:
            share = self.meta_batch // self.world
            size = piece_size(self.learner.mapping, share)
            if size == share and self.world == self.accumulate == 1 and self._compile_whole(first // share):
                return
            self._ahead = Ahead(self.learner, share, self.meta_batch, first)
            self._graph = compile_pieces(
                lambda p, b, piece: self.learner.meta_gradient(p, piece, b),
                self._params,
                self._buffers,
                self._ahead(first),
                size if share % size == 0 else share,
            )
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
            self.tell(f"compile: not possible here ({reason}); going on without")
            self.compiled, self._graph, self._whole = False, None, None
        finally:  # validation and test are not compiled
            self.learner.set_mapping(self.learner.mapping, self.learner.family.device)

    def _compile_whole(self, index: int) -> bool:
        cycles = getattr(self.schedule, "cycle_momentum", False)  # in the graph all but the rate are constants
        flat = None if cycles else flatten(self.optimizer, self._params)
        if flat is None:
            return False

        def clip(gradient: Tensor) -> tuple[Tensor, Tensor]:
            norm, (clipped,) = self.clip([gradient])
            return norm, clipped

        self._whole = WholeStep(
            self.learner, flat, self._params, self.meta_batch, clip, index, self.skips, self.skipped
        )
        self._form = self._whole.form
        if self._sums is not None:
            self._whole.sums.copy_(self._sums)
        self.optimizer._opt_called = True  # type: ignore[attr-defined]  # else torch's schedules warn
        return True

    def _reduce(self, total: Any) -> Any:
        """Mean over ranks, of gradient, loss and logs alike."""
        if self.world == 1:
            return total
        leaves, tree = tree_flatten(total)
        vector = torch.cat([leaf.flatten() for leaf in leaves])
        torch.distributed.all_reduce(vector)
        parts = torch.split(vector / self.world, [leaf.numel() for leaf in leaves])
        return tree_unflatten([part.view_as(leaf) for part, leaf in zip(parts, leaves, strict=True)], tree)

    # -- checks ----------------------------------------------------------------------------------------------------

    def _check(self, index: int, loss: float, norm: float) -> bool:
        """Whether both are finite; where they are not and no step more may be skipped, the error."""
        if math.isfinite(loss) and math.isfinite(norm):
            return True
        if self.skipped < self.skips:
            return False
        what = f"outer loss {loss}" if not math.isfinite(loss) else f"meta-gradient norm {norm}"
        first = self._first_task(index, 0)
        settings = [f"{name}={getattr(self.learner, name)}" for name in ("inner_lr",) if hasattr(self.learner, name)]
        raise NonFiniteError(
            f"non-finite {what} at outer step {index + 1} (training tasks {first} to {first + self.meta_batch - 1}"
            f"{', algo.' + ', '.join(settings) if settings else ''}"
            f"{f', {self.skipped} steps skipped before' if self.skips else ''}): "
            "lower the inner or outer rate, or set clip.norm or skips"
        )

    def _skip(self, index: int, steps: int) -> None:
        self.skipped += steps
        self.tell(
            f"not finite: skipped {steps} outer step{'s' * (steps > 1)} up to step {index + 1}, "
            f"{self.skipped} of at most {self.skips} so far"
        )

    def check_late(self) -> None:
        """The check of all steps since the last call, where it is not made at every step."""
        if self._whole and not self._whole.alive:
            self.skipped = self.skips
            loss, norm = self._whole.last[:2].tolist()
            self._check(int(self.learner.meta_step), loss, norm)
        if self._whole and self.skips and (new := int(self._whole.skipped) - self.skipped):
            self.count -= new
            self._skip(int(self.learner.meta_step) - 1, new)
        if self._bad is not None and self._bad:
            assert self._last is not None
            loss, norm = self._last[:2].tolist()
            self._check(int(self.learner.meta_step) - 1, loss, norm)
            raise NonFiniteError(
                f"non-finite outer loss or meta-gradient before outer step {int(self.learner.meta_step)}: lower the "
                "inner or outer rate, or set clip.norm or skips"
            )


def _laid_out_as(p: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the memory layout of its parameter: torch's fused optimisers take that for granted, and go wrong
    without a word where it is not so (a convolution's gradient may lie channels-last)."""
    return gradient if gradient.stride() == p.stride() else torch.empty_like(p).copy_(gradient)


def make_optimizer(make: Callable[..., Any], learner: Any) -> torch.optim.Optimizer:
    """The outer optimiser over the learner's meta-parameters; of a stand-in where there are none and nothing trains.

    Raises:
        ConfigError: the learner has no parameter to train.
    """
    params = list(learner.meta_parameters().values())
    if not params and learner.trains:
        raise ConfigError("model: has no parameter that requires a gradient, so there is nothing to meta-learn")
    return make(params or [torch.nn.Parameter(torch.zeros(()))])
