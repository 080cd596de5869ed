"""Which rows of a task an episode takes, as functions of the task's key."""

import torch
from torch import Tensor

from metaexp.random import bits

LAST = torch.iinfo(torch.int64).max


def arranged(key: Tensor, counts: Tensor, width: int) -> Tensor:
    """Every task's rows in a random order: int64 [tasks, width], numbered within the task.

    Args:
        key, counts: keys and numbers of rows, [tasks].
        width: the largest of these numbers; what stands behind a task's own rows is no row of it.
    """
    outside = torch.arange(width, device=key.device) >= counts.unsqueeze(-1)
    return torch.argsort(bits(key, 1, (width,)).masked_fill(outside, LAST), dim=-1, stable=True)


def stratified(order: Tensor, counts: Tensor, y: Tensor) -> Tensor:
    """The same rows so that the first of them hold one of every class, likewise the last, and each stretch between them
    the task's own shares of the classes: [tasks, width].

    Args:
        order: rows in a random order, see `arranged`; counts: numbers of rows, [tasks].
        y: classes of the rows in this order, one-hot [tasks, width, classes].
    """
    outside = torch.arange(order.shape[1], device=order.device) >= counts.unsqueeze(-1)
    y = y * (~outside).unsqueeze(-1).to(y.dtype)
    rank = ((y.cumsum(1) - y) * y).sum(-1)  # [tasks, width] rows of the same class before this one
    count = (y.sum(1, keepdim=True) * y).sum(-1).clamp(min=1)
    level = torch.where(rank == count - 1, 2.0, (rank + 0.5) / count)
    level = torch.where(rank == 0, -1.0, level).masked_fill(outside, 3.0)
    return order.gather(1, torch.argsort(level, dim=-1, stable=True))


def following(key: Tensor, counts: Tensor, width: int, first: int, n: int) -> Tensor:
    """n rows of each task at random, of those after its first `first`: int64 [tasks, n]."""
    place = torch.arange(width, device=key.device)
    outside = (place < first) | (place >= counts.unsqueeze(-1))
    return torch.topk(bits(key, 3, (width,)).masked_fill(outside, -LAST - 1), n).indices
