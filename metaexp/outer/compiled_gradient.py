"""The meta-gradient from a compiled graph for a piece of the meta-batch; on a CPU, threads run pieces in parallel."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from metaexp.mapping import mean_over_pieces
from metaexp.outer.compiler import compiled


def compile_pieces(
    gradient: Callable[..., Any], params: Mapping[str, Tensor], buffers: dict[str, Tensor], episodes: Any, size: int
) -> Callable[..., Any]:
    """Returns gradient(params, buffers, episodes), a mean over tasks, computed by one graph for `size` tasks.

    `size` must divide the number of tasks. On a CPU each piece has one thread and the pieces run in parallel; the
    result does not depend on the number of threads, to the bit.
    """
    threads = torch.get_num_threads() if episodes.key.device.type == "cpu" else 1
    workers = min(threads, len(episodes.key) // size)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) if workers > 1 else None
    example = _laid_out({name: p.detach() for name, p in params.items()})
    with _threads(1 if pool else threads):  # the number of threads is compiled into the graph
        graph = compiled(gradient, example, buffers, tree_map(lambda t: t[:size], episodes))

    def over_pieces(p: dict[str, Tensor], b: dict[str, Tensor], drawn: Any) -> Any:
        p = _laid_out(p)
        with _threads(1 if pool else threads):
            total = mean_over_pieces(lambda piece: graph(p, b, piece), drawn, size, pool)
        return tree_map(lambda t: t.contiguous(), total)

    return over_pieces


def _laid_out(params: dict[str, Tensor]) -> dict[str, Tensor]:
    last = torch.channels_last
    return {name: p.contiguous(memory_format=last) if p.dim() == 4 else p for name, p in params.items()}


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
