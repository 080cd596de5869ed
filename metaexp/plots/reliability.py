"""The reliability diagram: accuracy against confidence."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from metaexp.evaluation.calibration import calibration, curve, whole
from metaexp.metric_names import SUFFIXES
from metaexp.plots.style import BLACK, BLUE, SKY, legend, new_figure, tidy

NAMES = {
    SUFFIXES["single"]: "support and one query at a time",
    SUFFIXES["queries"]: "all queries in one batch",
    SUFFIXES["support"]: "statistics of the support",
}


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
        summary, total = calibration(values), values[whole(values)].sum(0)
        share, confidence, right = curve(total)
        edges = np.linspace(0, 1, len(share) + 1)
        tidy(upper, "", "fraction right" if place == 0 else "")
        upper.bar(edges[:-1], right, np.diff(edges), align="edge", color=SKY, alpha=0.55, edgecolor="white")
        upper.plot([0, 1], [0, 1], color=BLACK, linewidth=1, linestyle="--", label="calibrated")
        upper.plot(confidence, right, color=BLUE, linewidth=1.2, label="found (larger: more queries)")
        upper.scatter(confidence, right, s=8 + 300 * share, color=BLUE, edgecolors="white", linewidths=0.5, zorder=3)
        upper.set(xlim=(0, 1), ylim=(0, 1))
        named = f"{NAMES.get(suffix, suffix.strip('_'))}\nerror" if len(sums) > 1 else "expected calibration error"
        value = "not finite" if summary["value"] is None else f"{summary['value']:.3g}"
        if summary["ci95"] is not None:
            low, high = summary["ci95"]
            value = f"{summary['corrected']:.3g} (95 %: {low:.3g} to {high:.3g})"
        upper.set_title(f"{named} {value}", fontsize=11)
        tidy(lower, "confidence (largest probability)", "queries" if place == 0 else "")
        lower.bar(edges[:-1], share, np.diff(edges), align="edge", color=SKY, edgecolor="white")
        lower.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    legend(figure, panels[0, 0])
    return figure
