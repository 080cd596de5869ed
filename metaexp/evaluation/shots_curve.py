"""The error against the number of support examples, on the same tasks and queries, with nested support sets."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from metaexp.evaluation.baselines import baselines
from metaexp.evaluation.intervals import summary
from metaexp.evaluation.scores import evaluate
from metaexp.metric_names import metric_of, split_name
from metaexp.system.group import ALONE, Group

Tick = Callable[[int], None]


class ShotsCurve(NamedTuple):
    """Metrics after the last step, for several numbers of shots."""

    shots: list[int]
    arrays: dict[str, np.ndarray]  # float64 [tasks, len(shots)] each
    floors: dict[str, dict[str, np.ndarray]]  # baseline -> metric -> likewise
    skipped: dict[int, str]  # shots that are impossible -> why
    short: dict[int, int] = {}  # shots -> tasks with fewer support examples, which give all they have

    def result(self) -> dict[str, Any]:
        """What result.json holds: mean, median, their intervals and the tasks left out, for each number of shots."""

        def rows(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
            return {name: [_row(values[:, [i]]) for i in range(values.shape[1])] for name, values in arrays.items()}

        return {
            "shots": self.shots,
            "tasks": max((len(values) for values in self.arrays.values()), default=0),
            "skipped": {str(shots): reason for shots, reason in self.skipped.items()},
            **({"short": {str(shots): tasks for shots, tasks in self.short.items()}} if self.short else {}),
            "metrics": rows(self.arrays),
            "floors": {name: rows(arrays) for name, arrays in self.floors.items()},
        }


def _row(values: np.ndarray) -> dict[str, Any]:
    """One number of shots, [tasks, 1]; a task that is not finite at another number of shots counts at this one."""
    found = summary(values)
    return {**found["per_step"][0], "diverged": found["diverged"]}


def columns_of(scores: np.ndarray) -> list[np.ndarray]:
    """The finite scores of every number of shots: [tasks, k] -> k arrays."""
    return [column[np.isfinite(column)] for column in scores.T]


def worse_than(scores: np.ndarray, baseline: np.ndarray, larger_is_better: bool) -> int:
    """On how many tasks a score [tasks] is worse than the baseline's [tasks]; one that is not finite is worse."""
    worse = scores < baseline if larger_is_better else scores > baseline
    return int((worse | ~np.isfinite(scores)).sum())


def series(last: int, beyond: int = 1) -> list[int]:
    """1, 2, 5, 10, 20, ... up to `last`, `last` itself, and the next `beyond` of them."""
    numbers = [step * 10**power for power in range(len(str(last)) + 2) for step in (1, 2, 5)]
    below, above = [n for n in numbers if n < last], [n for n in numbers if n > last]
    return [*below, last, *above[:beyond]]


def shots_curve(
    learner: Any,
    wanted: list[int] | None,
    tasks: int,
    mode: str,
    tick: Tick,
    known: dict[str, np.ndarray] | None = None,
    group: Group = ALONE,
) -> ShotsCurve:
    """The curve of a learner on the first `tasks` test tasks, with the baselines that need no run.

    Args:
        wanted: numbers of support examples (per class); None: `series` up to the test's number and, if the family has
            enough examples, the next one beyond; []: none.
        mode: normalisation mode at test.
        tick: called from time to time with the number of tasks done, over all shots; may raise to stop.
        known: the test's own scores, [at least `tasks`, steps + 1] each, which are not computed again.
        group: the processes that share the tasks; all of them get the curve.
    """
    if learner.acts:
        return ShotsCurve([], {}, {}, dict.fromkeys(wanted or [], "a world has no support sets"))
    family, own = learner.family, learner.family.sizes["test"]["shots"]
    asked = series(own) if wanted is None else sorted(set(wanted))
    skipped = {shots: reason for shots in asked if (reason := _impossible(family, shots)) is not None}
    if wanted is None:  # what the default would add but the family cannot give is not reported as skipped
        skipped = {shots: reason for shots, reason in skipped.items() if shots <= own}
        asked = [shots for shots in asked if shots <= own or _impossible(family, shots) is None]
    suffixes, metrics = learner.modes([mode]), learner.metrics
    columns: dict[int, dict[str, np.ndarray]] = {}
    for place, shots in enumerate(shots for shots in asked if shots not in skipped):

        def far(done: int, before: int = place * tasks) -> None:
            tick(before + done)

        if known and shots == own and family.varying("test") is None:
            # A learner may score more than its metrics: `child_0_mse` beside `mse`.
            measured = (n for n in known if split_name(n).suffix in suffixes and metric_of(n, metrics) is not None)
            columns[shots] = {name: known[name][:tasks, -1:] for name in measured}
            continue
        try:
            scores = evaluate(learner, "test", tasks, [mode], final=True, shots=shots, tick=far, group=group)
            columns[shots] = scores.arrays
        except (ValueError, RuntimeError, IndexError) as error:  # a method may need the shots it was trained with
            skipped[shots] = _line(error)
    total = tasks * len(columns)

    def floors(shots: int) -> dict[str, dict[str, np.ndarray]]:
        return baselines(family, "test", tasks, shots=shots, tick=lambda _: tick(total), group=group)

    beside = [floors(shots) for shots in columns]
    arrays = {name: _side_by_side([one[name] for one in beside]) for name in (beside[0] if beside else {})}
    short = {shots: few for shots in columns if (few := family.short("test", tasks, shots))}
    return ShotsCurve(list(columns), _side_by_side(list(columns.values())), arrays, skipped, short)


def _impossible(family: Any, shots: int) -> str | None:
    """Why the family has no such support set; None if it has."""
    if family.limit("test") is not None:  # tasks differ in size
        try:
            family.runs("test", family.limit("test"), shots)
        except ValueError as error:
            return _line(error)
        return None
    try:
        support = family.sample("test", torch.zeros(1, dtype=torch.int64, device=family.device), shots=shots).support
    except ValueError as error:
        return _line(error)
    wanted = shots * (family.sizes["test"]["ways"] or 1)
    there = support.x.shape[1]
    return None if there == wanted else f"the family gives {there} support examples instead of {wanted}"


def _side_by_side(columns: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([column[name] for column in columns], axis=1) for name in (columns or [{}])[0]}


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
