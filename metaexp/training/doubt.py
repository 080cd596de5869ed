"""Whether a training has led anywhere: a line for a run that ends at chance or below a floor, or tests step 0."""

from collections.abc import Sequence
from typing import Any

from metaexp.metric_names import forms, near, split_name

BEFORE = "the untrained network"
PARENT = "the weights that it started from"
NAMES = {
    "mean": "predicting the mean of the support targets (chance, for classes)",
    "random": "acting at random",
    "scratch": BEFORE,
    "parent": PARENT,
}
FALLEN = 0.02  # share by which an outer loss must fall to count as fallen


def doubt(
    rows: Sequence[dict[str, Any]],
    metrics: dict[str, bool | None],
    steps: int,
    tested: int | None = None,
    judged: str | None = None,
) -> str | None:
    """The line, with the likely cause; None if training has led beyond both floors and its weights are tested.

    Args:
        rows: of metrics.jsonl.
        metrics: the learner's metrics in their order, with their direction (None: neither; such a metric is passed
            over). The first one that a floor has too is compared with it, in its first mode.
        steps: outer steps done.
        tested: the step of the tested weights; 0 after training is said.
        judged: the metric by which they were chosen, as in result.json.
    """
    validations = [row for row in rows if row.get("kind") == "val"]
    if not validations or not steps or not validations[-1].get("floors"):
        return None
    lines = [_untrained(validations, metrics, judged)] if tested == 0 else []
    if below := _below(rows, validations[-1], metrics):
        lines.append(below)
    return "; ".join(lines) or None


def _untrained(validations: Sequence[dict[str, Any]], metrics: dict[str, bool | None], judged: str | None) -> str:
    """That the weights before training are tested, with the validations that say so."""
    started = "parent" in validations[0]["floors"]
    before = "those it started from" if started else "before any meta-training"
    line = f"the tested weights are those of step 0, {before}: no later validation was better"
    name = judged or next(iter(metrics), "")
    name = name if name in validations[0] else next(iter(forms(name, validations[0])), "")
    means = [row[name]["mean"] for row in validations if name in row and not row[name]["diverged"]]
    if len(means) < 2:
        return line
    best = min(means[1:]) if metrics.get(split_name(name).metric) is False else max(means[1:])
    return f"{line} ({name} {means[0]:.4g}, then {best:.4g} at best)"


def _below(rows: Sequence[dict[str, Any]], row: dict[str, Any], metrics: dict[str, bool | None]) -> str | None:
    """The line about a last validation that is no better than a floor."""
    floors = row["floors"]
    for metric, larger in metrics.items():
        names = forms(metric, row)
        if larger is None or not names:
            continue
        name, sign = names[0], 1 if larger else -1
        found = row[name]
        known = {floor: near(floors.get(floor, {}), name) for floor in NAMES}
        if all(known[floor] is None for floor in ("mean", "random")):
            continue
        failed = [floor for floor, value in known.items() if value is not None and not _above(found, value, sign)]
        if not failed:
            return None
        beside = " and ".join(f"{NAMES[floor]} ({known[floor]:.4g})" for floor in failed)
        return (
            f"validation {name} {_shown(found['mean'])} is no better than {beside}: {_cause(rows, found, known, sign)}"
        )
    return None


def _above(found: dict[str, Any], floor: float, sign: int) -> bool:
    return found["mean"] is not None and sign * (found["mean"] - floor) > (found["ci95"] or 0.0)


def _shown(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _cause(rows: Sequence[dict[str, Any]], found: dict[str, Any], floors: dict[str, float | None], sign: int) -> str:
    """What most likely went wrong, and what to change."""
    path = [step["mean"] for step in found.get("per_step") or []]
    worst_floor = max((sign * value for value in floors.values() if value is not None), default=0.0)
    adapts = len(path) > 1  # by inner steps; other methods have no such settings
    lower = "lower algo.inner_lr (or algo.test_lr), or take fewer algo.test_steps" if adapts else "lower optimizer.lr"
    if found.get("diverged"):
        return f"adaptation diverges on {found['diverged']} tasks; {lower}"
    if adapts and path[-1] is not None:
        known = [(sign * value, place) for place, value in enumerate(path) if value is not None]
        best, place = max(known)
        if place < len(path) - 1 and best - sign * path[-1] > 0.1 * abs(path[-1]):
            return f"it is {sign * best:.4g} after {place} of {len(path) - 1} inner steps, the others hurt; {lower}"
    if found.get("median") is not None and sign * found["median"] > worst_floor:
        return f"a few tasks spoil the mean (median {found['median']:.4g}); {lower}"
    losses = [row["outer_loss"] for row in rows if row.get("kind") == "train" and "outer_loss" in row]
    if len(losses) < 2:
        return "too few outer steps to tell why; raise steps"
    first, last = losses[0], losses[-1]
    if last > first - FALLEN * abs(first):
        inner = "algo.inner_lr, more algo.inner_steps, another " if adapts else ""
        return (
            f"the outer loss has not fallen ({first:.4g} to {last:.4g}); try another {inner}optimizer.lr, or more steps"
        )
    before, what = floors.get("scratch"), BEFORE
    if before is None:
        before, what = floors.get("parent"), PARENT
    if before is not None and sign * (found["mean"] - before) < -(found["ci95"] or 0.0):
        return (
            f"the outer loss has fallen ({first:.4g} to {last:.4g}) and validation tasks got worse: training loses "
            f"what {what} can do; lower optimizer.lr, or take more training tasks"
        )
    return (
        f"the outer loss has fallen ({first:.4g} to {last:.4g}) without reaching validation tasks; raise steps, or "
        "there are too few training tasks"
    )
