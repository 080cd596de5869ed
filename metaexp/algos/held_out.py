"""Held-out losses: what a method that learns a support set is worth on examples that it has not seen."""

from collections.abc import Callable

import torch
from torch import Tensor

from metaexp.inner import Tree
from metaexp.mapping import Mapping, map_tasks
from metaexp.types import Episode, Examples


def held_out_losses(
    learn: Callable[[Examples], list[Tree]],
    answer: Callable[[Tree, Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    support: Examples,
    key: Tensor,
    folds: int,
    steps: int,
    joined: bool,
    classification: bool,
    mapping: Mapping,
) -> Tensor:
    """Mean loss over the folds of a support set of n > 0 examples after 0, 1, ..., steps steps: [steps + 1].

    Folds that hold out a class of which no example is left do not count; where none counts, the losses are 1.

    Args:
        learn: examples -> adapted values after 0, 1, ..., steps steps.
        answer: (adapted values, inputs [m, *x_shape]) -> [m, out].
        folds: their number, at most n; example j is in fold j modulo folds.
        joined: held-out examples pass the network in one batch with those that were learned (for batch norms).
        classification: whether targets are classes.
        mapping: how folds are mapped.
    """
    n = len(support.x)
    held = [list(range(first, n, folds)) for first in range(folds)]
    rests = [[j for j in range(n) if j not in fold] for fold in held]

    def of_fold(part: Episode) -> Tensor:
        path = learn(part.support)
        seen = part.support.x if joined else part.support.x[:0]
        x = torch.cat((seen, part.query.x))
        answers = [answer(adapted, x)[len(seen) :] for adapted in path]
        losses = torch.stack([loss(found, part.query.y) for found in answers])
        known = _known(part) if classification else torch.ones((), dtype=torch.bool, device=part.key.device)
        return torch.cat((torch.where(known, losses, 0.0), known.to(losses.dtype)[None]))

    total = torch.zeros(steps + 2, dtype=support.y.dtype, device=support.y.device)
    for same in (slice(n % folds), slice(n % folds, folds)):  # folds of one size
        if held[same]:
            rest, queries = (_rows(support, index[same]) for index in (rests, held))
            parts = Episode(rest, queries, key.expand(len(held[same])), {})
            total = total + map_tasks(of_fold, parts, mapping).sum(0) * len(held[same][0])
    return torch.where(total[-1] > 0, total[:-1] / total[-1].clamp(min=1), 1.0)


def _known(part: Episode) -> Tensor:
    """Whether every class that a fold holds out is among the rest, []: else the loss would favour who learns least."""
    gone = part.support.y.sum(0) == 0
    return ~((part.query.y > 0) & gone).any()


def _rows(examples: Examples, index: list[list[int]]) -> Examples:
    rows = torch.tensor(index, dtype=torch.int64, device=examples.x.device)
    return Examples(examples.x[rows], examples.y[rows])
