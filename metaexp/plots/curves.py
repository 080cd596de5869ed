"""Curves of numbers: a metric against inner steps or outer steps.

Every function returns a `matplotlib.figure.Figure` that the caller owns (no pyplot, no global state).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from metaexp.evaluation.intervals import band
from metaexp.metric_names import near
from metaexp.plots.baselines import baseline_levels, draw_baselines
from metaexp.plots.dots import dots, say_lost
from metaexp.plots.style import (
    BLUE,
    GREY,
    SKY,
    legend,
    log_if_wide,
    new_figure,
    new_panels,
    tidy,
    whole_numbers,
)

FEW = 3  # points of a line that are marked


def adaptation_curve(
    metric: str,
    scores: np.ndarray,
    baselines: Mapping[str, float | np.ndarray] | None = None,
    title: str = "",
    larger_is_better: bool | None = None,
    method: str = "this method",
) -> Figure:
    """The metric against inner steps: mean over tasks with its 95 % band; without inner steps, `dots` instead.

    Args:
        metric: its name, for the axis.
        scores: [tasks, steps + 1], one row per task. Tasks with a non-finite score are left out and counted.
        baselines: what the curve must beat, by name: one number, or a curve over steps [steps + 1].
        title: of the figure.
        larger_is_better: direction of the metric.
        method: whose scores these are, where they are a single dot.
    """
    if scores.shape[1] == 1:
        found = {name: (float(np.atleast_1d(value)[-1]), None) for name, value in (baselines or {}).items()}
        return dots(metric, {method: scores[:, 0]}, found, title, larger_is_better)
    mean, width, lost = band(scores)
    figure = new_figure(9, 4.8, title)
    axes = figure.subplots()
    tidy(axes, "inner steps", metric)
    whole_numbers(axes)
    steps, last = np.arange(len(mean)), len(mean) - 1
    levels = baseline_levels(baselines or {})
    draw_baselines(axes, levels, mean, larger_is_better=larger_is_better)
    axes.fill_between(steps, mean - width, mean + width, color=BLUE, alpha=0.22, linewidth=0)
    label = f"mean of {len(scores) - lost} tasks, 95 % band"
    axes.plot(steps, mean, color=BLUE, linewidth=2.2, marker="o", markersize=5, label=label)
    rising = mean[-1] > mean[0]
    for step, shift, side in ((0, (8, -12 if rising else 5), "left"), (last, (4, 9), "right")):
        if np.isfinite(mean[step]):
            text = f"{mean[step]:.3g}"
            axes.annotate(text, (step, mean[step]), shift, textcoords="offset points", ha=side, color=BLUE, fontsize=12)
    if lost:
        say_lost(axes, lost, len(scores))
    axes.set_xlim(-0.03 * last, last * 1.03)
    axes.margins(y=0.12)
    legend(figure, axes, 3 if len(levels) > 2 else 6)
    return figure


def training_curve(
    rows: Sequence[Mapping[str, Any]], metric: str, title: str = "", larger_is_better: bool | None = None
) -> Figure:
    """Outer loss and the validation metric against outer steps.

    Args:
        rows: rows of metrics.jsonl of kind "train" (outer_loss) and "val" (the metric's curve and its baselines).
        metric: name of the validation metric; if there is none of that name, the one with which this name begins.
        title: of the figure.
        larger_is_better: direction of the metric.
    """
    figure, (left, right) = new_panels(2, title, height=4.6)
    tidy(left, "outer step", "outer loss")
    tidy(right, "outer step", f"validation {metric}")
    step, loss = _series([(row["step"], row.get("outer_loss")) for row in rows if row["kind"] == "train"])
    few = "o" if len(loss) <= FEW else ""  # a line through one point is not seen
    left.plot(step, loss, color=SKY, linewidth=1.0, marker=few, markersize=4, label="as logged")
    if (n := len(loss) // 20) > 1:  # a centred mean does not lag behind
        smooth_step, smooth = (np.convolve(values, np.ones(n) / n, mode="valid") for values in (step, loss))
        left.plot(smooth_step, smooth, color=BLUE, linewidth=2.2, label=f"mean of {n}")
    log_if_wide(left, loss)

    validations = [row for row in rows if row["kind"] == "val"]
    baselines: dict[str, Mapping[str, Any]] = validations[-1].get("floors", {}) if validations else {}
    found = {name: near(values, metric) for name, values in baselines.items()}
    levels = baseline_levels({name: value for name, value in found.items() if value is not None})
    lines = []
    for place, label, colour in ((0, "before", GREY), (-1, "after", BLUE)):
        curves = [(row["step"], (near(row, metric) or {}).get("per_step") or [{}]) for row in validations]
        step, value = _series([(at, curve[place].get("mean")) for at, curve in curves if place or len(curve) > 1])
        lines.append((step, value, f"{label} adaptation", colour))
    draw_baselines(right, levels, np.concatenate([value for _, value, *_ in lines]), larger_is_better=larger_is_better)
    for step, value, label, colour in lines:
        right.plot(step, value, color=colour, linewidth=2.2, marker="o", markersize=4, label=label)
    for axes in (left, right):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, frameon=False, fontsize=11)
    return figure


def _series(found: Sequence[tuple[int, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values [k] each, without those that are None; a value may be the word "NaN"."""
    pairs = np.array([(step, float(value)) for step, value in found if value is not None], dtype=np.float64)
    return pairs.reshape(-1, 2)[:, 0], pairs.reshape(-1, 2)[:, 1]
