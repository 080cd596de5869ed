"""How every picture looks: colours, panels, axes, legends. No pyplot, no global state.

Colours are those of Okabe and Ito 2008, "Color Universal Design".
"""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

if TYPE_CHECKING:
    from torch import Tensor  # metaexp.report draws without torch

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8C8C8C"
DPI = 130  # 9 inches wide: 1170 pixels, and text of 10 points is still clear at 900


def array(tensor: "Tensor") -> np.ndarray:
    """A tensor on any device as float64 numbers."""
    return tensor.detach().cpu().double().numpy()


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty white figure, inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    if title:
        figure.suptitle(title, fontsize=13)
    return figure


def tidy(axes: Axes, x: str = "", y: str = "") -> None:
    """Axis names, a light grid, no box."""
    axes.set_xlabel(x, fontsize=12)
    axes.set_ylabel(y, fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def new_panels(count: int, title: str, height: float | None = None, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure of `count` axes in rows of at most `columns`, as even as possible: four become two by two."""
    rows = -(-count // columns)
    columns = -(-count // rows)
    figure = new_figure(9, height or 0.9 + 2.6 * rows, title)
    panels: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        tidy(axes)
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def legend(figure: Figure, axes: Axes, columns: int = 6) -> None:
    """One legend under the whole figure, from one of its axes."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), columns),
        frameon=False,
        fontsize=11,
        handlelength=1.6,
        columnspacing=1.3,
        handletextpad=0.5,
    )


def shades(count: int) -> list[tuple[float, ...]]:
    """`count` blues from light to dark; a single one is dark."""
    light, dark = np.array([0.60, 0.80, 0.95]), np.array([0.0, 0.27, 0.55])
    return [tuple(dark + (light - dark) * share) for share in np.linspace(min(count - 1, 1), 0, count)]


def step_name(step: int) -> str:
    """The legend's name for the prediction after `step` inner steps."""
    return "before adaptation" if step == 0 else f"after {step} step" + "s" * (step > 1)


def limit(axes: Axes, values: np.ndarray) -> None:
    """Sets vertical limits around these values, whatever else is drawn."""
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    margin = 0.15 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)


def log_if_wide(axes: Axes, values: np.ndarray) -> None:
    """Makes the vertical axis logarithmic, with plain numbers, if positive values span more than a factor of 10."""
    values = values[np.isfinite(values)]
    if not len(values) or values.min() <= 0 or values.max() <= 10 * values.min():
        return
    axes.set_yscale("log", nonpositive="clip")
    marks = (1.0, 2.0, 5.0) if values.max() < 1e3 * values.min() else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=marks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def whole_numbers(axes: Axes, most: int = 11) -> None:
    """Horizontal ticks at integers only."""
    axes.xaxis.set_major_locator(MaxNLocator(most, integer=True))
