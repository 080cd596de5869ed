"""One outer step: the protocol that the eager and the compiled form follow, and the finite check that both share."""

import logging
import math
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_unflatten

from metaexp.errors import NonFiniteError

log = logging.getLogger(__name__)


class Step(NamedTuple):
    """What one outer step reports, as tensors on the device."""

    loss: Tensor  # [] mean outer loss of the meta-batch, before the update
    norm: Tensor  # [] Euclidean norm of the meta-gradient, before clipping
    logs: dict[str, Any]


class Sums(NamedTuple):
    """Sums over the outer steps since the last row of metrics."""

    values: Tensor  # [leaves] sums of loss, norm and logs
    form: TreeSpec
    steps: int  # number of outer steps summed


class OuterStep(Protocol):
    """One outer step: sample, meta-gradient, clip, finite check, optimiser, clock.

    It changes the learner's parameters, buffers and clock and the optimiser's state in place.
    """

    count: int  # steps in the sums
    finite: "FiniteCheck"

    @property
    def form(self) -> TreeSpec | None:
        """The tree of loss, norm and logs; None before the first step."""

    @property
    def last(self) -> Tensor | None:
        """[leaves] loss, norm and logs of the last step."""

    @property
    def sums(self) -> Tensor | None:
        """[leaves] sums of loss, norm and logs over `count` steps."""

    def __call__(self, index: int) -> None:
        """Outer step number `index` (from 0)."""

    def check(self) -> None:
        """Run the finite check for all steps since the last call, if it is not made at every step.

        Raises:
            NonFiniteError: as FiniteCheck.
        """

    def set_sums(self, sums: Sums | None) -> None:
        """Continue from these sums; None: start from zero."""


class FiniteCheck:
    """Skips the first few steps whose loss or meta-gradient is inf or NaN; the next one is an error.

    Args:
        limit: how many steps may be skipped.
        inner_lr: the learner's inner rate, for the message.
    """

    def __init__(self, limit: int = 0, inner_lr: Any = None):
        self.limit, self.skipped, self.inner_lr = limit, 0, inner_lr

    def passes(self, index: int, loss: float, norm: float, tasks: tuple[int, int]) -> bool:
        """Whether both are finite; False if the step is to be skipped.

        Args:
            index: number of the step.
            loss, norm: its outer loss and the norm of its meta-gradient.
            tasks: its first and last training task, for the message.

        Raises:
            NonFiniteError: one of them is not finite, and no further step may be skipped.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            return True
        if self.skipped < self.limit:
            return False
        what = f"outer loss {loss}" if not math.isfinite(loss) else f"meta-gradient norm {norm}"
        raise NonFiniteError(
            f"non-finite {what} at outer step {index + 1} (training tasks {tasks[0]} to {tasks[1]}"
            f"{'' if self.inner_lr is None else f', algo.inner_lr={self.inner_lr}'}"
            f"{f', {self.skipped} steps skipped before' if self.limit else ''}): "
            "lower the inner or outer rate, or set clip.norm or skips"
        )

    def skip(self, index: int, steps: int = 1) -> None:
        """Count skipped steps, the last of them number `index`, and log it."""
        self.skipped += steps
        log.info(
            f"not finite: skipped {steps} outer step{'s' * (steps > 1)} up to step {index + 1}, "
            f"{self.skipped} of at most {self.limit} so far"
        )


def as_step(values: Tensor | None, form: TreeSpec | None) -> Step:
    """What a step reports, from the vector of its leaves; NaN where the very first step was skipped."""
    if values is None or form is None:
        return Step(torch.tensor(math.nan), torch.tensor(math.nan), {})
    return Step(**tree_unflatten(list(values.clone().unbind()), form))
