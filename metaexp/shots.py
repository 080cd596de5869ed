"""The error against the number of support examples: the same tasks and queries, supports nested in each other."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from metaexp.evaluation import evaluate, summary
from metaexp.floors import floors

Tick = Callable[[int], None]


class ShotsCurve(NamedTuple):
    """Metrics after the last step, for several numbers of shots."""

    shots: list[int]
    arrays: dict[str, np.ndarray]  # float64 [tasks, len(shots)] each
    floors: dict[str, dict[str, np.ndarray]]  # floor -> metric -> likewise
    skipped: dict[int, str]  # shots that cannot be -> why

    def result(self) -> dict[str, Any]:
        """What result.json holds: mean and interval for each number of shots."""

        def rows(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
            return {name: summary(values)["per_step"] for name, values in arrays.items()}

        return {
            "shots": self.shots,
            "tasks": max((len(values) for values in self.arrays.values()), default=0),
            "skipped": {str(shots): reason for shots, reason in self.skipped.items()},
            "metrics": rows(self.arrays),
            "floors": {floor: rows(arrays) for floor, arrays in self.floors.items()},
        }


def series(last: int, beyond: int = 2) -> list[int]:
    """1, 2, 5, 10, 20, ... up to `last`, `last` itself, and the next `beyond` of them."""
    numbers = [step * 10**power for power in range(len(str(last)) + 2) for step in (1, 2, 5)]
    below, above = [n for n in numbers if n < last], [n for n in numbers if n > last]
    return [*below, last, *above[:beyond]]


def shots_curve(learner: Any, wanted: list[int] | None, tasks: int, mode: str, tick: Tick) -> ShotsCurve:
    """The curve of a learner on the first `tasks` test tasks, with the floors that need no run.

    Args:
        wanted: numbers of support examples (per class); None: `series` up to the test's and, where the family has so
            many, a little beyond; []: none.
        mode: of normalisation at test.
        tick: called now and then with the number of tasks done, over all shots; may raise to stop.
    """
    family = learner.family
    known = series(family.sizes["test"]["shots"]) if wanted is None else sorted(set(wanted))
    reasons = {shots: _impossible(family, shots) for shots in known}
    if wanted is None:  # nobody asked for more than the test's
        known = [shots for shots in known if reasons[shots] is None or shots <= family.sizes["test"]["shots"]]
    skipped = {shots: str(reasons[shots]) for shots in known if reasons[shots] is not None}
    possible = [shots for shots in known if shots not in skipped]
    arrays, failed = errors(learner, possible, tasks, mode, tick)
    done = [shots for shots in possible if shots not in failed]
    found = [floors(family, "test", tasks, shots=shots, tick=lambda _: tick(tasks * len(done))) for shots in done]
    beside = {floor: _side_by_side([one[floor] for one in found]) for floor in (found[0] if found else {})}
    return ShotsCurve(done, arrays, beside, skipped | failed)


def errors(
    learner: Any, shots: list[int], tasks: int, mode: str, tick: Tick
) -> tuple[dict[str, np.ndarray], dict[int, str]]:
    """Metrics after the last step, [tasks, len(shots)] each, and the shots that the method cannot take, with why."""
    columns: list[dict[str, np.ndarray]] = []
    failed: dict[int, str] = {}
    for place, number in enumerate(shots):

        def far(done: int, before: int = place * tasks) -> None:
            tick(before + done)

        try:
            columns.append(evaluate(learner, "test", tasks, [mode], final=True, shots=number, tick=far).arrays)
        except (ValueError, RuntimeError, IndexError) as error:
            failed[number] = _line(error)
    return _side_by_side(columns), failed


def _impossible(family: Any, shots: int) -> str | None:
    """Why the family has no such support set; None where it has."""
    try:
        support = family.sample("test", torch.zeros(1, dtype=torch.int64, device=family.device), shots=shots).support
    except ValueError as error:
        return _line(error)
    wanted = shots * (family.sizes["test"]["ways"] or 1)
    there = support.x.shape[1]
    return None if there == wanted else f"the family gives {there} support examples in place of {wanted}"


def _side_by_side(columns: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([column[name] for column in columns], axis=1) for name in (columns or [{}])[0]}


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
