"""Restores a trained learner from its run folder, to be tested or used again.

The folder may come from a stranger: its configuration is read as data and may name no class outside metaexp and
torch.optim unless the caller trusts the package; its checkpoints hold tensors and plain containers only.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from metaexp.config.trust import check_target, module_of, targets, trusted_modules
from metaexp.errors import CheckpointError, ConfigError, DataError
from metaexp.run.saved_run import make_parts, read_saved
from metaexp.storage.checkpoints import Checkpoints
from metaexp.storage.lock import check_status, state_of
from metaexp.storage.saved_config import read_config
from metaexp.tasks.base import TaskFamily
from metaexp.tasks.placeholder import absent
from metaexp.training.build import Experiment
from metaexp.training.checkpoint_form import check_record, check_weights

log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """A learner with its trained weights, and where it came from."""

    folder: Path
    parts: Experiment
    initial: dict[str, Tensor]  # the state before any training
    checkpoints: Checkpoints
    newest: dict[str, Any] | None  # the newest checkpoint, whose weights are loaded; None: the method trains nothing
    state: str  # of the run: finished, interrupted, failed, killed, running


def open_config(folder: Path, trust: Sequence[str] = ()) -> dict[str, Any]:
    """The saved configuration, with `trusted` replaced by those of its modules that are in the packages of `trust`.

    Raises CheckpointError if `folder` is not a run folder or its configuration is damaged, ConfigError for a class that
    is not trusted.
    """
    if not (folder / "config.yaml").is_file():
        what = "has no config.yaml, so it is no run folder" if folder.is_dir() else "no such run folder"
        raise CheckpointError(f"run={folder}: {what}")
    check_status(folder)
    return checked_config(read_saved(folder), folder, trust)


def checked_config(saved: dict[str, Any], folder: Path, trust: Sequence[str] = ()) -> dict[str, Any]:
    """Settings that a run's folder holds, as `open_config` returns them; raises ConfigError for a class that is not
    trusted."""
    config = saved | {"callbacks": {}, "logger": {}, "trainer": {}}  # of training: a test needs none
    trusted = trusted_modules(config, trust)
    for path, target in targets(config):
        try:
            check_target(path, target, trusted)
        except ConfigError as error:
            package = module_of(str(target)).split(".")[0]
            own = re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", str(target)) and package not in ("metaexp", "torch")
            own = own and package not in sys.stdlib_module_names
            how = f"trust=[{package}] allows it, if you know that code" if own else "refused"
            raise ConfigError(f"{path}={target}: named by {folder}, outside metaexp and torch.optim; {how}") from error
    return config | {"trusted": sorted(trusted), "trust": list(trust), "resume": False}


def restore(
    folder: Path, config: dict[str, Any], without_data: bool = False, family: TaskFamily | None = None
) -> Restored:
    """The parts that a configuration (from `open_config`, possibly changed) describes, with the newest weights.

    They use one process, the run's mapping over tasks and, on a CPU, its number of threads, so that the same machine
    gives the same bits. With `without_data`, a family whose data are missing is replaced by what the checkpoint keeps
    of it, which is enough to adapt and predict. `family` is used instead of the one described. Raises CheckpointError
    if there are no weights or they do not fit, and whatever Experiment raises.
    """
    device = config["device"] | {"strategy": "auto", "devices": 1}
    if device.get("threads") is None and (threads := _threads(folder)):
        device["threads"] = min(threads, os.cpu_count() or 1)
    config = config | {"device": device}
    try:
        parts = make_parts(folder, config, family)
    except (DataError, OSError, RuntimeError) as error:  # the last two from a user's own data set
        kept = (recorded(folder) or {}).get("family") if without_data else None
        if kept is None:
            raise
        log.warning("continuing without the data of this run, with the sizes that its checkpoint keeps (%s)", error)
        parts = make_parts(folder, config, absent(kept, str(error)))
    parts.config = config
    learner = parts.learner.to(parts.device)
    initial = {name: value.clone() for name, value in learner.state_dict().items()}
    checkpoints = Checkpoints(folder / "checkpoints", writes=False)
    newest = None
    if learner.trains:
        found = checkpoints.latest(parts.device)
        if found is None:
            raise CheckpointError(f"run={folder}: no checkpoint yet ({state_of(folder)}), so there is nothing to test")
        newest, path = found
        _load(learner, newest, path, folder)
        learner.set_mapping(newest["metaexp"]["mapping"], parts.device, tried=True)
        parts.training.compiled = newest["metaexp"]["compiled"]
        parts.training.finite.skipped = newest["metaexp"].get("skipped", 0)
    return Restored(folder, parts, initial, checkpoints, newest, state_of(folder))


def recorded(folder: Path) -> dict[str, Any] | None:
    """What the newest checkpoint records of the training besides weights and optimiser; None without a checkpoint."""
    found = Checkpoints(folder / "checkpoints", writes=False).latest("cpu")
    if found is None:
        return None
    check_record(*found)
    record: dict[str, Any] = found[0]["metaexp"]
    return record


def load_weights(restored: Restored, kind: str) -> int | None:
    """Loads the best weights if `kind` is "best" and they exist, otherwise keeps the newest.

    Returns the step of the weights in use, None for a method that trains nothing. Raises CheckpointError if they do not
    fit.
    """
    if restored.newest is None:
        return None
    data = restored.newest
    if kind == "best" and (best := restored.checkpoints.best(restored.parts.device)):
        data = best[0]
        _load(restored.parts.learner, *best, restored.folder)
    return int(data["metaexp"]["step"])


def _load(learner: Any, checkpoint: dict[str, Any], path: Path, folder: Path) -> None:
    check_weights(checkpoint, path, learner, read_config(folder))
    learner.load_state_dict(checkpoint["state_dict"])


def _threads(folder: Path) -> int | None:
    with suppress(OSError, ValueError, AttributeError):
        threads = json.loads((folder / "result.json").read_text(encoding="utf-8")).get("threads")
        return threads if isinstance(threads, int) and threads > 0 else None
    return None
