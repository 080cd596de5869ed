"""Testing a trained run on other tasks or data: the families, what their test is called, and what was seen before.

`shifted` is a test on the run's own family, and its own data if it has any, with other settings; `cross-domain` is one
on another family or on other data. Data are the same if their content is, wherever the files lie.
"""

from pathlib import Path
from typing import Any, NamedTuple

from metaexp.config.instantiate import instantiate
from metaexp.errors import ConfigError, DataError, MetaexpError
from metaexp.nested import leaves
from metaexp.run.other_task import SIZES, OtherTask, divided_anew
from metaexp.run.saved_run import own_family
from metaexp.run.source import described
from metaexp.storage.saved_result import read_result
from metaexp.system import cache
from metaexp.system.output import say
from metaexp.tasks.base import TaskFamily
from metaexp.tasks.elsewhere import Elsewhere, check_fit, inputs_of
from metaexp.tasks.placeholder import absent
from metaexp.training.parent import as_fitted
from metaexp.training.sizes import within_memory

SHIFTED, CROSS = "shifted", "cross-domain"
_SAME_TASKS = (*SIZES, "rotation", "seed", "eval_seed", "root", "download", "verify", "gives", "needs")


class Other(NamedTuple):
    """A test on other tasks or data."""

    task: dict[str, Any]  # settings
    choice: str
    family: TaskFamily
    mark: str | None  # shifted | cross-domain; None: it is the run's own test after all
    seen: dict[str, Any] | None  # see `seen_before`; None: nothing comes from files, or it is not known
    trained_data: str | None  # SHA-256 of the data that the run was trained on, if they came from files


def other_data(
    folder: Path, saved: dict[str, Any], config: dict[str, Any], asked: OtherTask, record: dict[str, Any] | None
) -> Other:
    """The family that a run is tested on.

    Args:
        folder: the run's folder.
        saved: its configuration, with `trusted`; `config`: the same with what is changed besides the tasks.
        asked: the tasks that were asked for.
        record: what the newest checkpoint records of the training; None if the run has none.

    Raises:
        ConfigError: a setting out of range, or tasks that do not fit the run.
        DataError: data that are missing or damaged.
    """
    cache.choose(config.get("cache"))
    trusted = {*saved["trusted"], *asked.trusted}
    own = own_or_absent(folder, saved, record)
    task = _follow_shape(asked, own)
    known = _content(folder, own)
    name = f"task={asked.choice}" if asked.fresh else ", ".join(f"task.{key}" for key in sorted(asked.typed))
    other, task = _made(asked, task, trusted, own, known)
    try:
        check_fit(own, other)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}{_hint(own, other, task)}") from error
    other.prepare_as(own)
    mark = _mark(saved["task"], task, known, own.trained_on, other)
    if mark is None:
        task = _own_again(saved["task"], task)
    family = other if other.acts else Elsewhere(own, other)  # what is known of a world does not come from training
    return Other(task, asked.choice, family, mark, seen_before(own, other) if mark else None, known)


def own_or_absent(folder: Path, saved: dict[str, Any], record: dict[str, Any] | None) -> TaskFamily:
    """The run's own family, or its placeholder if its data are not here or not those that it was trained on."""
    try:
        own = own_family(folder, saved)
        before = (record or {}).get("trained_on")
        if before is None or own.trained_on == before:
            return own
        reason = "they are not those that it was trained on"
    except (MetaexpError, OSError, RuntimeError) as error:
        if record is None or record.get("family") is None:
            raise
        reason = str(error)
    kept = (record or {}).get("family")
    if kept is None:
        raise DataError(f"run={folder}: its own data are needed for this test: {reason}")
    say(f"without the run's own data, so classes that it has seen cannot be counted ({reason})")
    made = absent(kept, f"the run's own data are not here ({reason})")
    made.trained_on = (record or {}).get("trained_on")
    made.kept_inputs = described(folder, made)
    made.fixed_classes = "columns" in made.kept_inputs  # type: ignore[misc]  # of a table
    return made


def _content(folder: Path, own: TaskFamily) -> str | None:
    """SHA-256 of the run's own data; that in its result, if the data are not here."""
    found = own.content_sha256()
    if found is None:
        try:
            found = read_result(folder)[0].get("data_sha256")
        except MetaexpError:
            found = None
    return found if isinstance(found, str) else None


def _follow_shape(asked: OtherTask, own: TaskFamily) -> dict[str, Any]:
    """The settings with size and channels of pictures as the run takes them, where they were not typed."""
    task = dict(asked.task)
    if asked.fresh and len(own.x_shape) == 3 and not task.get("encoder"):
        for name, value in (("size", own.x_shape[-1]), ("channels", own.x_shape[0])):
            if name in task and name not in asked.typed:
                task[name] = value
    return task


def _made(
    asked: OtherTask, task: dict[str, Any], trusted: set[str], own: TaskFamily, known: str | None
) -> tuple[TaskFamily, dict[str, Any]]:
    """The family and its settings: data that are the run's own are divided as they were, others anew; the columns of a
    table become numbers as those of the run did."""
    inputs = inputs_of(own) if asked.moves_data else {}

    def make(settings: dict[str, Any]) -> TaskFamily:
        with within_memory():
            made: TaskFamily = instantiate(as_fitted(settings, inputs), group="task", trusted=trusted)
        return made

    if not asked.moves_data:
        return make(task), task
    if not asked.fresh:
        try:
            found = make(task)
            if known is not None and found.content_sha256() == known:
                return found, task
            if known is None and own.trained_on is not None and found.trained_on == own.trained_on:
                return found, task
        except MetaexpError:  # lists of classes that other data do not have, say
            pass
    anew = divided_anew(asked._replace(task=task))
    return make(anew), anew


def _mark(
    own: dict[str, Any], task: dict[str, Any], known: str | None, trained_on: str | None, other: TaskFamily
) -> str | None:
    """`known`: the SHA-256 of the run's own data; `trained_on`: that of its training tasks."""
    content = other.content_sha256()
    if own["_target_"] != task["_target_"] or content != known:
        return CROSS
    before, now = dict(leaves(own)), dict(leaves(task))
    different = {key for key in before | now if before.get(key) != now.get(key)}
    if known is not None or (trained_on is not None and trained_on == other.trained_on):
        different -= {key for key in different if key.split(".")[0] in ("file", "files", "dataset")}  # moved
    names = {key.removeprefix("test.").split(".")[0] for key in different if key != "test"}
    if "file" in names:  # of tables, whose content has no SHA-256
        return CROSS
    return SHIFTED if names - set(_SAME_TASKS) else None


def _own_again(own: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """The run's own settings with the sizes of the test, and the places of the data, of `task`."""
    made = own | {name: value for name, value in task.items() if name not in (*SIZES, "test")}
    for name in (*SIZES, "rotation"):
        here, there = (_at_test(node, name) for node in (own, task))
        if here == there:
            continue
        made |= {"test": made["test"] | {name: there}} if isinstance(made.get("test"), dict) else {name: there}
    return made


def _at_test(task: dict[str, Any], name: str) -> Any:
    value = (task.get("test") or {}).get(name)
    return task.get(name) if value is None else value


def _hint(own: TaskFamily, other: TaskFamily, task: dict[str, Any]) -> str:
    if own.classification != other.classification or own.x_shape == other.x_shape:
        return ""
    if len(own.x_shape) == 3 and "size" in task:
        return "; task.size and task.channels make pictures fit"
    if len(own.x_shape) == 1 and own.classification and "encoder" in task:
        return "; only a run that was trained on vectors of the same encoder fits"
    return ""


def seen_before(own: TaskFamily, other: TaskFamily) -> dict[str, Any] | None:
    """Of how many test classes (or tasks) examples were trained on, and how many have the name of a training class:
    `classes`, `of`, `names`, and the names of the first, `which`. None if either is not known."""
    before, now = own.contents("train"), other.contents("test")
    if before is None or now is None:
        return None
    trained = {digest for digests in before.values() for digest in digests}
    again = [name for name, digests in now.items() if not trained.isdisjoint(digests)]
    return {"classes": len(again), "of": len(now), "names": len(set(before) & set(now)), "which": again[:10]}
