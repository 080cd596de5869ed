"""The rows of the comparison: every group's and baseline's numbers, and the differences between groups."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from metaexp.checks import show
from metaexp.evaluation.intervals import difference, holm, over_seeds
from metaexp.metric_names import Direction, metric_of, near, recorded_direction
from metaexp.report.grouping import Compared, Group, Section, scores_of
from metaexp.report.medians import (
    barred,
    heavy,
    heavy_note,
    judged_by_signs,
    of_group,
    of_result,
    worse_of_group,
)
from metaexp.report.reading import Run

MOST_PAIRS = 10  # up to this many pairs, all groups are compared with each other; otherwise each with the best
UNSHOWN = "no difference shown"
UNKNOWN_DIRECTION = "not ranked: these results do not say whether a larger value is better"


class Row(NamedTuple):
    """The numbers of one group or baseline for one metric; None if there is no number."""

    names: tuple[str, ...]  # values of the grouping keys, or the name of a baseline
    floor: bool
    mean: float | None
    tasks_half: float | None
    seeds_half: float | None
    seeds: int | None
    tasks: int | None
    diverged: int | None
    steps: float | None
    test_steps: str | None
    normalise: str | None
    seconds: float | None
    peak_mb: float | None
    parameters: str | None
    adapted: str | None
    median: float | None
    median_low: float | None
    median_high: float | None
    worst_share: float | None
    made_worse: int | None
    timed: tuple[tuple[str, float], ...] | None  # on which machine and threads, mean seconds there
    note: str = ""


class Pair(NamedTuple):
    """A difference between two groups, in words and numbers."""

    one: str
    two: str
    mean: float
    half: float | None
    claim: str  # algorithms | checkpoints
    seeds: str
    tasks: int
    lost: int
    p: float | None  # Holm's, for all pairs of the table at once
    verdict: str
    signs: tuple[int, int]  # tasks on which one is larger, and smaller
    sign_p: float  # of the sign test, Holm's too
    barred: bool  # few tasks carry the mean: nothing is claimed on it


class Block(NamedTuple):
    """One metric of one section."""

    section: Section
    metric: str
    larger: bool | None  # whether larger is better; None: neither direction is
    rows: list[Row]
    pairs: list[Pair]
    pairs_note: str


def direction(metric: str, runs: Sequence[Run]) -> Direction:
    """Which direction of a metric is better, according to the runs' results."""
    return recorded_direction(metric, [run.result["test"][metric] for run in runs if metric in run.result["test"]])


def blocks(compared: Compared, every_pair: bool = False, metrics: Sequence[str] = ()) -> list[Block]:
    """All tables, section by section, metric by metric; best first, baselines last."""
    made = []
    for section in compared.sections:
        for metric in section.metrics:
            if metrics and metric not in metrics:
                continue
            known, larger = direction(metric, section.runs)
            sign = -1.0 if larger else 1.0
            groups = [group for group in section.groups if any(metric in r.result["test"] for r in group.runs)]
            rows = {group.values: row_of(group, metric, larger) for group in groups}
            shares = {group.label: rows[group.values].worst_share for group in groups}
            by_median = any(map(heavy, shares.values())) and all(row.median is not None for row in rows.values())
            if known:
                place = {values: row.median if by_median else row.mean for values, row in rows.items()}
                groups.sort(key=lambda g: (place[g.values] is None, sign * (place[g.values] or 0.0)))
            found, note = _pairs(section, groups, metric, larger, every_pair or not known)
            note = "; ".join(filter(None, [note, heavy_note(shares, by_median and known)]))
            lines = [rows[group.values] for group in groups]
            if len(modes := dict.fromkeys(str(row.normalise) for row in lines)) > 1:
                note = "; ".join(filter(None, [note, f"batch statistics differ between rows: {', '.join(modes)}"]))
            if not known:
                note = "; ".join(filter(None, [note, UNKNOWN_DIRECTION]))
            if letters := machines_of(lines):
                told = "; ".join(f"{letter}: {name}" for name, letter in letters.items())
                note = "; ".join(filter(None, [note, f"seconds of different machines do not compare: {told}"]))
            made.append(Block(section, metric, larger, lines + floors_of(section, metric, sign), found, note))
    return made


def row_of(group: Group, metric: str, larger: bool | None) -> Row:
    """A group's numbers for one metric."""
    results = [run.result for run in group.runs if metric in run.result["test"]]
    told = [result["test"][metric] for result in results]
    finite = [one for one in told if one["mean"] is not None]
    seeds = over_seeds([float(one["mean"]) for one in finite])
    halves = [float(one["ci95"]) for one in finite if one.get("ci95") is not None]
    protocols = [result["protocol"] for result in results]
    beside = of_group(group, metric, larger)
    return Row(
        names=group.values,
        floor=False,
        mean=seeds.mean,
        tasks_half=float(np.mean(halves)) if halves else None,
        seeds_half=None if group.mixed else seeds.half,
        seeds=len({str(run.seed) for run in group.runs if _finite(run, metric)}),
        tasks=max((n for one in told if _number(n := one.get("tasks"))), default=None),
        diverged=_sum(one.get("diverged") for one in told),
        steps=_mean(result.get("steps") for result in results),
        test_steps=_words(protocol.get("test_steps") for protocol in protocols),
        normalise=_words((protocol.get("normalise") or {}).get(metric) for protocol in protocols),
        seconds=_mean(result["speed"].get("seconds") for result in results),
        peak_mb=max((m for result in results if _number(m := result["memory"].get("peak_mb"))), default=None),
        parameters=_words(result.get("parameters") for result in results),
        adapted=_words(result.get("adapted_parameters") for result in results),
        median=beside.median,
        median_low=beside.low,
        median_high=beside.high,
        worst_share=beside.worst_share,
        made_worse=worse_of_group(group, metric, larger),
        timed=_timed(results),
        note="; ".join(filter(None, [_weights(results), _lost(told, len(finite)), _seen(results)])),
    )


def _timed(results: Sequence[dict[str, Any]]) -> tuple[tuple[str, float], ...] | None:
    """On each machine the mean seconds of its runs; None if no result tells them."""
    found: dict[str, list[float]] = {}
    for result in results:
        if _number(seconds := result["speed"].get("seconds")):
            found.setdefault(machine_of(result), []).append(float(seconds))
    return tuple((name, float(np.mean(all))) for name, all in sorted(found.items())) or None


def machine_of(result: dict[str, Any]) -> str:
    """The machine that a result was computed on, as far as it matters for its time."""
    told = result.get("machine")
    told, threads = told if isinstance(told, dict) else {}, result.get("threads")
    name = " ".join(str(told.get("gpu") or told.get("cpu") or "unknown machine").split())
    return f"{name}, {threads} thread{'s' * (threads != 1)}" if isinstance(threads, int) and "gpu" not in told else name


def machines_of(rows: Sequence[Row]) -> dict[str, str]:
    """A letter for each machine of these rows, by its name; empty if all their times are of one."""
    names = sorted({name for row in rows for name, _ in row.timed or ()})
    return {} if len(names) < 2 else {name: chr(ord("A") + place % 26) for place, name in enumerate(names)}


def _finite(run: Run, metric: str) -> bool:
    return (run.result["test"].get(metric) or {}).get("mean") is not None


def _weights(results: Sequence[dict[str, Any]]) -> str:
    steps = [result["weights"].get("step") for result in results]
    state = {str(r["evaluation"].get("state")) for r in results if isinstance(r.get("evaluation"), dict)} - {"finished"}
    if state:
        return f"{'/'.join(sorted(state))}, weights of step {_words(steps)}"
    return ""


def _seen(results: Sequence[dict[str, Any]]) -> str:
    """Of tests on other tasks or data: how many test classes have examples that were trained on."""
    told = [again.get("seen") for result in results if isinstance(again := result.get("evaluation"), dict)]
    counts = [(one.get("classes"), one.get("of")) for one in told if isinstance(one, dict)]
    found = dict.fromkeys(f"{n} of {of}" for n, of in counts if _number(n) and _number(of) and n)
    return f"{'/'.join(found)} test classes were trained on" if found else ""


def _lost(told: Sequence[Any], finite: int) -> str:
    return f"{len(told) - finite} of {len(told)} runs without a finite score" if finite < len(told) else ""


def floors_of(section: Section, metric: str, sign: float) -> list[Row]:
    """The baselines beside a section's runs, best first; `sign`: -1 where larger is better."""
    rows = []
    for name in dict.fromkeys(name for run in section.runs for name in run.result["floors"]):
        told = [t for run in section.runs if (t := _floor_of(run.result["floors"].get(name), metric)) is not None]
        kept = [one for one in told if one["mean"] is not None]
        if not kept:
            continue
        best = min(kept, key=lambda one: sign * one["mean"])
        means = [float(one["mean"]) for one in kept]
        several = max(means) - min(means) > 1e-9 * max(map(abs, means))
        note = f"{number(min(means))} to {number(max(means))}" if several else ""
        nothing = dict.fromkeys(set(Row._fields) - {"note"})
        values = {"names": (name,), "floor": True, "mean": float(best["mean"]), "tasks_half": best.get("ci95")}
        values |= {"tasks": best.get("tasks"), "diverged": best.get("diverged"), "note": note}
        values |= dict(zip(("median", "median_low", "median_high", "worst_share"), of_result(best), strict=True))
        rows.append(Row(**(nothing | values)))
    return sorted(rows, key=lambda row: sign * (row.mean or 0.0))


def _floor_of(floor: Any, metric: str) -> dict[str, Any] | None:
    """A baseline's summary of the metric; a baseline that ignores the batch has one number for all modes."""
    if not isinstance(floor, dict):
        return None
    found = near(floor, metric)
    if not found and (root := metric_of(metric, floor)):  # `uniform_mse`: the family's metric of another prediction
        found = floor[root]
    return found if isinstance(found, dict) else None


# -- differences -------------------------------------------------------------------------------------------------------


def _pairs(
    section: Section, groups: Sequence[Group], metric: str, larger: bool | None, every: bool
) -> tuple[list[Pair], str]:
    """Differences between groups (best first) with scores on the same query sets, and a note about them."""
    able = [group for group in groups if scores_of(group, metric)] if section.queries else []
    if len(groups) > 1 and len(able) < 2:
        return [], "no differences: the scores of single tasks are missing"
    ends = [(i, j) for i in range(len(able)) for j in range(i + 1, len(able))]
    # All pairs count, shown or not: the best group was selected by the same scores.
    found = {(i, j): pair for i, j in ends if (pair := _pair(able[i], able[j], metric, larger)) is not None}
    known = [place for place, pair in found.items() if pair.p is not None]
    for place, p in zip(known, holm([found[place].p or 0.0 for place in known]), strict=True):
        found[place] = _judged(found[place], p, len(known))
    found = dict(zip(found, judged_by_signs(list(found.values()), larger), strict=True))
    if every or len(ends) <= MOST_PAIRS:
        return list(found.values()), ""
    note = f"only differences from the best; --pairs shows all; p is corrected for all {len(known)} pairs"
    return [pair for (i, _), pair in found.items() if i == 0], note


def _judged(pair: Pair, p: float, pairs: int) -> Pair:
    """A pair with p corrected for the number of pairs: significance by its interval alone may not survive."""
    said = pair.verdict if p < 0.05 or pair.verdict == UNSHOWN else f"{UNSHOWN} among {pairs} pairs"
    return pair._replace(p=p, verdict=said)


def _pair(one: Group, two: Group, metric: str, larger: bool | None) -> Pair | None:
    first, second = scores_of(one, metric), scores_of(two, metric)
    if len({len(scores) for scores in (*first, *second)}) != 1:
        return None
    if one.mixed or two.mixed:  # runs with different settings do not sample one algorithm: these checkpoints only
        first, second = [np.mean(first, axis=0)], [np.mean(second, axis=0)]
    found = difference(np.stack(first), np.stack(second))
    if found is None:
        return None
    seeds = f"{len(scores_of(one, metric))} and {len(scores_of(two, metric))}"
    if found.half is None or abs(found.mean) <= found.half:
        verdict = UNSHOWN
    elif larger is None:
        verdict = "different"
    else:
        verdict = f"{(one if (found.mean > 0) == larger else two).label} better"
    claim = "algorithms" if found.crossed else "checkpoints"
    shares = (of_group(one, metric, larger).worst_share, of_group(two, metric, larger).worst_share)
    of_mean = (found.mean, found.half, claim, seeds, found.tasks, found.lost, found.p, verdict)
    more, less, sign_p = found.signs
    return Pair(one.label, two.label, *of_mean, (more, less), sign_p, barred(*shares, found))


# -- numbers -----------------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 4) -> str:
    """Four significant digits; nothing for None."""
    if value is None:
        return ""
    text = f"{value if abs(value) > 1e-15 else 0:.{digits}g}"
    return f"{value:.0f}" if "e+" in text and abs(value) < 1e7 else text


def p_words(value: float | None) -> str:
    """Two significant digits; nothing for None."""
    return "" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sum(values: Any) -> int | None:
    kept = [value for value in values if _number(value)]
    return int(sum(kept)) if kept else None


def _mean(values: Any) -> float | None:
    kept = [float(value) for value in values if _number(value)]
    return sum(kept) / len(kept) if kept else None


def _words(values: Any) -> str | None:
    kept = dict.fromkeys(show(value) for value in values if value is not None)
    return "/".join(kept) if kept else None
