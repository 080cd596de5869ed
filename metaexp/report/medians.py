"""What stands beside a mean in the report: the median, what the worst tasks carry, and the sign test."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metaexp.evaluation.intervals import MOST_SHARE, Difference, holm, made_worse, middle, worst_share
from metaexp.report.grouping import Group, scores_of


class Beside(NamedTuple):
    """Of a group the means over its seeds, the share being the largest; None if unknown."""

    median: float | None = None
    low: float | None = None
    high: float | None = None
    worst_share: float | None = None


def of_group(group: Group, metric: str, larger: bool | None) -> Beside:
    """From the scores of single tasks; without them, what the results say."""
    columns = [column[np.isfinite(column)] for column in scores_of(group, metric)]
    found = [_of_scores(column, larger) for column in columns if len(column)]
    if not found:
        told = [of_result(run.result["test"][metric]) for run in group.runs if metric in run.result["test"]]
        found = [one for one in told if one.median is not None]
    ends = [one for one in found if one.low is not None and one.high is not None]
    return Beside(
        _mean([one.median for one in found]),
        _mean([one.low for one in ends]) if len(ends) == len(found) else None,
        _mean([one.high for one in ends]) if len(ends) == len(found) else None,
        max((one.worst_share for one in found if one.worst_share is not None), default=None),
    )


def _of_scores(column: np.ndarray, larger: bool | None) -> Beside:
    median, ends = middle(column)
    low, high = ends or (None, None)
    return Beside(median, low, high, worst_share(column, larger))


def of_result(told: Mapping[str, Any]) -> Beside:
    """From a summary in result.json, which may be older and lack some of it."""
    ends = told.get("median_ci")
    low, high = ends if isinstance(ends, list) and len(ends) == 2 else (None, None)
    return Beside(*(_finite(value) for value in (told.get("median"), low, high, told.get("worst_share"))))


def worse_of_group(group: Group, metric: str, larger: bool | None) -> int | None:
    """On how many tasks of all seeds adaptation made the score worse; None without inner steps, or if unknown."""
    found = []
    for run in group.runs:
        if metric in run.scores:
            found.append(made_worse(run.scores[metric], larger))
        else:
            told = (run.result["test"].get(metric) or {}).get("made_worse")
            found.append(told if isinstance(told, int) and not isinstance(told, bool) else None)
    known = [count for count in found if count is not None]
    return sum(known) if known else None


def heavy(share: float | None) -> bool:
    """Whether the worst 1 % of the tasks carry so much that nothing is claimed on the mean."""
    return share is not None and share > MOST_SHARE


def heavy_note(shares: Mapping[str, float | None], by_median: bool) -> str:
    """The note below a table with groups, by label, whose mean few tasks carry; "" if there are none."""
    found = [f"{label} ({100 * share:.0f} %)" for label, share in shares.items() if share is not None and heavy(share)]
    if not found:
        return ""
    order = ", and rows are ordered by the median" if by_median else ""
    return f"the worst 1 % of tasks carry more than a quarter of the mean of {', '.join(found)}: no claim on it{order}"


def barred(one: float | None, two: float | None, found: Difference) -> bool:
    """Whether nothing is claimed on the mean of a difference between groups with these shares."""
    return heavy(one) or heavy(two) or heavy(found.worst)


def sign_verdict(pair: Any, p: float, larger: bool | None) -> str:
    """What the sign test says of a `Pair`, whose `signs` are (tasks on which one is larger, on which it is smaller)."""
    if p >= 0.05:
        return "no claim on the mean; sign test: no difference shown"
    if larger is None:
        return "no claim on the mean; sign test: different"
    better = pair.one if (pair.signs[0] > pair.signs[1]) == larger else pair.two
    return f"no claim on the mean; sign test: {better} better"


def judged_by_signs(pairs: Sequence[Any], larger: bool | None) -> list[Any]:
    """The pairs with the sign test's p corrected for their number; those barred from the mean are judged by it."""
    made = []
    for pair, p in zip(pairs, holm([pair.sign_p for pair in pairs]), strict=True):
        verdict = sign_verdict(pair, p, larger) if pair.barred else pair.verdict
        made.append(pair._replace(sign_p=p, verdict=verdict, p=None if pair.barred else pair.p))
    return made


def better_on(pair: Any, larger: bool | None) -> str:
    """On how many tasks the first of a pair is better (larger, if neither direction is better)."""
    more, less = pair.signs
    return f"{less if larger is False else more} of {more + less}"


def _mean(values: Sequence[float | None]) -> float | None:
    kept = [value for value in values if value is not None]
    return sum(kept) / len(kept) if kept else None


def _finite(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else None
