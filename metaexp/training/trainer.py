"""Lightning's trainer for a run: device, strategy, precision, and the user's arguments; the run sets the rest."""

import inspect
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint

from metaexp.checks import nearest, show
from metaexp.config.familiar import TRAINER, said
from metaexp.errors import ConfigError
from metaexp.storage.lightning_plugin import AtomicCheckpointIO
from metaexp.training.distributed import cluster_environment, strategy, tell_lightning

if TYPE_CHECKING:
    from metaexp.training.build import Experiment


def make_trainer(
    experiment: "Experiment", callbacks: Sequence[L.Callback] = (), loggers: Sequence[Any] = (), folder: Any = None
) -> L.Trainer:
    """The trainer of a run.

    Raises:
        ConfigError: `trainer.` has an argument that the run sets itself, or that Lightning does not take.
    """
    quiet()
    tell_lightning(experiment.ranks)
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None and folder is not None:
            callback.dirpath = str(Path(folder) / "callbacks")  # `checkpoints` is the run's own
    config, typed = experiment.config, dict(experiment.config.get("trainer") or {})
    check_trainer(typed)
    asked = list(typed)
    plugins = typed.pop("plugins", None) or []
    ranks, given = experiment.ranks, plugins if isinstance(plugins, list) else [plugins]
    chosen = [] if any(isinstance(one, ClusterEnvironment) for one in given) else [cluster_environment(ranks)]
    own: dict[str, Any] = {
        "accelerator": experiment.accelerator,
        "devices": ranks.world // ranks.nodes,
        "num_nodes": ranks.nodes,
        "strategy": strategy(ranks, config["device"], experiment.accelerator),
        "precision": str(config["device"]["precision"]),
        "max_epochs": 1,
        "logger": list(loggers) or False,
        "log_every_n_steps": config["log"]["every"],
        "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "inference_mode": False,
        "callbacks": list(callbacks),
        "plugins": [AtomicCheckpointIO(), *chosen, *given],
        "default_root_dir": None if folder is None else str(folder),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return L.Trainer(**(own | typed))
        except Exception as error:  # Lightning has several classes for this
            if not asked:
                raise
            reason = str(error).strip().splitlines()[0]
            names = ", ".join(f"trainer.{name}" for name in asked)
            raise ConfigError(f"{names}: Lightning's Trainer refuses it ({reason})") from error


def check_trainer(typed: dict[str, Any]) -> None:
    """Refuse arguments that Lightning's Trainer does not have or that would contradict the run, with a ConfigError."""
    known = inspect.signature(L.Trainer).parameters
    for name, value in typed.items():
        if name not in known:
            free = [other for other in known if other not in TRAINER]
            hint = nearest(name, free) or f"; there are {', '.join(free)}"
            raise ConfigError(f"trainer.{name}={show(value)}: Lightning's Trainer has no such argument{hint}")
        if name in TRAINER:
            raise ConfigError(
                f"trainer.{name}={show(value)}: the run sets this itself; {said(TRAINER[name], show(value))}"
            )


class _Adverts(logging.Filter):
    """Drops Lightning's tips, the lines that list accelerators, and its message at the end of the outer loop."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        drop = ("GPU available:", "TPU available:", "HPU available:", "`Trainer.fit` stopped:")
        return not ("Tip: " in text or "💡" in text or text.startswith(drop))


def quiet() -> None:
    """Silences Lightning's tips, its list of accelerators, its advice on data-loader workers, and its last line.

    The outer loop has no data loader that needs workers, and the end of its one epoch is no news. Also silenced are a
    deprecation warning inside Lightning, and its advice to reduce logged values over ranks, which are equal on all.
    """
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Adverts) for one in logger.filters):
            logger.addFilter(_Adverts())
    warnings.filterwarnings("ignore", message=r".*does not have many workers")
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    warnings.filterwarnings("ignore", message=r".*sync_dist=True")
