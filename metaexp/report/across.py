"""Methods compared across task families: each family is one unit, whatever its tasks, seeds and shots."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metaexp.checks import nearest, show
from metaexp.errors import ConfigError
from metaexp.evaluation.ranks import Versus, family_ranks, versus
from metaexp.report.grouping import differing, protocol_of
from metaexp.report.reading import TESTED, Run, mark_of
from metaexp.report.tables import direction

Method = tuple[str, ...]


class Family(NamedTuple):
    """The numbers of all compared methods in one family."""

    name: str
    metric: str
    larger: bool
    values: list[float]  # of each method: mean over tests of means over seeds; inf or nan: not finite
    tests: int  # tests over which each value is a mean, such as numbers of shots
    seeds: list[int]  # of each method, over all tests


class Across(NamedTuple):
    """Everything that is said about the methods."""

    keys: list[str]
    methods: list[Method]
    labels: list[str]
    families: list[Family]
    ranks: np.ndarray  # [families, methods]
    pairs: list[Versus]
    notes: list[str]


def compared(runs: Sequence[Run], across: Sequence[str], by: Sequence[str], metrics: Sequence[str]) -> Across:
    """Methods, families and ranks over the values of the settings `across` (`task`, or `task,task.file`).

    Args:
        by: settings that make methods; default: those in which the runs of one family differ, without the tasks' own.
        metrics: only these; of a family its first one counts that all methods have.

    Raises:
        ConfigError: a setting that no run has, fewer than two methods, or no family with all methods.
    """
    known = dict.fromkeys(key for run in runs for key in run.config)
    for key in across:
        if key not in known:
            raise ConfigError(f"--across {key}: no run has such a setting{nearest(key, known)}")
    keys = list(by) or [key for key in differing(runs) if key not in across and not key.startswith("task.")] or ["algo"]
    if TESTED not in keys and any(mark_of(run.result) for run in runs):
        keys.append(TESTED)
    places: dict[str, dict[Method, list[Run]]] = {}
    for run in runs:
        family = " ".join(_text(run, key) for key in across)
        places.setdefault(family, {}).setdefault(tuple(_text(run, key) for key in keys), []).append(run)
    methods = list(dict.fromkeys(method for there in places.values() for method in there))
    if len(methods) < 2:
        raise ConfigError(
            f"--across {','.join(across)}: one method only ({label(methods[0])}); there is nothing to compare"
        )
    notes: list[str] = []
    families = []
    for name, there in sorted(places.items()):
        if missing := [label(method) for method in methods if method not in there]:
            notes.append(f"{name} left out: no {', '.join(missing)}")
        elif (one := _family(name, [there[method] for method in methods], methods, metrics, notes)) is not None:
            families.append(one)
    if not families:
        said = "; ".join(notes)
        raise ConfigError(
            f"--across {','.join(across)}: no family has all {len(methods)} methods, --where chooses: {said}"
        )
    scores, larger = np.array([family.values for family in families]), [family.larger for family in families]
    ranks = family_ranks(scores, larger)
    order = sorted(range(len(methods)), key=lambda i: (float(ranks[:, i].mean()), methods[i]))
    families = [
        family._replace(values=[family.values[i] for i in order], seeds=[family.seeds[i] for i in order])
        for family in families
    ]
    methods = [methods[i] for i in order]
    pairs = versus(scores[:, order], larger)
    return Across(keys, methods, [label(method) for method in methods], families, ranks[:, order], pairs, notes)


def _family(
    name: str, members: Sequence[Sequence[Run]], methods: Sequence[Method], metrics: Sequence[str], notes: list[str]
) -> Family | None:
    """One family's numbers over the tests that all methods share; None, with a note, if there are none."""
    every = [run for runs in members for run in runs]
    names = dict.fromkeys(metric for run in every for metric in run.result["test"] if not metrics or metric in metrics)
    unknown = []
    for metric in names:
        known, larger = direction(metric, every)
        cells = [_by_test([run for run in runs if metric in run.result["test"]]) for runs in members]
        shared = [test for test in cells[0] if all(test in one for one in cells)]
        if not shared:
            continue
        if not known or larger is None:
            unknown.append(metric)
            continue
        _note(name, metric, cells, shared, methods, notes)
        values = [float(np.mean([_mean(one[test], metric) for test in shared])) for one in cells]
        seeds = [len({str(run.seed) for test in shared for run in one[test]}) for one in cells]
        return Family(name, metric, larger, values, len(shared), seeds)
    why = f"no direction of {', '.join(unknown)} is better" if unknown else "no test that all methods share"
    notes.append(f"{name} left out: {why}")
    return None


def _by_test(runs: Sequence[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(protocol_of(run), []).append(run)
    return found


def _mean(runs: Sequence[Run], metric: str) -> float:
    means = [run.result["test"][metric].get("mean") for run in runs]
    return math.nan if any(mean is None for mean in means) else float(np.mean(means))


def _note(
    name: str,
    metric: str,
    cells: Sequence[dict[str, list[Run]]],
    shared: Sequence[str],
    methods: Sequence[Method],
    notes: list[str],
) -> None:
    lost = {test for one in cells for test in one if test not in shared}
    if lost:
        notes.append(f"{name}: {len(lost)} test{'s' * (len(lost) > 1)} that not all methods share, left out")
    if len({str(run.result["protocol"].get("query_sha256")) for one in cells for run in one[shared[0]]}) > 1:
        notes.append(f"{name}: methods were tested on different query sets")
    for method, one in zip(methods, cells, strict=True):
        runs = [run for test in shared for run in one[test]]
        told = [run.result["test"][metric] for run in runs]
        if any(summary.get("mean") is None for summary in told):
            notes.append(f"{name}: {label(method)} has a run without a finite score and is ranked last")
        elif count := sum(int(summary.get("diverged") or 0) for summary in told):
            tasks = sum(int(summary.get("tasks") or 0) for summary in told)
            notes.append(
                f"{name}: {count} of {tasks} tasks of {label(method)} are not finite, and left out of its mean"
            )
        if any(len({str(run.seed) for run in one[test]}) < len(one[test]) for test in shared):
            notes.append(f"{name}: {label(method)} is also averaged over settings other than the seed")


def _text(run: Run, key: str) -> str:
    return show(run.config[key]) if key in run.config else "-"


def label(method: Method) -> str:
    """A method's settings in a few words."""
    return " ".join(word for word in method if word not in ("-", "own tasks")) or "-"
