"""A metric against one numeric setting, above all the number of training tasks: a curve for each method."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from metaexp.checks import nearest, show
from metaexp.errors import ConfigError
from metaexp.report.grouping import Group, Section, differing
from metaexp.report.medians import heavy
from metaexp.report.narrow import carried
from metaexp.report.parts import Part, Table
from metaexp.report.reading import TESTED, Run, mark_of
from metaexp.report.tables import Row, direction, floors_of, number, row_of

TASKS = "train_tasks"  # its value "all" is the number that the result tells, or without end
LEAST_SEEDS = 3  # from which on an interval is one over seeds
_UNEQUAL = ("normalise", "test_steps", "query_sha256", "tasks", "left_out")  # of the protocol: may differ on a curve


class Curve(NamedTuple):
    """One method."""

    names: tuple[str, ...]  # values of the keys
    algo: str
    rows: dict[
        float, Row
    ]  # by the value of the setting, ascending; inf: all of the tasks, of which there are always more

    @property
    def label(self) -> str:
        """Its settings in one word."""
        return " ".join(name for name in self.names if name not in ("-", "own tasks")) or "-"


class Point(NamedTuple):
    """What is drawn of one method at one value, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float
    over: str  # tasks | seeds


def against_parts(runs: Sequence[Run], key: str, by: Sequence[str] = (), metrics: Sequence[str] = ()) -> list[Part]:
    """Tables and pictures of each metric against `key`, one for each way of testing.

    Raises ConfigError for a setting that no run has, whose values are no numbers, or which does not vary.
    """
    known = dict.fromkeys(name for run in runs for name in run.config)
    if key not in known:
        ends = [name for name in known if name.split(".")[-1] == key]
        hint = f"; did you mean {' or '.join(ends[:3])}?" if ends else nearest(key, known)
        raise ConfigError(f"--against {key}: no run has such a setting{hint}")
    keys = [name for name in (by or differing(runs)) if name != key] or ["algo"]
    if TESTED not in keys and any(mark_of(run.result) for run in runs):
        keys.append(TESTED)
    places: dict[str, list[Run]] = {}
    for run in runs:
        places.setdefault(_test(run, key), []).append(run)
    made = []
    for members in places.values():
        if len({value_of(run, key) for run in members}) > 1:
            found = dict.fromkeys(name for run in members for name in run.result["test"])
            made += [_part(members, key, keys, name) for name in found if not metrics or name in metrics]
    if not made:
        raise ConfigError(f"--against {key}: no runs that were tested equally differ in it")
    names = [part.pictures[0][0] for part in made]
    for place, part in enumerate(made):
        if count := names[:place].count(names[place]):
            name, png = part.pictures[0]
            made[place] = part._replace(pictures=[(f"{name.removesuffix('.png')}_{count + 1}.png", png)])
    return made


def value_of(run: Run, key: str) -> float:
    """The run's value of the setting; raises ConfigError if it is no number."""
    value = run.config.get(key, "all" if key == TASKS else None)
    if key == TASKS and value == "all":
        count = run.result.get(TASKS)
        return float(count) if isinstance(count, int) else math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"--against {key}: {show(value)} ({run.folder}) is no number")
    return float(value)


def _test(run: Run, key: str) -> str:
    unequal = (*_UNEQUAL, key.split(".")[-1])
    protocol = {name: value for name, value in run.result["protocol"].items() if name not in unequal}
    return json.dumps([run.result.get("task"), protocol], sort_keys=True, default=str)


def curves_of(runs: Sequence[Run], key: str, keys: Sequence[str], metric: str) -> tuple[list[Curve], Section]:
    """The curves of one way of testing, and all its groups."""
    _, larger = direction(metric, runs)
    places: dict[tuple[str, ...], dict[float, dict[str, Run]]] = {}
    for run in runs:
        if metric in run.result["test"]:
            names = tuple(show(run.config[name]) if name in run.config else "-" for name in keys)
            seeds = places.setdefault(names, {}).setdefault(value_of(run, key), {})
            seeds.setdefault(str(run.seed), run)  # "all" and the number of all are one
    curves, groups = [], []
    for names, values in places.items():
        rows = {}
        for value, members in sorted(values.items()):
            groups.append(Group(names, " ".join(names), list(members.values()), []))
            rows[value] = row_of(groups[-1], metric, larger)
        algo = str(next(iter(next(iter(values.values())).values())).result.get("algo"))
        curves.append(Curve(names, algo, rows))
    task = str(runs[0].result.get("task"))
    return curves, Section(task, task, {}, None, groups)


def point(row: Row, median: bool) -> Point | None:
    """The mean with its interval over seeds if there are enough, else over tasks; or the median; None: no number."""
    if median and row.median is not None:
        return Point(row.median, _or(row.median_low, row.median), _or(row.median_high, row.median), "tasks")
    if row.mean is None:
        return None
    seeds = row.seeds_half is not None and (row.seeds or 0) >= LEAST_SEEDS
    half = (row.seeds_half if seeds else row.tasks_half) or 0.0
    return Point(row.mean, row.mean - half, row.mean + half, "seeds" if seeds else "tasks")


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _part(runs: Sequence[Run], key: str, keys: Sequence[str], metric: str) -> Part:
    known, larger = direction(metric, runs)
    curves, section = curves_of(runs, key, keys, metric)
    median = any(heavy(row.worst_share) for curve in curves for row in curve.rows.values())
    points = {curve.names: {value: found for value, row in curve.rows.items() if (found := point(row, median))}
              for curve in curves}  # fmt: skip
    curves = [curve for curve in curves if points[curve.names]]
    curves.sort(key=lambda c: points[c.names][max(points[c.names])].value * (-1.0 if larger else 1.0) if known else 0.0)
    floors = {row.names[0]: row for row in floors_of(section, metric, -1.0 if larger else 1.0)}
    beside = {name: value for name, row in floors.items() if (value := row.median if median else row.mean) is not None}
    title = f"{section.task}: {'median ' if median else ''}{metric} against {key}"
    from metaexp.report.against_picture import picture  # matplotlib takes half a second to import

    png = picture(title, key, metric, larger, [(c, points[c.names]) for c in curves], beside)
    tables = [_table(curves, points, key, beside)]
    data: dict[str, Any] = {"against": key, "task": section.task, "metric": metric, "larger_is_better": larger}
    data |= {"curves": [_told(curve, keys) for curve in curves], "baselines": beside}
    name = f"against_{key.replace('.', '_')}_{section.task}_{metric}.png"
    return Part(title, tables, _notes(points, median, key, curves), data, [(name, png)])


def words(value: float) -> str:
    """The value on an axis and in a table."""
    return "all" if math.isinf(value) else number(value, 7)


def _table(
    curves: Sequence[Curve], points: Mapping[tuple[str, ...], Mapping[float, Point]], key: str, beside: dict[str, float]
) -> Table:
    values = sorted({value for curve in curves for value in points[curve.names]})
    long, short = [], []
    for value in values:
        found = [points[curve.names].get(value) for curve in curves]
        halves = [None if one is None else (one.high - one.low) / 2 for one in found]
        cells = ["" if one is None else carried(one.value, half) for one, half in zip(found, halves, strict=True)]
        both = [f"{cell} ± {number(half, 2)}" if half else cell for cell, half in zip(cells, halves, strict=True)]
        long.append([words(value), *both])
        short.append([words(value), *cells])
    head = [key, *(curve.label for curve in curves)]
    return Table(head, long, 1, Table(head, short, 1))


def _notes(
    points: Mapping[tuple[str, ...], Mapping[float, Point]], median: bool, key: str, curves: Sequence[Curve]
) -> list[str]:
    over = {one.over for found in points.values() for one in found.values()}
    said = {"tasks": "over test tasks, of seeds the mean of theirs", "seeds": "over seeds (Student's t)"}
    what = "medians, since few tasks carry the mean of some; " if median else ""
    notes = [f"{what}±: 95 % {' or, with fewer than 3 seeds, '.join(said[one] for one in sorted(over))}"]
    if key == TASKS:
        notes.append(
            "training tasks are drawn anew for each seed; a larger number of them holds those of a smaller one"
        )
    lost = sum(row.diverged or 0 for curve in curves for row in curve.rows.values())
    return [*notes, *([f"{lost} test tasks of all runs are not finite, and left out"] if lost else [])]


def _told(curve: Curve, keys: Sequence[str]) -> dict[str, Any]:
    fields = ("mean", "tasks_half", "seeds_half", "median", "median_low", "median_high", "seeds", "tasks", "diverged")
    rows = [
        {"value": None if math.isinf(value) else value} | {name: getattr(row, name) for name in fields}
        for value, row in curve.rows.items()
    ]
    return {"settings": dict(zip(keys, curve.names, strict=True)), "points": rows}
