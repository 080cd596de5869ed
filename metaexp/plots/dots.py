"""Sorted dots with intervals: one number per method, for methods without inner steps and for many methods at once."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from metaexp.evaluation.intervals import over_tasks
from metaexp.plots.baselines import LOOKS, far_below
from metaexp.plots.style import GREY, VERMILION, method_look, new_figure, tidy

Known = tuple[float, float | None]  # a mean, and the half-width of its 95 % interval if it has one


def say_lost(axes: Axes, lost: int, tasks: int) -> None:
    """Writes above the axes how many tasks are left out because a score is not finite."""
    text = f"{lost} of {tasks} tasks not finite: left out"
    axes.text(0.5, 1.01, text, transform=axes.transAxes, ha="center", va="bottom", color=VERMILION, weight="bold")


def dots(
    metric: str,
    scores: Mapping[str, np.ndarray],
    baselines: Mapping[str, Known] | None = None,
    title: str = "",
    larger_is_better: bool | None = None,
) -> Figure:
    """One row per method, the best on top: the mean over tasks with its 95 % interval; baselines are open dots.

    Args:
        metric: its name, for the axis.
        scores: method -> [tasks]. Tasks with a non-finite score are left out and counted.
        baselines: name -> its mean and half-width.
        title: of the figure.
        larger_is_better: direction of the metric; the axis is then never logarithmic.
    """
    found: dict[str, Known] = {}
    lost = 0
    for name, values in scores.items():
        mean, half = over_tasks(values)
        found[name], lost = (np.nan if mean is None else mean, half), lost + int((~np.isfinite(values)).sum())
    figure = rows(metric, found, baselines or {}, title, larger_is_better)
    if lost:
        say_lost(figure.axes[0], lost, sum(map(len, scores.values())))
    return figure


def rows(
    metric: str,
    methods: Mapping[str, Known],
    baselines: Mapping[str, Known],
    title: str = "",
    larger_is_better: bool | None = None,
    looks: Mapping[str, tuple[str, str]] | None = None,
) -> Figure:
    """`dots` of numbers that are known: label -> mean and half-width.

    Args:
        looks: label -> colour and marker; default: those of the method of that name.
    """
    every = {**{name: (value, True) for name, value in baselines.items() if name not in methods}}
    every |= {name: (value, False) for name, value in methods.items()}
    sign = -1.0 if larger_is_better else 1.0
    order = sorted(every, key=lambda name: (not np.isfinite(every[name][0][0]), sign * every[name][0][0]))
    figure = new_figure(9, 1.3 + 0.34 * max(len(order), 3), title)
    axes = figure.subplots()
    tidy(axes, metric)
    drawn = np.array([value[0] for value, floor in every.values() if not floor])
    out = [name for name in order if not np.isfinite(every[name][0][0])]
    out += [name for name in baselines if name in every and every[name][1] and far_below(every[name][0][0], drawn)]
    seen = np.array([every[name][0][0] for name in order if name not in out])
    wide = not larger_is_better and len(seen) and seen.min() > 0 and seen.max() > 10 * seen.min()
    for place, name in enumerate(order):
        (mean, half), floor = every[name]
        colour, marker = (looks or {}).get(name) or method_look(name)
        if floor:
            colour = LOOKS.get(name, (GREY, ""))[0]
        text = f"{mean:.3g}" if np.isfinite(mean) else "not finite"
        if name in out or (wide and mean <= 0):
            axes.text(
                0.0, place, f" {text}", transform=axes.get_yaxis_transform(), color=colour, va="center", fontsize=11
            )
            continue
        form: dict[str, Any] = {
            "fmt": marker,
            "color": colour,
            "mfc": "white" if floor else colour,
            "markersize": 7,
            "capsize": 3,
        }
        width = None if half is None else [[min(half, 0.999 * mean) if wide else half], [half]]
        axes.errorbar([mean], [place], xerr=width, label=name, **form)
        axes.annotate(text, (mean, place), (0, 6), textcoords="offset points", ha="center", fontsize=9.5, color=colour)
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if seen.max() < 1e3 * seen.min() else (1.0,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(len(order) - 0.5, -0.6)
    axes.margins(x=0.08)
    return figure
