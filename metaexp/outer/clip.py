"""Clipping the meta-gradient."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """Clips gradients by value and then by norm.

    Args:
        norm: largest Euclidean norm of all gradients together; None: no limit.
        value: largest absolute value of an element; None: no limit.

    Raises:
        ValueError: a limit that is not above 0.
    """

    norm: float | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        for name, limit in asdict(self).items():
            if limit is not None and not limit > 0:
                raise ValueError(f"clip.{name}={limit}: must be above 0")

    def __call__(self, grads: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The Euclidean norm [] before clipping, and the clipped gradients."""
        norm = before = _norm(grads)
        if self.value is not None:
            grads = list(torch._foreach_clamp_min(torch._foreach_clamp_max(grads, self.value), -self.value))
            norm = _norm(grads)
        if self.norm is not None:
            grads = list(torch._foreach_mul(grads, torch.clamp(self.norm / (norm + 1e-6), max=1.0)))
        return before, grads


def _norm(tensors: list[Tensor]) -> Tensor:
    if len(tensors) == 1:
        return torch.linalg.vector_norm(tensors[0])
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
