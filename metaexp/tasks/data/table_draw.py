"""Which rows of a task an episode takes, as functions of the task's key."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metaexp.random import bits, integers, uniform
from metaexp.tasks.data.table_sizes import Bin

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


def first_forecast(key: Tensor, counts: Tensor, given: int, asked: int, again: Tensor | None) -> Tensor:
    """The first row that is forecast, [tasks, 1]: in training drawn, at test one after the other.

    Args:
        key, counts: keys and numbers of rows of the tasks, [tasks].
        given, asked: rows before it that are known, and rows from it on.
        again: how often each task was there before, [tasks]; None: in training.
    """
    origins = counts - given - asked + 1
    turn = integers(key, 2, (), origins) if again is None else again % origins
    return (given + turn).unsqueeze(-1)


def drawn_bin(bins: Sequence[Bin], key: Tensor) -> tuple[Bin, float]:
    """A bin, each as often as it has tasks, and a number in [0, 1) for the shots of its meta-batch; key: []."""
    tasks = torch.tensor([len(one.members) for one in bins])
    drawn = int(integers(key, 0, (), int(tasks.sum())))
    return bins[int((tasks.cumsum(0) <= drawn).sum())], float(uniform(key, 1, (), dtype=torch.float64))
