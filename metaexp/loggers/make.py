"""A run's loggers, from its settings."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger

from metaexp.config.instantiate import instantiate, nodes
from metaexp.errors import ConfigError, MetaexpError
from metaexp.loggers.run_loggers import RunLoggers
from metaexp.loggers.tensorboard import TensorBoard

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def make_loggers(
    config: dict[str, Any],
    folder: Path,
    resumed_at: int | None = None,
    rank: int = 0,
    shape: "Callable[[Figure], None] | None" = None,
    board_form: "Callable[[Figure], AbstractContextManager[None]] | None" = None,
) -> RunLoggers:
    """TensorBoard and the loggers chosen by `logger=`, for this run folder.

    Args:
        config: the resolved configuration; `logger` holds a node for each further logger.
        folder: the run's folder.
        resumed_at: the outer step of the checkpoint that the run continues from.
        rank: rank of this process; only rank 0 writes.
        shape, board_form: see `TensorBoard`.

    Raises:
        ConfigError: a logger whose package is missing, or that refuses its settings.
    """
    loggers = RunLoggers(board_of(config, folder, resumed_at, rank, shape, board_form), draws=not config.get("debug"))
    trusted = set(config.get("trusted", ()))
    for key, node in nodes("logger", config.get("logger")) if rank == 0 else ():
        try:
            made = instantiate(node, group=key, trusted=trusted, folder=folder, resumed_at=resumed_at)
        except MetaexpError:
            raise
        except Exception as error:  # a store that cannot be reached, in the words of its package
            loggers.close("failed")
            raise ConfigError(f"{key}: {type(error).__name__}: {first_line(error)}") from error
        if not isinstance(made, Logger):
            raise ConfigError(f"{key}._target_={node['_target_']}: makes no Lightning logger")
        loggers.others.append(made)
    return loggers


def board_of(
    config: dict[str, Any],
    folder: Path,
    resumed_at: int | None = None,
    rank: int = 0,
    shape: "Callable[[Figure], None] | None" = None,
    board_form: "Callable[[Figure], AbstractContextManager[None]] | None" = None,
) -> TensorBoard:
    """TensorBoard for a run folder, with the formats of pictures that the settings ask for."""
    formats = config.get("figures", {}).get("format", ())
    return TensorBoard(folder, resumed_at, rank, formats, shape, board_form)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
