"""How every picture looks: colours, panels, axes, legends. No pyplot, no global state.

Colours are those of Okabe and Ito 2008, "Color Universal Design".
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

if TYPE_CHECKING:
    from torch import Tensor  # metaexp.report draws without torch

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8C8C8C"
METHODS: dict[str, tuple[str, str]] = {  # colour and marker of each method, the same in every picture
    "maml": (BLUE, "o"),
    "fomaml": (SKY, "o"),
    "reptile": (ORANGE, "o"),
    "anil": (GREEN, "o"),
    "boil": (PURPLE, "o"),
    "metasgd": (VERMILION, "o"),
    "cavia": (BLACK, "o"),
    "imaml": (BLUE, "s"),
    "l2l": (SKY, "s"),
    "protonet": (ORANGE, "s"),
    "r2d2": (GREEN, "s"),
    "cnp": (PURPLE, "s"),
    "acnp": (VERMILION, "s"),
    "hypernet": (BLACK, "s"),
    "incontext": (BLUE, "D"),
    "mother": (SKY, "D"),
    "joint": (ORANGE, "D"),
    "scratch": (GREEN, "D"),
    "neighbour": (PURPLE, "D"),
    "mean": (VERMILION, "D"),
    "oracle": (BLACK, "D"),
    "hausdorff": (BLUE, "p"),
    "maml_pg": (SKY, "p"),
    "rl2": (ORANGE, "p"),
    "dpt": (GREEN, "p"),
    "nominal": (PURPLE, "p"),
    "psrl": (VERMILION, "p"),
    "informed": (BLACK, "p"),
    "random": (BLUE, "h"),
    "greedy": (SKY, "h"),
    "epsilon_greedy": (ORANGE, "h"),
    "ucb1": (GREEN, "h"),
    "thompson": (PURPLE, "h"),
    "gittins": (VERMILION, "h"),
    "optimal": (BLACK, "h"),
}
COLOURS, MARKERS = (BLUE, SKY, ORANGE, GREEN, PURPLE, VERMILION, BLACK), ("^", "v", "P", "X")  # of all others
DPI = 130  # 9 inches wide: 1170 pixels, and text of 10 points is still clear at 900


BOARD_WIDTH, BOARD_TEXT = 4.95, 0.82  # inches, and the size of text, of a figure as TensorBoard shows it


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


def limit(axes: Axes, values: np.ndarray, also: np.ndarray | None = None) -> None:
    """Sets vertical limits around these values, whatever else is drawn.

    Args:
        also: [n] or [lines, n], further values. Those of a line are shown too if they reach out by at most the range of
            the first: a prediction that diverged must not squash the task into a line. `mark_outside` marks the rest.
    """
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    reach, ends = high - low, (low, high)
    for row in () if also is None else np.atleast_2d(also):
        row = row[np.isfinite(row)]
        if len(row) and row.min() >= ends[0] - reach:
            low = min(low, float(row.min()))
        if len(row) and row.max() <= ends[1] + reach:
            high = max(high, float(row.max()))
    margin = 0.15 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)


def log_if_wide(axes: Axes, values: np.ndarray, larger_is_better: bool | None = None) -> None:
    """Makes the vertical axis logarithmic, with plain numbers, if positive values span more than a factor of 10.

    Never where larger values are better: an accuracy of 0.9 instead of 0.8 is as far on the axis as 0.2 instead of 0.1.
    """
    values = values[np.isfinite(values)]
    if larger_is_better or not len(values) or values.min() <= 0 or values.max() <= 10 * values.min():
        return
    axes.set_yscale("log", nonpositive="clip")
    marks = (1.0, 2.0, 5.0) if values.max() < 1e3 * values.min() else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=marks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def method_look(name: str) -> tuple[str, str]:
    """Colour and marker of a method; of one that is not in `METHODS`, by its name alone, so they stay what they are."""
    if name in METHODS:
        return METHODS[name]
    place = zlib.crc32(name.encode())
    return COLOURS[place % len(COLOURS)], MARKERS[place // len(COLOURS) % len(MARKERS)]


def resize(figure: Figure, width: float) -> None:
    """Makes a figure `width` inches wide for print: the text shrinks less than the figure and stays readable.

    A column of a paper is about 3.3 inches wide and its text has 7 to 9 points. The height shrinks less than the width.
    """
    was, high = figure.get_size_inches()
    if width == was:
        return
    share = width / was
    size = min(max(share, 0.62), 1.0)  # of text, lines and markers: 11 points become at least 6.8
    for artist, name, value in _sizes(figure):
        getattr(artist, f"set_{name}")(value * size)
    figure.set_size_inches(width, high * max(share, size))
    for old in list(figure.legends):  # with as many columns as fit
        _legend_that_fits(figure, old, width, size)
        old.remove()


@contextmanager
def on_a_board(figure: Figure) -> Iterator[None]:
    """Within this context the figure has the form in which TensorBoard shows it: readable 360 pixels wide.

    There a figure of 9 inches is shown with 40 pixels to the inch, so that 12 points are 7 pixels. Half as wide, with
    text that is nearly as large, the same letters have 11.
    """
    was, high = figure.get_size_inches()
    sizes, old = _sizes(figure), list(figure.legends)
    width, size = min(was, BOARD_WIDTH), BOARD_TEXT
    for artist, name, value in sizes:
        getattr(artist, f"set_{name}")(value * (size if isinstance(artist, Text) else 0.75))
    figure.set_size_inches(width, high * min(1.0, 1.45 * width / was))
    new = [_legend_that_fits(figure, one, width, size) for one in old]
    for one in old:
        one.set_visible(False)
        one.set_in_layout(False)
    yield
    for one in new:
        one.remove()
    for one in old:
        one.set_visible(True)
        one.set_in_layout(True)
    for artist, name, value in sizes:
        getattr(artist, f"set_{name}")(value)
    figure.set_size_inches(was, high)


def _sizes(figure: Figure) -> list[tuple[Any, str, float]]:
    """Text, lines and markers, each with the name of its size and the size."""
    found: list[tuple[Any, str, float]] = []
    for text in figure.findobj(Text):
        found.append((text, "fontsize", float(text.get_fontsize())))
    for line in figure.findobj(Line2D):
        found += [(line, "linewidth", line.get_linewidth()), (line, "markersize", line.get_markersize())]
    return found


def _legend_that_fits(figure: Figure, old: Legend, width: float, size: float) -> Legend:
    """A copy of a legend under the figure, with as many columns as fit into `width` inches."""
    handles, labels = old.legend_handles, [text.get_text() for text in old.get_texts()]
    fits = max(1, int(width * 72 / (size * 11 * (0.55 * max(map(len, labels), default=1) + 3.2))))
    return figure.legend(
        [handle for handle in handles if handle is not None],
        labels,
        loc="outside lower center",
        ncols=min(len(labels), fits),
        frameon=False,
        fontsize=11 * size,
        handlelength=1.6,
        columnspacing=1.0,
        handletextpad=0.5,
    )


def whole_numbers(axes: Axes, most: int = 11) -> None:
    """Horizontal ticks at integers only."""
    axes.xaxis.set_major_locator(MaxNLocator(most, integer=True))
