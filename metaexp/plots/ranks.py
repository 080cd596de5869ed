"""Average ranks of methods over task families, with the rank in every family and what is shown to differ."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metaexp.plots.style import GREY, method_look, new_figure, tidy


def average_ranks(
    names: Sequence[str],
    ranks: np.ndarray,
    better: Mapping[int, Sequence[int]],
    title: str = "",
    below: str = "",
    looks: Mapping[str, tuple[str, str]] | None = None,
) -> Figure:
    """One row per method, the best on top: its average rank as a dot, its rank in every family as a faint point.

    Args:
        names: of the methods, in any order.
        ranks: [families, methods], 1 the best.
        better: place of a method -> the places of those that it is shown to be better than. They are named at the right
            by the numbers of their rows.
        below: a line under the axis.
        looks: name -> colour and marker; default: those of the method of that name.
    """
    mean = ranks.mean(axis=0)
    order = sorted(range(len(names)), key=lambda i: (mean[i], names[i]))
    row = {method: place + 1 for place, method in enumerate(order)}
    figure = new_figure(9, 1.7 + 0.42 * max(len(order), 3), title)
    axes = figure.subplots()
    tidy(axes, "rank within a family (1: best)" + (f"\n{below}" if below else ""))
    turns = np.linspace(-0.24, 0.24, len(ranks)) if len(ranks) > 1 else np.zeros(1)
    for place, method in enumerate(order):
        name = names[method]
        colour, marker = (looks or {}).get(name) or method_look(name)
        axes.plot([1, len(order)], [place, place], color=GREY, linewidth=0.6, alpha=0.4, zorder=0)
        axes.plot(ranks[:, method], place + turns, ".", color=colour, alpha=0.35, markersize=7, zorder=1)
        axes.plot(mean[method], place, marker, color=colour, markersize=9, zorder=3, mec="white", mew=0.8)
        axes.annotate(f"{mean[method]:.2f}", (mean[method], place), (0, 9), textcoords="offset points", ha="center",
                      fontsize=9.5, color=colour)  # fmt: skip
        beaten = sorted(row[other] for other in better.get(method, ()))
        if beaten:
            axes.text(1.015, place, f"better than {', '.join(map(str, beaten))}", transform=axes.get_yaxis_transform(),
                      color=colour, va="center", fontsize=10.5)  # fmt: skip
    axes.set_yticks(range(len(order)), [f"{row[method]}  {names[method]}" for method in order])
    axes.set_ylim(len(order) - 0.5, -0.6)
    axes.set_xlim(0.7, len(order) + 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(11, integer=True))
    return figure
