"""The parts of a run that may start from another one: `start=RUN`."""

from pathlib import Path
from typing import Any

from metaexp.errors import CheckpointError, ConfigError
from metaexp.run.other_data import own_or_absent, seen_before
from metaexp.run.restore import checked_config, open_config
from metaexp.run.saved_run import make_parts
from metaexp.run.source import described
from metaexp.storage import checkpoint_file
from metaexp.system import cache
from metaexp.tasks.elsewhere import check_fit
from metaexp.tasks.placeholder import Absent
from metaexp.training.build import Experiment
from metaexp.training.checkpoint_form import check_record
from metaexp.training.parent import FILE, Parent, Preparation, check_same_encoder, prepared_family
from metaexp.training.sizes import within_memory


def parts(config: dict[str, Any], folder: Path | None = None, **named: Any) -> Experiment:
    """The parts of a run, of a new one or of the one in `folder`; a started run has its parent.

    Args:
        named: further arguments of Experiment.

    Raises:
        ConfigError: settings that fit no run, or not the parent.
        CheckpointError: the parent's weights, or what the run keeps of them, are damaged.
        DataError: data are missing or damaged.
    """
    if not config.get("parent"):
        return Experiment(config, **named) if folder is None else make_parts(folder, config, **named)
    if folder is not None and (folder / FILE).exists():
        return make_parts(folder, config, parent=_kept(folder, config), **named)
    parent, family = _found(config)
    return Experiment(config, family, parent=parent, **named)


def _trust(config: dict[str, Any]) -> list[str]:
    """Packages whose classes the parent's settings may name: those that this run's own may."""
    return [*config.get("trust", ()), *(module.split(".")[0] for module in config.get("trusted", ()))]


def _kept(folder: Path, config: dict[str, Any]) -> Parent:
    parent = Parent.read(folder)
    return parent._replace(config=checked_config(parent.config, folder, _trust(config)))


def _found(config: dict[str, Any]) -> tuple[Parent, Any]:
    """The parent in the folder that `start` names, and the new run's family, prepared as the parent's."""
    folder, wanted = Path(config["start"]), config["parent"]
    saved = open_config(folder, _trust(config))
    cache.choose(config.get("cache"))
    file = folder / "checkpoints" / wanted["checkpoint"]
    checkpoint = checkpoint_file.load(file, quiet=True)
    check_record(checkpoint, file)
    if (checkpoint_file.describe(file) or {}).get("sha256") != wanted["sha256"]:
        raise CheckpointError(f"{file}: has changed since this command began; start it again")
    record = checkpoint["metaexp"]
    own = own_or_absent(folder, saved, record)
    before = Parent.read(folder).own if saved.get("parent") else None
    told = {"folder": str(folder), **wanted, "step": record["step"], "algo": saved["choices"]["algo"]}
    told |= {"task": saved["choices"]["task"], "settings": saved["task"]}
    absent = isinstance(own, Absent)
    kept = Preparation.of(own)
    if absent:  # then the folder says how its data became inputs
        kept = kept._replace(inputs=described(folder, own))
    parent = Parent(told, checkpoint["state_dict"], saved, record["mapping"], kept, before)
    with within_memory():
        family = prepared_family(config, config.get("trusted", ()), parent.own)
    check_same_encoder(parent, family)
    try:
        if not absent:
            check_fit(own, family)
    except ValueError as error:
        raise ConfigError(f"start={folder}: {error}") from error
    return parent._replace(seen=None if absent else seen_before(own, family)), family
