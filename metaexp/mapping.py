"""Mapping a function of ONE task over the tasks of a meta-batch; no other module depends on how.

A mapping is "vmap" (all tasks at once), a whole number n (vmap over chunks of n tasks, with the memory of n tasks), or
"loop" (one task after the other, with native kernels). `choose` makes the default choice, based on measurements.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.utils._pytree import tree_map

Mapping = str | int


def choose(mapping: Mapping, model: nn.Module, device: torch.device | str) -> Mapping:
    """The mapping to use; "auto" depends on the kind of model and the device, never on a timing.

    Measured on two cores with torch 2.13: vmap turns a convolution with weights per task into a grouped convolution,
    which on a CPU is three times slower than a loop with native kernels; a small fully connected network is six times
    faster under vmap.

    Raises:
        ValueError: the mapping is not auto, vmap, loop or a number above 0.
    """
    if isinstance(mapping, int) and not isinstance(mapping, bool) and mapping > 0:
        return mapping
    if mapping not in ("auto", "vmap", "loop"):
        raise ValueError(f"mapping={mapping}: must be auto, vmap, loop or a number of tasks above 0")
    if mapping != "auto":
        return mapping
    convolutions = any(p.dim() > 2 for p in model.parameters())
    return "loop" if convolutions and torch.device(device).type == "cpu" else "vmap"


def _pieces(episodes: Any, tasks: int, mapping: Mapping) -> list[Any]:
    size = piece_size(mapping, tasks)
    return [episodes] if size >= tasks else [_piece(episodes, start, size) for start in range(0, tasks, size)]


def _over(function: Callable[..., Any], tasks: int) -> Callable[..., Any]:
    """The function mapped over the tasks of a piece: by vmap, or applied to its only task."""
    if tasks > 1:
        return vmap(function)

    def single(piece: Any) -> Any:
        return tree_map(lambda t: t[None], function(tree_map(lambda t: t[0], piece)))

    return single


def map_tasks(function: Callable[[Any], Any], episodes: Any, mapping: Mapping) -> Any:
    """function(episode of one task) -> tree of tensors, over all tasks: the same tree with [tasks] in front."""
    pieces = _pieces(episodes, episodes.key.shape[0], mapping)
    results = [_over(function, piece.key.shape[0])(piece) for piece in pieces]
    return results[0] if len(results) == 1 else tree_map(lambda *parts: torch.cat(parts), *results)


def mean_gradient(
    function: Callable[[dict[str, Tensor], Any], tuple[Tensor, Any]],
    params: dict[str, Tensor],
    episodes: Any,
    mapping: Mapping,
) -> tuple[dict[str, Tensor], Tensor, Any]:
    """Gradient, value and logs of the mean over tasks of function(params, episode) -> (loss [], tree of logs).

    A piece's graph is freed before the next piece starts, so memory use is that of one piece. Pieces are added in task
    order: the results of a mapping are bit-identical from run to run.
    """
    tasks, kind = episodes.key.shape[0], episodes.key.device.type
    cast, half = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    def piece_sum(p: dict[str, Tensor], piece: Any) -> tuple[Tensor, Any]:
        with torch.autocast(kind, half, enabled=cast):  # not around the gradient, whose products keep their precision
            losses, logs = _over(lambda episode: function(p, episode), piece.key.shape[0])(piece)
        return losses.sum() / tasks, tree_map(lambda t: (t.sum(0) / tasks).detach(), logs)

    total: Any = None
    for piece in _pieces(episodes, tasks, mapping):
        with torch.autocast(kind, enabled=False):
            grads, (value, logs) = grad_and_value(piece_sum, has_aux=True)(params, piece)
        part = (grads, value, logs)
        total = part if total is None else tree_map(torch.add, total, part)
    return total


def mean_over_pieces(function: Callable[[Any], Any], episodes: Any, size: int, pool: Executor | None = None) -> Any:
    """Mean of function(piece of `size` tasks) over the pieces; `size` must divide the number of tasks.

    With a pool, pieces run in parallel on its threads. They are always added in task order, so the result does not
    depend on the number of threads.
    """
    tasks = episodes.key.shape[0]
    pieces = [episodes] if size >= tasks else [_piece(episodes, start, size) for start in range(0, tasks, size)]
    total: Any = None
    for part in pool.map(function, pieces) if pool else map(function, pieces):
        total = part if total is None else tree_map(torch.add, total, part)
    return tree_map(lambda t: t / len(pieces), total)


def piece_size(mapping: Mapping, tasks: int) -> int:
    """Number of tasks that are computed at once."""
    return tasks if mapping == "vmap" else 1 if mapping == "loop" else min(int(mapping), tasks)


def _piece(episodes: Any, start: int, size: int) -> Any:
    return tree_map(lambda t: t[start : start + size], episodes)
