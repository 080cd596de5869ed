"""A run's loggers, from its settings."""

from pathlib import Path
from typing import Any

from metaexp.config.instantiate import instantiate, nodes
from metaexp.loggers.run_loggers import RunLoggers
from metaexp.loggers.tensorboard import TensorBoard


def make_loggers(config: dict[str, Any], folder: Path, resumed_at: int | None = None, rank: int = 0) -> RunLoggers:
    """TensorBoard and the loggers chosen by `logger=`, for this run folder.

    Args:
        config: the resolved configuration; `logger` holds a node for each further logger.
        folder: the run's folder.
        resumed_at: the outer step of the checkpoint that the run continues from.
        rank: rank of this process; only rank 0 writes.

    Raises:
        ConfigError: a logger whose package is missing, or that refuses its settings.
    """
    board = TensorBoard(folder, resumed_at=resumed_at, rank=rank)
    trusted = set(config.get("trusted", ()))
    others = [
        instantiate(node, group=key, trusted=trusted, folder=folder, resumed_at=resumed_at)
        for key, node in nodes("logger", config.get("logger"))
        if rank == 0
    ]
    return RunLoggers(board, others)
