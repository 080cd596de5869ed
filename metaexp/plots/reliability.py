"""Pictures of a test's outcome: the metric against the number of support examples, the reliability diagram."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullLocator

from metaexp.evaluation.calibration import calibration, curve, whole
from metaexp.plots.baselines import draw_floors, floor_levels
from metaexp.plots.episodes import band
from metaexp.plots.style import BLACK, BLUE, SKY, VERMILION, legend, new_figure, tidy

NAMES = {
    "": "support and one query at a time",
    "_transductive": "all queries in one batch",
    "_support": "statistics of the support",
}


def shots_picture(
    metric: str,
    shots: Sequence[int],
    scores: np.ndarray,
    floors: Mapping[str, np.ndarray] | None = None,
    title: str = "",
) -> Figure:
    """The metric after the last step against the number of support examples: mean over tasks with its 95 % band.

    Args:
        metric: its name, for the axis.
        shots: numbers of support examples (per class), ascending.
        scores: [tasks, len(shots)]. Tasks with a score that is not finite are left out and counted.
        floors: what the curve must beat, by name: [tasks, len(shots)] each.
        title: of the figure.
    """
    mean, width, lost = band(scores)
    levels = floor_levels({name: band(values)[0] for name, values in (floors or {}).items()})
    figure = new_figure(9, 4.8, title)
    axes = figure.subplots()
    tidy(axes, "support examples (per class, where there are classes)", metric)
    x = np.array(shots, dtype=np.float64)
    if (x > 0).all() and len(x) > 1:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(x.tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    draw_floors(axes, levels, mean, x)
    axes.fill_between(x, mean - width, mean + width, color=BLUE, alpha=0.22, linewidth=0)
    label = f"mean of {len(scores) - lost} tasks, 95 % band"
    axes.plot(x, mean, color=BLUE, linewidth=2.2, marker="o", markersize=5, label=label)
    for at, value in zip(x, mean, strict=True):
        if np.isfinite(value):
            text, shift = f"{value:.3g}", (0, 7)
            told = axes.annotate(text, (at, value), shift, textcoords="offset points", ha="center", fontsize=11)
            told.set(color=BLUE, path_effects=[withStroke(linewidth=3, foreground="white")])  # over the floors' lines
    if lost:
        text = f"{lost} of {len(scores)} tasks not finite: left out"
        axes.text(0.5, 1.01, text, transform=axes.transAxes, ha="center", va="bottom", color=VERMILION, weight="bold")
    axes.margins(x=0.04, y=0.12)
    legend(figure, axes, 3 if len(levels) > 2 else 6)
    return figure


def reliability(sums: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """Accuracy against confidence, bin by bin, with the share of queries in each; a panel per mode of the test.

    Args:
        sums: suffix of the mode -> bin sums of every task, [tasks, 3, bins], see `metaexp.evaluation.calibration`.
        title: of the figure.
    """
    figure = new_figure(max(5.4, 3.9 * len(sums)), 5.4, title)
    panels = figure.subplots(2, len(sums), sharex=True, squeeze=False, height_ratios=[3, 1])
    for place, (suffix, values) in enumerate(sums.items()):
        upper, lower = panels[:, place]
        told, total = calibration(values), values[whole(values)].sum(0)
        share, confidence, right = curve(total)
        edges = np.linspace(0, 1, len(share) + 1)
        tidy(upper, "", "fraction right" if place == 0 else "")
        upper.bar(edges[:-1], right, np.diff(edges), align="edge", color=SKY, alpha=0.55, edgecolor="white")
        upper.plot([0, 1], [0, 1], color=BLACK, linewidth=1, linestyle="--", label="calibrated")
        upper.plot(confidence, right, color=BLUE, linewidth=1.2, label="found (larger: more queries)")
        upper.scatter(confidence, right, s=8 + 300 * share, color=BLUE, edgecolors="white", linewidths=0.5, zorder=3)
        upper.set(xlim=(0, 1), ylim=(0, 1))
        named = f"{NAMES.get(suffix, suffix.strip('_'))}\nerror" if len(sums) > 1 else "expected calibration error"
        low, high = told["ci95"] or (np.nan, np.nan)
        value = "not finite" if told["value"] is None else f"{told['value']:.3g} (95 %: {low:.3g} to {high:.3g})"
        upper.set_title(f"{named} {value}", fontsize=11)
        tidy(lower, "confidence (largest probability)", "queries" if place == 0 else "")
        lower.bar(edges[:-1], share, np.diff(edges), align="edge", color=SKY, edgecolor="white")
        lower.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    legend(figure, panels[0, 0])
    return figure
