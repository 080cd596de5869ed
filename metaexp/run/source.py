"""A run as it was read from its folder: its learner with trained weights, which can be shared, copied and pickled."""

import copy
import json
import pickle
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from metaexp.errors import CheckpointError, ConfigError, MetaexpError
from metaexp.evaluation.scores import validator
from metaexp.random import task_keys
from metaexp.run.restore import load_weights, open_config, restore
from metaexp.system.lean import import_lightning
from metaexp.tasks.data import raw
from metaexp.tasks.data.raw import RawInputs
from metaexp.tasks.placeholder import absent, keep
from metaexp.types import Examples

INPUTS = "inputs.json"


class Source:
    """A run as it was read: its learner with trained weights, shared by an estimator and its clones."""

    def __init__(self, learner: Any, asked: tuple[Any, ...], **about: Any):
        self.learner, self.asked = learner.eval(), asked
        self.device, self.precision = about["device"], about["precision"]
        self.folder, self.step, self.choices = about["folder"], about["step"], about["choices"]
        self.described, self.task, self.trusted = about["described"], about["task"], about["trusted"]
        self._inputs: RawInputs | None = None

    @property
    def inputs(self) -> RawInputs:
        """What turns raw examples into inputs, made at its first use: an encoder may take seconds.

        Raises CheckpointError for a damaged inputs.json, ConfigError if a package or a class is missing.
        """
        if self._inputs is None:
            file = self.folder / INPUTS
            try:
                self._inputs = raw.restore(self.described, self.task, self.trusted)
            except ConfigError as error:
                raise ConfigError(f"{error} (in {file})") from error
            except MetaexpError:
                raise
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                raise CheckpointError(f"{file}: damaged, no inputs can be made from it ({reason})") from error
        return self._inputs

    @classmethod
    def read(cls, run: str | Path, weights: str | None, device: str, trust: Sequence[str]) -> "Source":
        """Read a run folder; arguments and errors as of `metaexp.load`."""
        one_of("weights", weights, (None, "best", "last"))
        import_lightning()
        from metaexp.training.trainer import quiet

        quiet()
        folder = Path(run).expanduser().absolute()
        config = open_config(folder, [trust] if isinstance(trust, str) else trust)
        config["device"] = config["device"] | {"accelerator": device}
        threads = torch.get_num_threads()
        try:
            restored = restore(folder, config, without_data=True)
        finally:
            torch.set_num_threads(threads)  # keep the caller's number of threads, which restoring a run changes
        if restored.parts.learner.acts:
            raise ConfigError(
                f"{folder}: algo={config['choices']['algo']} has learned to act in a world and predicts nothing from "
                "examples; test it again with python -m metaexp.evaluate"
            )
        learner, step = restored.parts.learner, load_weights(restored, weights or config["test"]["weights"])
        about: dict[str, Any] = {"folder": folder, "step": step, "choices": dict(config["choices"])}
        about |= {"device": restored.parts.device, "precision": str(config["device"]["precision"])}
        about |= {"described": described(folder, learner.family), "task": config["task"]}
        about |= {"trusted": config["trusted"]}
        made = cls(learner, (folder, weights, device, trust), **about)
        with made.computing():
            learner.finish(validator(learner))  # as before the test: a fine-tuning rate is chosen on validation tasks
        return made

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Inside, nothing is differentiated, and numbers have the precision of the run's test."""
        with torch.no_grad(), _precision(self.precision, self.device):
            yield

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds the learner without the family's data. One that cannot be pickled (a lambda in a class of the
        user's) is read from its folder again."""
        family = self.learner.family
        kept = keep(family)
        memo = {} if kept is None else {id(family): absent(kept, "this estimator was pickled without the run's data")}
        about = {key: value for key, value in vars(self).items() if key not in ("learner", "asked", "_inputs")}
        try:
            return _unpacked, (pickle.dumps(copy.deepcopy(self.learner, memo)), self.asked, about)
        except (pickle.PicklingError, AttributeError, TypeError):
            return Source.read, self.asked


class Fitted(NamedTuple):
    """What `fit` learned; settings that are changed later count from the next `fit`."""

    source: Source
    adapted: Any
    support: Examples
    mode: str
    steps: int = 0

    def path(self) -> list[Any]:
        """The adapted values after 0, 1, ... steps."""
        key = task_keys(0, "test", torch.zeros(1, dtype=torch.int64, device=self.source.device))[0]
        with self.source.computing():
            made: list[Any] = self.source.learner.path(self.support, key, self.steps)
        return made


def described(folder: Path, family: Any) -> dict[str, Any]:
    """The content of inputs.json; of a run older than that file what the family says.

    Raises CheckpointError if it is damaged.
    """
    file = folder / INPUTS
    if not file.is_file():
        told: dict[str, Any] = family.raw_inputs().settings()
        return told
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from error
    if not isinstance(found, dict) or not isinstance(found.get("_target_"), str):
        raise CheckpointError(f"{file}: damaged, it describes no inputs")
    return found


def _unpacked(learner: bytes, asked: tuple[Any, ...], about: dict[str, Any]) -> Source:
    return Source(pickle.loads(learner), asked, **about)


def one_of(name: str, value: Any, words: Sequence[Any]) -> None:
    """Raises ValueError for a value that is none of the words."""
    if value not in words:
        raise ValueError(f"{name}={value}: must be one of {', '.join(map(str, words))}")


def _precision(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The precision context that Lightning's trainer uses for the test of a run."""
    from lightning.pytorch.plugins.precision import DoublePrecision, MixedPrecision

    if precision == "64-true":
        return DoublePrecision().forward_context()
    if precision == "bf16-mixed":
        return MixedPrecision("bf16-mixed", device=device.type).forward_context()
    return nullcontext()
