"""Drawing a method's views of its internal state (`metaexp.algos.views`): points, tables, bars."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from metaexp.algos.views import Bars, Heatmap, Scatter, View
from metaexp.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    array,
    new_figure,
    tidy,
)

CLASSES = np.array([BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY, "#8B4513", "#F0E442"])
MARKERS = "o*^sDvPX"
TICKS = 24  # most names along a side of a table; of more, only some are shown
CELLS = 150  # a table with fewer cells has its numbers written in


def draw(view: View) -> Figure:
    """The picture of a view; raises ValueError if its parts do not fit together."""
    if isinstance(view, Scatter):
        return scatter(view)
    return heatmap(view) if isinstance(view, Heatmap) else bars(view)


def principal(points: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along the two directions of largest variance [n, 2], and the share of the variance of each [2].

    The sign of a direction makes its largest weight positive. Points of one dimension get a second coordinate of 0.
    """
    x = points.detach().cpu().double()
    if x.dim() != 2 or not len(x) or not x.isfinite().all():
        raise ValueError(f"points: must be finite numbers [n, d], not {list(x.shape)}")
    x = x - x.mean(0)
    _, size, axes = torch.linalg.svd(x, full_matrices=False)  # axes [k, d]
    place = axes.abs().argmax(1, keepdim=True)
    axes = axes * torch.where(axes.gather(1, place) < 0, -1.0, 1.0)
    share = size**2 / (size**2).sum().clamp(min=torch.finfo(x.dtype).tiny)
    scores = torch.zeros(len(x), 2, dtype=x.dtype)
    scores[:, : len(size)] = (x @ axes.T)[:, :2]
    shares = torch.cat((share, share.new_zeros(2)))[:2]
    return scores.numpy(), shares.numpy()


def scatter(view: Scatter) -> Figure:
    """Points in the plane, by principal components if they have more than two dimensions, with a marker per kind."""
    n, d = view.points.shape
    if not n == len(view.colour) == len(view.kind):
        raise ValueError(f"{n} points, {len(view.colour)} colours, {len(view.kind)} kinds: must be as many")
    figure = new_figure(9, 6.2, view.title)
    axes = figure.subplots()
    if d > 2:
        points, share = principal(view.points)
        names = [f"component {i + 1} of {d} ({share[i]:.0%} of the variance)" for i in range(2)]
    else:
        points = np.pad(array(view.points), ((0, 0), (0, 2 - d)))
        names = [f"dimension {i + 1}" if i < d else "" for i in range(2)]
    tidy(axes, *names)
    values, classes = array(view.colour), np.unique(array(view.colour))
    whole = not view.colour.is_floating_point()
    scale: dict[str, Any] = {} if whole else {"cmap": "viridis", "vmin": values.min(), "vmax": values.max()}
    colours = _class_colours(len(classes))[np.searchsorted(classes, values)] if whole else values
    words = list(view.kind)
    kinds = sorted(set(words), key=lambda kind: (-words.count(kind), -words.index(kind)))
    for kind, marker in zip(kinds, MARKERS * len(kinds), strict=False):
        at = np.array([one == kind for one in words])
        rare = kind != kinds[0]  # prototypes among queries stand out
        style: dict[str, Any] = {"marker": marker, "s": (260 if marker == "*" else 110) if rare else 42}
        style |= {"edgecolors": "black", "linewidths": 1.2} if rare else {"edgecolors": "white", "linewidths": 0.5}
        drawn = axes.scatter(points[at, 0], points[at, 1], c=colours[at], zorder=3 if rare else 2, **style, **scale)
    if not whole:
        figure.colorbar(drawn, ax=axes, label=view.colour_name or "colour", shrink=0.8)
    shown = classes if whole and len(classes) <= len(CLASSES) else classes[:0]
    _scatter_legend(figure, kinds, shown, view.colour_name, view.class_names)
    return figure


def point_columns(view: Scatter) -> dict[str, Sequence[Any]]:
    """What TensorBoard's projector says of each point: its label, then what its colour and its marker mean."""
    whole = not view.colour.is_floating_point()
    name = view.colour_name or "colour"
    values = view.colour.tolist()
    words = [view.class_names.get(value, f"{name} {value}") if whole else f"{name} {value:.3g}" for value in values]
    several = len(set(view.kind)) > 1
    labels = view.labels or [
        f"{kind}, {word}" if several else word for kind, word in zip(view.kind, words, strict=True)
    ]
    return {"label": labels, name: words if whole else values, "kind": view.kind}


def point_marks(view: Scatter) -> list[tuple[str, str]]:
    """Colour and shape of each point's mark in TensorBoard's projector, as in the picture; rare kinds are stars."""
    values, classes = array(view.colour), np.unique(array(view.colour))
    if view.colour.is_floating_point():
        low, span = float(values.min()), float(np.ptp(values)) or 1.0
        colours = [to_hex(colormaps["viridis"](round(99 * (value - low) / span) / 99)) for value in values]
    else:
        colours = [to_hex(one) for one in _class_colours(len(classes))[np.searchsorted(classes, values)]]
    words = list(view.kind)
    most = max(words.count(kind) for kind in set(words))
    return [
        (colour, "star" if words.count(kind) < most else "disc") for colour, kind in zip(colours, words, strict=True)
    ]


def _class_colours(count: int) -> np.ndarray:
    """Colours for `count` classes: [count] names, or [count, 4] numbers in which neighbours are far apart."""
    if count <= len(CLASSES):
        return CLASSES[:count]
    return np.array([colormaps["turbo"]((i * 0.618034) % 1.0) for i in range(count)])


def _scatter_legend(figure: Figure, kinds: list[str], classes: np.ndarray, name: str, words: Mapping[int, str]) -> None:
    def entry(label: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle="none", label=label, **style)

    found = [
        entry(kind, marker=marker, color="0.35", markersize=13 if marker == "*" else 9)
        for kind, marker in zip(kinds, MARKERS * len(kinds), strict=False)
        if len(kinds) > 1
    ]
    for number, colour in zip(classes, _class_colours(len(classes)), strict=True):
        label = words.get(int(number), f"{name or 'class'} {number:g}")
        found.append(entry(label, marker="o", color=colour, markersize=8))
    if found:
        figure.legend(
            handles=found,
            loc="outside lower center",
            ncols=min(len(found), 7),
            frameon=False,
            fontsize=11,
            handletextpad=0.2,
        )


def heatmap(view: Heatmap) -> Figure:
    """A table as colours, with its numbers if they are few; centred on 0 if both signs occur."""
    values = array(view.values)
    rows, columns = values.shape
    for names, count, what in ((view.row_names, rows, "rows"), (view.column_names, columns, "columns")):
        if len(names) not in (0, count):
            raise ValueError(f"{len(names)} names for {count} {what}")
    figure = new_figure(9, float(np.clip(1.6 + 0.32 * rows, 3.4, 9.0)), view.title)
    axes = figure.subplots()
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    most = max(-low, high)
    style: dict[str, Any] = (
        {"cmap": "RdBu_r", "vmin": -most, "vmax": most} if low < 0 < high else {"cmap": "Blues", "vmin": min(low, 0.0)}
    )
    image = axes.imshow(values, aspect="auto", interpolation="nearest", **style)
    axes.set_facecolor("0.8")  # non-finite cells
    axes.set_xlabel(view.columns, fontsize=12)
    axes.set_ylabel(view.rows, fontsize=12)
    for axis, names, count in ((axes.xaxis, view.column_names, columns), (axes.yaxis, view.row_names, rows)):
        ticks = range(0, count, -(-count // TICKS))
        axis.set_ticks(list(ticks), [names[i] if len(names) else str(i + 1) for i in ticks])
    longest = max((len(name) for name in view.column_names), default=1)
    slanted: dict[str, Any] = (
        {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if longest * min(columns, TICKS) > 80 else {}
    )
    for text in axes.get_xticklabels():
        text.set(**slanted)
    if values.size <= CELLS:
        for (i, j), value in np.ndenumerate(values):
            *colour, there = image.to_rgba(np.array([value]))[0]
            ink = "white" if there and np.dot(colour, (0.3, 0.59, 0.11)) < 0.5 else "black"
            axes.text(j, i, f"{value:.2g}", ha="center", va="center", fontsize=9, color=ink)
    figure.colorbar(image, ax=axes, label=view.value_name, shrink=0.9)
    return figure


def bars(view: Bars) -> Figure:
    """A bar for each name, from top to bottom, with its number; negative bars have another colour."""
    values = array(view.values)
    if len(values) != len(view.names):
        raise ValueError(f"{len(view.names)} names for {len(values)} bars")
    figure = new_figure(9, float(np.clip(1.2 + 0.34 * len(values), 2.8, 12.0)), view.title)
    axes = figure.subplots()
    tidy(axes, view.value_name, "")
    place = np.arange(len(values))
    held: list[float] = np.where(np.isfinite(values), values, 0.0).tolist()
    drawn = axes.barh(place, held, height=0.7, color=[VERMILION if value < 0 else BLUE for value in held])
    axes.bar_label(drawn, [f"{value:.3g}" for value in values], padding=4, fontsize=10)
    axes.axvline(0, color=BLACK, linewidth=1)
    axes.set_yticks(place, list(view.names))
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_axisbelow(True)
    axes.margins(x=0.12)
    return figure
