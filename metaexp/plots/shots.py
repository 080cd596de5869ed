"""The curve against the number of support examples."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullLocator

from metaexp.evaluation.shots_curve import columns_of, worse_than
from metaexp.plots.baselines import LOOKS, OTHER, far_below
from metaexp.plots.style import BLUE, legend, log_if_wide, new_figure, tidy

ROOM = 0.12  # of the drawn range, left free above and below


def shots_picture(
    metric: str,
    shots: Sequence[int],
    scores: np.ndarray,
    baselines: Mapping[str, np.ndarray] | None = None,
    title: str = "",
    larger_is_better: bool | None = None,
) -> Figure:
    """The metric after adaptation against the number of support examples: median and quartiles over tasks.

    A few tasks on which adaptation diverges would make a mean useless. It stands beside the median as a diamond where
    the axis, which the quartiles and the baselines' medians set, reaches it. Below each number of shots stands on how
    many tasks the method is worse than the mean predictor; a score that is not finite is worse.

    Args:
        metric: its name, for the axis.
        shots: numbers of support examples (per class), ascending.
        scores: [tasks, len(shots)]. Scores that are not finite are left out and counted.
        baselines: what the curve must beat, by name: [tasks, len(shots)] each.
        title: of the figure.
        larger_is_better: direction of the metric.
    """
    kept = columns_of(scores)
    low, middle, high = (np.array([_quantile(column, share) for column in kept]) for share in (0.25, 0.5, 0.75))
    mean = np.array([column.mean() if len(column) else np.nan for column in kept])
    floors = {name: np.array([_quantile(c, 0.5) for c in columns_of(v)]) for name, v in (baselines or {}).items()}
    figure = new_figure(9, 5.2, title)
    axes = figure.subplots()
    counted = "mean" in (baselines or {}) and larger_is_better is not None
    below = "\nbelow each number: tasks worse than the mean predictor" if counted else ""
    tidy(axes, f"support examples (per class, where there are classes){below}", f"{metric}, median over tasks")
    x = np.array(shots, dtype=np.float64)
    if (x > 0).all() and len(x) > 1:
        axes.set_xscale("log")
    seen = np.concatenate([low, middle, high])
    placed = {name: value for name, value in floors.items() if not far_below(value, middle)}
    inside = np.concatenate([seen, *(value for value in placed.values() if larger_is_better or (value > 0).all())])
    log_if_wide(axes, inside, larger_is_better)
    for name, value in floors.items():
        colour, dashes = LOOKS.get(name, OTHER)
        there = name in placed and (axes.get_yscale() == "linear" or (value > 0).all())
        axes.plot(
            x if there else np.empty(0),
            value if there else np.empty(0),
            color=colour,
            linestyle=dashes,
            linewidth=1.8,
            label=f"{name}: {value[-1]:.3g}",
        )
    axes.fill_between(x, low, high, color=BLUE, alpha=0.2, linewidth=0, label="half of the tasks")
    axes.plot(x, middle, color=BLUE, linewidth=2.2, marker="o", markersize=5, label="median")
    bottom, top = _limits(inside[np.isfinite(inside)], axes.get_yscale() == "log")
    reached = np.isfinite(mean) & (mean >= bottom) & (mean <= top)
    axes.plot(x[reached], mean[reached], "D", mfc="white", color=BLUE, markersize=5, label="mean")
    axes.set_ylim(bottom, top)
    for at, value in zip(x, middle, strict=True):
        if np.isfinite(value):
            note = axes.annotate(
                f"{value:.3g}", (at, value), (0, 7), textcoords="offset points", ha="center", fontsize=11
            )
            note.set(color=BLUE, path_effects=[withStroke(linewidth=3, foreground="white")])  # over the lines
    axes.xaxis.set_major_locator(FixedLocator(x.tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(x, _below(shots, scores, kept, baselines or {}, larger_is_better))
    axes.margins(x=0.04)
    if (far := int((~reached).sum())) > 0:
        text = f"mean beyond the axis at {far} of {len(x)}: compare medians"
        axes.text(0.5, 1.01, text, transform=axes.transAxes, ha="center", va="bottom", fontsize=11)
    legend(figure, axes, 3)
    return figure


def _below(
    shots: Sequence[int],
    scores: np.ndarray,
    kept: Sequence[np.ndarray],
    baselines: Mapping[str, np.ndarray],
    larger_is_better: bool | None,
) -> list[str]:
    """The label of each number of shots, with what the median hides."""
    labels = []
    for place, number in enumerate(shots):
        text = f"{number}"
        if "mean" in baselines and larger_is_better is not None:
            worse = worse_than(scores[:, place], baselines["mean"][:, place], larger_is_better)
            text += f"\n{worse} of {len(scores)}"
        if (lost := len(scores) - len(kept[place])) > 0:
            text += f"\n{lost} not finite"
        labels.append(text)
    return labels


def _quantile(values: np.ndarray, share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else float("nan")


def _limits(values: np.ndarray, log: bool) -> tuple[float, float]:
    """The axis around these values."""
    if not len(values):
        return 0.0, 1.0
    low, high = (np.log(f) if log else f for f in (float(values.min()), float(values.max())))
    room = ROOM * (high - low) or 0.5
    ends = low - room, high + room
    return (float(np.exp(ends[0])), float(np.exp(ends[1]))) if log else ends
