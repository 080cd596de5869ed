"""Schedules of the outer rate that torch does not have."""

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler


class LinearToZero(LRScheduler):
    """Rate times 1 - step / steps: linear from the given rate to 0, as Reptile's authors anneal epsilon.

    A closed form of the step, so that resuming is exact.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int, last_epoch: int = -1):
        self.steps = steps
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The rates of the groups at the current step."""
        left = max(0.0, 1.0 - self.last_epoch / max(self.steps, 1))
        return [base * left for base in self.base_lrs]
