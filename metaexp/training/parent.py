"""`start=RUN`: the run that another one starts from, and how that one's raw data become inputs as before.

A started run keeps what it needs of its parent in its own folder (`parent.ckpt`): it can be resumed, tested and used
when the parent is gone.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from torch import Tensor

from metaexp.config.instantiate import instantiate
from metaexp.encoders.base import same_encoder
from metaexp.errors import CheckpointError, ConfigError, DataError
from metaexp.storage import checkpoint_file
from metaexp.tasks.base import TaskFamily
from metaexp.tasks.data.table_inputs import TableInputs
from metaexp.tasks.placeholder import UNITS
from metaexp.training.checkpoint_form import unfit
from metaexp.training.few_tasks import use_few

FILE = "parent.ckpt"


class Preparation(NamedTuple):
    """How raw data become inputs, as it was fitted to the training tasks of an earlier run."""

    inputs: dict[str, Any]  # settings of its `RawInputs`
    units: dict[str, Tensor]  # mean and deviation of inputs and targets, where they are standardised

    @classmethod
    def of(cls, family: TaskFamily) -> "Preparation":
        """That of a family."""
        units = {name: getattr(family, name).cpu() for name in UNITS if hasattr(family, name)}
        return cls(json.loads(json.dumps(family.raw_inputs().settings())), units)


class Parent(NamedTuple):
    """A run that another one starts from.

    Attributes:
        told: what the result says of it: folder, checkpoint, sha256, step, algo, task, settings (of its tasks).
        weights: its learner's state.
        config: its settings, whose classes have been checked.
        mapping: how its learner was mapped over tasks.
        own: how its raw data become inputs; `before`: the same of its own parent, if it has one.
        seen: the new test classes or tasks that it was trained on, see `metaexp.run.other_data`; None: not known.
    """

    told: dict[str, Any]
    weights: dict[str, Tensor]
    config: dict[str, Any]
    mapping: str | int
    own: Preparation
    before: Preparation | None
    seen: dict[str, Any] | None = None

    def save(self, folder: Path) -> None:
        """Into a started run's folder. Raises SpaceError."""
        kept = {"told": self.told, "config": self.config, "mapping": self.mapping, "seen": self.seen}
        preparations = {"own": self.own._asdict(), "before": self.before and self.before._asdict()}
        weights = {name: value.cpu() for name, value in self.weights.items()}
        data = {"state_dict": weights, "parent": json.dumps(kept), **preparations}
        checkpoint_file.save(data, folder / FILE)

    @classmethod
    def read(cls, folder: Path) -> "Parent":
        """From a started run's folder; the classes that its settings name are not checked yet.

        Raises CheckpointError.
        """
        data = checkpoint_file.load(folder / FILE, quiet=True)
        try:
            own, before = Preparation(**data["own"]), data["before"] and Preparation(**data["before"])
            kept = json.loads(data["parent"])
            return cls(weights=data["state_dict"], own=own, before=before, **kept)
        except (TypeError, ValueError, LookupError) as error:
            raise CheckpointError(f"{folder / FILE}: damaged, it describes no parent ({error})") from error

    def check(self, learner: Any) -> None:
        """Raises ConfigError unless its weights fit the learner."""
        if other := unfit(self.weights, learner.state_dict()):
            raise ConfigError(
                f"start={self.told['folder']}: its weights do not fit ({'; '.join(other)[:160]}); keep the method, the "
                "model, and the sizes of that run"
            )


def prepared_family(config: Mapping[str, Any], trusted: Collection[str], earlier: Preparation | None) -> TaskFamily:
    """The family that settings describe; its raw data become inputs as `earlier` says, not as its own data would."""
    node = as_fitted(config["task"], earlier.inputs if earlier else {})
    family = use_few(instantiate(node, group="task", trusted=set(trusted)), config)
    if earlier:
        family.prepare_as(SimpleNamespace(**earlier.units))  # type: ignore[arg-type]
    return family


def as_fitted(task: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a family; of a table with which numbers a column becomes, as `inputs` (`Preparation`) say."""
    named = f"{TableInputs.__module__}.{TableInputs.__qualname__}"
    if inputs.get("_target_") != named or not str(task["_target_"]).startswith("metaexp.tasks.table."):
        return dict(task)
    return dict(task) | {"fitted": {key: value for key, value in inputs.items() if key != "format"}}


def check_same_encoder(parent: Parent, family: TaskFamily) -> None:
    """Raises ConfigError if inputs of the new tasks pass another encoder than those that the parent was trained on."""
    before, encoder = parent.own.inputs.get("encoded_by"), getattr(family, "encoder", None)
    try:
        if before is not None and encoder is not None:
            same_encoder(encoder, before)
        elif before is not None or encoder is not None:
            first, second = ("none" if one is None else type(one).__name__ for one in (before, encoder))
            first = first if before is None else str(parent.config["choices"].get("encoder"))
            raise DataError(f"encoder: {second} is not what this run was trained with, {first}; type no encoder")
    except DataError as error:
        raise ConfigError(f"start={parent.told['folder']}: {error}") from error
