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
from metaexp.mapping import mean_over_tasks
from metaexp.models.norms import prepare


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


class LinearToZero(LRScheduler):
    """Rate times 1 - step / steps: linear from the given rate to 0, as Reptile's authors anneal epsilon.

    A closed form of the step, so that resuming is exact.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int, last_epoch: int = -1):
        self.steps = steps
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The rates of the groups at the present step."""
        left = max(0.0, 1.0 - self.last_epoch / max(self.steps, 1))
        return [base * left for base in self.base_lrs]


class Step(NamedTuple):
    """What one outer step reports, as tensors on the device."""

    loss: Tensor  # [] mean outer loss of the meta-batch, before the update
    norm: Tensor  # [] Euclidean norm of the meta-gradient, before clipping
    logs: dict[str, Any]


# Outer steps from which a compiled graph repays its compile time (15-60 s cold on two cores), by device and by whether
# tasks are mapped by a loop (the graph is then that of one task: a convolutional step takes 0.4 of its eager time).
COMPILE_FROM = {("cpu", False): 30_000, ("cpu", True): 1_000, ("cuda", False): 5_000, ("cuda", True): 1_000}


def decide_compile(wanted: bool | str, steps: int, mapping: str | int, device: torch.device) -> bool:
    """Whether to compile: `wanted` if it is true or false, else by the table; never by a timing.

    Raises:
        ValueError: not auto, true or false.
    """
    if wanted not in ("auto", True, False):
        raise ValueError(f"compile={wanted}: must be auto, true or false")
    if wanted == "auto":
        return steps >= COMPILE_FROM.get((device.type, mapping == "loop"), math.inf)
    return bool(wanted)


def compiled(function: Callable[..., Any], *example: Any) -> Callable[..., Any]:
    """A function of trees of tensors, without gradients, as one compiled graph for arguments of the example's shapes.

    It is first traced to plain tensor operations (make_fx), so it may use any Python and torch.func. Tensors that are
    not among its arguments (a family's data) are constants of the graph. Raises what the compiler raises.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    spec: list[Any] = []

    def flat(*args: Any) -> list[Tensor]:
        leaves, tree = tree_flatten(function(*args))
        spec[:] = [tree]
        return leaves

    def call(*args: Any) -> Any:
        with torch.no_grad():
            return tree_unflatten(graph(*args), spec[0])

    with torch.no_grad():
        graph = torch.compile(make_fx(flat)(*example), fullgraph=True, dynamic=False)
    call(*example)
    return call


class OuterLoop:
    """The state of meta-training besides the learner: optimiser, schedule, and how a step is made.

    Args:
        learner: the MetaLearner.
        optimizer: of its meta-parameters.
        schedule: stepped after every outer step, or None.
        meta_batch: tasks per meta-batch over all ranks; `accumulate` meta-batches make one outer step.
        clip_norm, clip_value: largest norm of the meta-gradient, largest absolute value of an element (taken first).
        compiled: sampling and meta-gradient as one compiled graph.
        rank, world: of this process; ranks take disjoint tasks.
        after_step: called after every step with (step, Step); returns True to stop.
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
        compiled: bool = False,
        rank: int = 0,
        world: int = 1,
        after_step: Callable[[int, Step], bool] = lambda step, result: False,
        tell: Callable[[str], None] = print,
    ):
        for name, value in (("meta_batch", meta_batch), ("accumulate", accumulate)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        for name, limit in (("clip.norm", clip_norm), ("clip.value", clip_value)):
            if limit is not None and not limit > 0:
                raise ValueError(f"{name}={limit}: must be above 0")
        if meta_batch % world:
            raise ValueError(f"meta_batch={meta_batch}: must be a multiple of the {world} processes")
        self.learner, self.optimizer, self.schedule = learner, optimizer, schedule
        self.meta_batch, self.accumulate, self.clip_norm, self.clip_value = (
            meta_batch,
            accumulate,
            clip_norm,
            clip_value,
        )
        self.compiled, self.rank, self.world = compiled, rank, world
        self.after_step, self.tell = after_step, tell
        self.stopped = False
        self._graph: Callable[..., Any] | None = None
        self._params: dict[str, torch.nn.Parameter] = {}
        self._buffers: dict[str, Tensor] = {}

    # -- a span of steps ---------------------------------------------------------------------------------------------

    def run(self, span: Span) -> None:
        """The span's outer steps; ends early where `after_step` says so. Spans after that do nothing."""
        for step in range(span.start, span.stop):
            if self.stopped:
                return
            result = self.step(step)
            self.stopped = self.after_step(step + 1, result)

    def step(self, index: int) -> Step:
        """Outer step number `index` (from 0): changes the learner, the optimiser, the schedule and the clock.

        Raises:
            NonFiniteError: the loss or the gradient is inf or NaN; nothing was changed.
        """
        if not self._params:  # after the move to the device; walking the modules at every step costs more than Adam
            self._params, self._buffers = self.learner.meta_parameters(), dict(self.learner.named_buffers())
        params = {name: p.detach() for name, p in self._params.items()}
        total: Any = None
        for part in range(self.accumulate):
            made = self._gradient(params, self._first_task(index, part))
            total = made if total is None else tree_map(torch.add, total, made)
        if self.accumulate > 1:
            total = tree_map(lambda t: t / self.accumulate, total)
        grads, loss, logs = self._reduce(total)
        with torch.no_grad():
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(grads.values()))))
            self._check(index, float(loss), float(norm))
            self._update(grads, norm)
            logs = self.learner.absorb(logs)
            self.learner.meta_step.add_(1)
        return Step(loss, norm, logs)

    def _first_task(self, index: int, part: int) -> int:
        share = self.meta_batch // self.world
        return (index * self.accumulate + part) * self.meta_batch + self.rank * share

    # -- meta-gradient -----------------------------------------------------------------------------------------------

    def _gradient(self, params: dict[str, Tensor], first: int) -> Any:
        share = self.meta_batch // self.world
        indices = torch.arange(first, first + share, device=self.learner.family.device)
        if self.compiled and self._graph is None:
            self._graph = self._compile(params, indices)
        return (self._graph or self._eager)(params, self._buffers, indices)

    def _sample(self, indices: Tensor) -> Any:
        with torch.no_grad():
            return self.learner.train_batch(indices)._replace(info={})

    def _eager(self, params: dict[str, Tensor], buffers: dict[str, Tensor], indices: Tensor) -> Any:
        return self.learner.meta_gradient(params, self._sample(indices), buffers)

    def _compile(self, params: dict[str, Tensor], indices: Tensor) -> Callable[..., Any]:
        """The eager step compiled; where tasks are mapped by a loop, the graph is that of one task.

        Whatever the compiler stumbles over is told, and the eager step, which is as right, goes on.
        """
        self.tell("compiling the outer step (once; 15-60 s, a few seconds when the compiler's cache is warm) ...")
        looped = self.learner.mapping == "loop"
        try:
            if not looped:
                return compiled(self._eager, params, self._buffers, indices)
            prepare(self.learner.model, native=False)  # elementary norms are fused by the compiler
            one = tree_map(lambda t: t[:1], self._sample(indices))
            graph = compiled(lambda p, b, task: self.learner.meta_gradient(p, task, b), params, self._buffers, one)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
            self.tell(f"compile: not possible here ({reason}); going on without")
            self.compiled = False
            self.learner.set_mapping(self.learner.mapping, indices.device)
            return self._eager

        def over_tasks(p: dict[str, Tensor], b: dict[str, Tensor], i: Tensor) -> Any:
            return mean_over_tasks(lambda task: graph(p, b, task), self._sample(i))

        return over_tasks

    def _reduce(self, total: Any) -> Any:
        """Mean over ranks, of gradient, loss and logs alike."""
        if self.world == 1:
            return total
        leaves, tree = tree_flatten(total)
        vector = torch.cat([leaf.flatten() for leaf in leaves])
        torch.distributed.all_reduce(vector)
        parts = torch.split(vector / self.world, [leaf.numel() for leaf in leaves])
        return tree_unflatten([part.view_as(leaf) for part, leaf in zip(parts, leaves, strict=True)], tree)

    # -- update ------------------------------------------------------------------------------------------------------

    def _check(self, index: int, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        what = f"outer loss {loss}" if not math.isfinite(loss) else f"meta-gradient norm {norm}"
        first = self._first_task(index, 0)
        settings = [f"{name}={getattr(self.learner, name)}" for name in ("inner_lr",) if hasattr(self.learner, name)]
        raise NonFiniteError(
            f"non-finite {what} at outer step {index + 1} (training tasks {first} to {first + self.meta_batch - 1}"
            f"{', algo.' + ', '.join(settings) if settings else ''}): lower the inner or outer rate, or set clip.norm"
        )

    def _update(self, grads: dict[str, Tensor], norm: Tensor) -> None:
        values = list(grads.values())
        if self.clip_value is not None:
            values = list(torch._foreach_clamp_min(torch._foreach_clamp_max(values, self.clip_value), -self.clip_value))
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values)))
        if self.clip_norm is not None:
            values = list(torch._foreach_mul(values, torch.clamp(self.clip_norm / (norm + 1e-6), max=1.0)))
        for p, gradient in zip(self._params.values(), values, strict=True):
            p.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.schedule is not None:
            self.schedule.step()


def make_optimizer(make: Callable[..., Any], learner: Any) -> torch.optim.Optimizer:
    """The outer optimiser over the learner's meta-parameters.

    Raises:
        ConfigError: the learner has no parameter to train.
    """
    params = list(learner.meta_parameters().values())
    if not params:
        raise ConfigError("model: has no parameter that requires a gradient, so there is nothing to meta-learn")
    return make(params)
