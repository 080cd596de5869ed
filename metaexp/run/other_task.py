"""The settings of other tasks on which a trained run is tested: which are typed, and which follow the run."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from metaexp.checks import nearest, show
from metaexp.config.overrides import parse
from metaexp.config.schema import checked_value, kind_at
from metaexp.config.settings import Settings
from metaexp.constraints import Misfit
from metaexp.errors import ConfigError
from metaexp.nested import at

SIZES = ("shots", "queries", "ways")
# Settings that say which data there are, and those that divide them, which belong to one set of data.
DATA = ("root", "file", "files", "dataset")
_NOBODY = {"train": None, "val": None, "test": None}
DIVIDES: dict[str, Any] = {
    "lists": [],
    "classes": _NOBODY,
    "tasks": _NOBODY,
    "class_file": None,
    "fold": None,
    "groups": None,
    "drop": [],
    "preset": None,
}
_NOT_SET = object()


class OtherTask(NamedTuple):
    """The tasks that a run is tested on instead of its own."""

    task: dict[str, Any]  # settings
    choice: str  # what is typed for `task=`
    typed: frozenset[str]  # names of the settings of the task that were typed, `test.shots` as well
    fresh: bool  # another family was chosen: what was not typed follows the run
    trusted: tuple[str, ...] = ()  # modules that the user's own group files name

    @property
    def moves_data(self) -> bool:
        """Whether other data were named."""
        return self.fresh or any(name.split(".")[0] in DATA for name in self.typed)


def is_of_tasks(key: str) -> bool:
    """Whether a typed key chooses tasks or changes their settings."""
    return key in ("task", "encoder") or key.startswith(("task.", "encoder."))


def other_task(
    saved: Mapping[str, Any], changes: Mapping[str, Any], words: Sequence[str], extra: str | None
) -> OtherTask:
    """The tasks that a command line asks for.

    Args:
        saved: the run's configuration.
        changes: typed values of keys that `is_of_tasks`.
        words: the same as typed.
        extra: the folder of --config-dir.

    Raises:
        ConfigError: no such choice or setting, or a value that is not allowed.
    """
    if "encoder" in changes and changes["encoder"] != (saved["choices"].get("encoder") or "none"):
        used = saved["choices"].get("encoder") or "none"
        raise ConfigError(f"encoder={show(changes['encoder'])}: other data pass the run's own encoder, {used}")
    if inside := next((key for key in changes if key.startswith("encoder.")), None):
        raise ConfigError(f"{inside}={show(changes[inside])}: other data pass the run's own encoder, as it was")
    typed = frozenset(key.removeprefix("task.") for key in changes if key.startswith("task."))
    if "task" not in changes:
        return OtherTask(_changed(saved, changes), saved["choices"]["task"], typed, fresh=False)
    task, trusted = _composed(saved, words, extra)
    own, now = (at(node, "gives.kind", None) for node in (saved["task"], task))
    if None not in (own, now) and own != now:
        raise ConfigError(f"task={changes['task']}: is {now}, and this run learned {own}")
    return OtherTask(followed(task, saved, typed), str(changes["task"]), typed, True, trusted)


def _changed(saved: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The run's own tasks with the typed values."""
    task = _copy(saved["task"])
    names = [f"task.{name}" for name in task if not name.startswith("_") and name not in ("gives", "seed")]
    for key, value in changes.items():
        if at(saved, key, _NOT_SET) is _NOT_SET or key.split(".")[1] in ("gives", "seed", "_target_", "encoder"):
            hint = nearest(key, names) or f"; the run's tasks have {', '.join(names)}"
            raise ConfigError(f"{key}={show(value)}: cannot be changed in a trained run{hint}")
        try:
            value = checked_value(value, at(saved, key), kind_at(saved, key))
        except Misfit as fault:
            raise ConfigError(f"{key}={show(value)}: {fault}") from None
        *groups, last = key.split(".")[1:]
        node = task
        for name in groups:
            node = node[name]
        node[last] = value
    return task


def _composed(
    saved: Mapping[str, Any], words: Sequence[str], extra: str | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings of another family as a training would have them, with the run's method; modules to be trusted."""
    overrides = parse([word for word in words if not word.startswith(("encoder=", "+encoder="))])
    settings = Settings(overrides, extra)
    algo = saved["choices"]["algo"]
    if algo in settings.composer.options("algo"):
        overrides = parse([f"algo={algo}", *overrides.words])
    config = settings.load(overrides)
    return config["task"], tuple(config["trusted"])


def followed(task: Mapping[str, Any], saved: Mapping[str, Any], typed: Collection[str]) -> dict[str, Any]:
    """Settings of another family in which everything that was not typed and that the run has, too, follows the run:
    sizes of the test, the seed of test tasks, the encoder, and how raw examples are prepared."""
    own, made = saved["task"], _copy(task)
    for name in SIZES:
        value = (own.get("test") or {}).get(name)
        value = own.get(name) if value is None else value
        if name in made and value is not None and not {name, f"test.{name}"} & set(typed):
            made[name] = value
            if isinstance(made.get("test"), dict):
                made["test"][name] = None
    same = ["seed", "eval_seed", "encoder", *(("fit",) if own.get("encoder") else ())]
    same += ["standardise"] if own.get("_target_") == made.get("_target_") else []
    same += ["size", "channels", "standardise"] if own.get("encoder") else []
    for name in same:
        if name in made and name in own and name not in typed:
            made[name] = _copy(own[name]) if isinstance(own[name], dict) else own[name]
    return made


def divided_anew(asked: OtherTask) -> dict[str, Any]:
    """The settings for data that the run never saw: all classes or tasks are for the test, unless files say otherwise
    or it was typed how to divide them; lists of classes of the run's own data are left out."""
    made, typed = _copy(asked.task), asked.typed
    for name, empty in DIVIDES.items():
        if not asked.fresh and name in made and not any(one.split(".")[0] == name for one in typed):
            made[name] = _copy(empty) if isinstance(empty, dict) else empty
    split = made.get("split")
    if isinstance(split, list) and len(split) == 3 and "split" not in typed:
        made["split"] = [0.0, 0.0, 1.0]
    return made


def _copy(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in node.items()}
