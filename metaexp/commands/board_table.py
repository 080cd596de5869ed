"""The table HParams of a tree of runs, and the baselines of their tasks as rows, for `metaexp board`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metaexp.loggers.board_tags import baseline_tag
from metaexp.loggers.hparams_row import hparams_message, row_messages
from metaexp.nested import leaves
from metaexp.storage.saved_config import key_of

LAST = 9_999_999_999  # a time in the name of an event file: it is read after all others of its folder
NONE = "-"  # of a run that has no such setting: with nothing there, parallel coordinates would leave the run out
ALWAYS = ("algo", "task")


class Table:
    """The columns of HParams, the same for all runs, and the row of each run that has finished.

    Columns are the method, the task, and every setting that differs between runs of the same method and task: what
    follows from the choice of the method is not repeated. With one run, there is its seed and its number of steps. The
    columns are fixed with the first row; TensorBoard reads them only once.
    """

    def __init__(self) -> None:
        self._columns: dict[str, bool] = {}  # name -> whether it holds numbers
        self.metrics: list[str] = []
        self._settings: list[dict[str, Any]] = []
        self._described = False

    def choose(self, configs: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]) -> None:
        """Chooses the columns, as long as no row has been written."""
        if self._described:
            return
        self._settings = [flat(config) for config in configs]
        columns = varying(self._settings)
        columns += ["seed", "steps"] if len(columns) == len(ALWAYS) else []
        self._columns = {name: _numeric([own.get(name) for own in self._settings]) for name in columns}
        self.metrics = shared_metrics(results)

    def write(self, row: Path, config: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Writes the settings and test metrics of a run into its row's folder."""
        from tensorboard.plugins.hparams import metadata

        own, step = flat(config), int(result["steps"])
        hparams = {name: _cell(own.get(name), numeric) for name, numeric in self._columns.items()}
        shown = {name: value for name, value in hparams.items() if value is not None}
        summaries = row_messages(shown)
        if not self._described:
            self._described = True
            summaries.insert(0, hparams_message(metadata.EXPERIMENT_TAG, experiment=self._experiment()))
        scores = {f"test/{name}": _number(entry) for name, entry in result["test"].items()}
        write_events(row, summaries, [(tag, value, step) for tag, value in scores.items()])

    def _experiment(self) -> Any:
        from tensorboard.plugins.hparams import api_pb2

        infos = []
        for name, numeric in self._columns.items():
            values = [_cell(own.get(name), numeric) for own in self._settings]
            known = [value for value in values if value is not None]
            kind = api_pb2.DATA_TYPE_FLOAT64 if numeric else api_pb2.DATA_TYPE_STRING
            info = api_pb2.HParamInfo(name=name, type=kind, differs=len(set(known)) > 1 or name == "algo")
            if numeric and known:
                info.domain_interval.min_value, info.domain_interval.max_value = min(known), max(known)
            elif not numeric:
                info.domain_discrete.extend(sorted(set(known)))
            infos.append(info)
        metrics = [
            api_pb2.MetricInfo(name=api_pb2.MetricName(tag=f"test/{name}"), display_name=f"test {name}")
            for name in self.metrics
        ]
        return api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics)


class Baselines:
    """A row for each baseline of each task: horizontal lines in the charts of its metrics.

    Args:
        folder: the folder of the view.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._ends: dict[tuple[str, ...], int] = {}  # task, its test and validation tasks, baseline -> last outer step
        self._names: dict[tuple[str, ...], str] = {}

    def write(self, config: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Adds the baselines of a run that has finished; they depend on its tasks alone, not on its method."""
        task, step = str(result.get("task")), int(result["steps"])
        tasks = (str((result.get("protocol") or {}).get("query_sha256")), str((config.get("val") or {}).get("tasks")))
        for name, floor in (result.get("floors") or {}).items():
            key = (task, *tasks, name)
            if name == "scratch" or (key in self._ends and self._ends[key] >= step):
                continue
            first = key not in self._ends
            self._ends[key] = step
            lines = {f"test/{metric}": _number(entry) for metric, entry in floor.items()}
            for metric, value in (result.get("val_floors") or {}).get(name, {}).items():
                # A band of no width: without it, charts of intervals would call the row incomplete.
                for tag in (f"val/{metric}/after", f"val_steps/{metric}/low", f"val_steps/{metric}/high"):
                    lines[tag] = math.nan if value is None else float(value)
            ends = sorted({0, step}) if first else [step]
            write_events(self.folder / self._row(key), (), [(tag, v, at) for at in ends for tag, v in lines.items()])

    def _row(self, key: tuple[str, ...]) -> str:
        if key not in self._names:
            task, name = key[0], key[-1]
            wanted, number = f"{baseline_tag(name).replace('_', ' ')}, {task}", 1
            while (unique := wanted if number == 1 else f"{wanted} ({number})") in self._names.values():
                number += 1
            self._names[key] = unique
        return self._names[key]


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that HParams may show: choices by the name of their group, all others by their dotted key."""
    found = {key: value for key, value in leaves(dict(config)) if key_of(key).shown}
    found = {key: value for key, value in found.items() if key.rpartition(".")[2] not in ("_target_", "_partial_")}
    return {key.removeprefix("choices."): value for key, value in found.items()}


def varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns: see `Table`."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for own in settings:
        groups.setdefault(tuple(str(own.get(name)) for name in ALWAYS), []).append(own)
    names = dict.fromkeys(key for own in settings for key in own)
    differ = [
        name for name in names if any(len({str(own.get(name)) for own in group}) > 1 for group in groups.values())
    ]
    chosen = {name: [str(own.get(name)) for own in settings] for name in ALWAYS}
    for name in differ:
        values = [str(own.get(name)) for own in settings]
        if values not in chosen.values():  # such as task.seed, which is the seed
            chosen[name] = values
    return list(chosen)


def shared_metrics(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The test metrics that all runs of a task have, the first ones first: parallel coordinates leave out a run that
    lacks one."""
    by_task: dict[str, list[list[str]]] = {}
    for result in results:
        by_task.setdefault(str(result.get("task")), []).append(list(result["test"]))
    found: dict[str, None] = {}
    for names in by_task.values():
        shared = [name for name in names[0] if all(name in others for others in names)]
        found |= dict.fromkeys(shared or [name for others in names for name in others])
    return list(found)


def write_events(folder: Path, summaries: Sequence[Any], scalars: Sequence[tuple[str, float, int]]) -> None:
    """An event file of these summaries and (tag, value, outer step); without torch, which takes seconds to import."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(exist_ok=True)
    number = len(list(folder.glob(f"events.out.tfevents.{LAST}.*")))
    with open(folder / f"events.out.tfevents.{LAST}.{number:06d}.board", "xb") as file:
        writer = RecordWriter(file)
        made = [Event(file_version="brain.Event:2"), *(Event(step=0, summary=one) for one in summaries)]
        for tag, value, step in scalars:
            made.append(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])))
        for event in made:
            writer.write(event.SerializeToString())
        writer.flush()


def _numeric(values: Sequence[Any]) -> bool:
    """Whether a column can hold numbers: every run has one."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _cell(value: Any, numeric: bool) -> Any:
    """What stands in a column; None: nothing, since it is no number among numbers."""
    if numeric:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    if value is None:
        return NONE
    return str(value).lower() if isinstance(value, bool) else str(value)


def _number(entry: Mapping[str, Any]) -> float:
    value = entry.get("mean")
    return math.nan if value is None else float(value)
