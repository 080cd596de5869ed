"""Classification in the plane: the regions that a learner assigns to each class, before and after adaptation."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from metaexp.plots.episodes import Predict
from metaexp.plots.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, array, new_figure, step_name, tidy
from metaexp.types import Episode

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, "#8B6914")
SIDE = 160  # pixels of a region map, each way


def points(
    episode: Episode,
    predict: Predict,
    shown: Sequence[int],
    title: str = "",
    truth: Callable[[Tensor], Tensor] | None = None,
) -> Figure:
    """A column per episode: the plane coloured by predicted class, first and last of the inner steps `shown`.

    Support points are large triangles, correct queries dots, misclassified ones crosses, all in the colour of their
    true class. A single step gives one row.

    Args:
        episode: x [tasks, n, 2], y [tasks, n, ways] one-hot; the first 3 tasks are drawn.
        predict: [tasks, m, 2] -> [tasks, len(shown), m, ways], see `metaexp.plots.episodes`.
        shown: inner steps, ascending; 0 is the prediction before adaptation.
        title: of the figure.
        truth: [tasks, m, 2] -> [tasks, m, ways], the best possible classifier, whose borders are drawn.
    """
    support, query = array(episode.support.x), array(episode.query.x)
    given, true = array(episode.support.y).argmax(-1), array(episode.query.y).argmax(-1)
    ways, tasks, rows = episode.support.y.shape[-1], min(len(support), 3), sorted({0, len(shown) - 1})
    boxes = [_box(np.concatenate([support[task], query[task]])) for task in range(len(support))]
    maps = np.stack([_lattice(box) for box in boxes])  # [tasks, SIDE^2, 2]
    plane = episode.support.x.new_tensor(maps)
    regions = array(predict(plane)).argmax(-1).reshape(len(support), len(shown), SIDE, SIDE)
    guesses = array(predict(episode.query.x)).argmax(-1)  # [tasks, shown, m]
    best = None if truth is None else array(truth(plane)).argmax(-1).reshape(-1, SIDE, SIDE)

    figure = new_figure(3 * tasks, 0.8 + 3.1 * len(rows), title)
    panels: Any = figure.subplots(len(rows), tasks, squeeze=False)
    colours = _colours(ways)
    for row, step in enumerate(rows):
        for task in range(tasks):
            axes: Axes = panels[row, task]
            extent = (boxes[task][0], boxes[task][2], boxes[task][1], boxes[task][3])
            look: dict[str, Any] = {"cmap": ListedColormap(_light(colours)), "vmin": 0, "vmax": ways - 1}
            axes.imshow(regions[task, step], extent=extent, origin="lower", interpolation="nearest", **look)
            if best is not None:
                _borders(axes, best[task], maps[task])
            wrong = guesses[task, step] != true[task]
            _draw(axes, support[task], given[task], query[task], true[task], wrong, colours)
            tidy(axes)
            axes.grid(False)
            axes.locator_params(nbins=4)
            share = f"{1 - wrong.mean():.0%} right" if wrong.size else ""
            axes.set_title(f"{step_name(shown[step])}: {share}" if len(rows) > 1 else share, fontsize=12)
    _legend(figure, best is not None, bool((guesses != true[:, None]).any()))
    return figure


def _box(x: np.ndarray) -> tuple[float, float, float, float]:
    """A square around the points: left, bottom, right, top."""
    low, high = x.min(0), x.max(0)
    middle, half = (low + high) / 2, 0.58 * float((high - low).max()) or 1.0
    return (middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half)


def _lattice(box: tuple[float, float, float, float]) -> np.ndarray:
    """The centres of the pixels, row by row from the bottom: [SIDE^2, 2]."""
    left, bottom, right, top = box
    place = (np.arange(SIDE) + 0.5) / SIDE
    x, y = np.meshgrid(left + place * (right - left), bottom + place * (top - bottom))
    return np.stack([x.ravel(), y.ravel()], -1)


def _colours(ways: int) -> list[Any]:
    return (
        list(_COLOURS[:ways]) if ways <= len(_COLOURS) else list(mpl.colormaps["turbo"](np.linspace(0.05, 0.95, ways)))
    )


def _light(colours: Sequence[Any]) -> list[tuple[float, ...]]:
    return [tuple(0.3 * np.array(to_rgb(colour)) + 0.7) for colour in colours]


def _borders(axes: Axes, best: np.ndarray, lattice: np.ndarray) -> None:
    x, y = (lattice[:, i].reshape(SIDE, SIDE) for i in range(2))
    for label in np.unique(best):
        axes.contour(x, y, (best == label).astype(float), [0.5], colors=BLACK, linewidths=0.9)


def _draw(
    axes: Axes,
    support: np.ndarray,
    given: np.ndarray,
    query: np.ndarray,
    true: np.ndarray,
    wrong: np.ndarray,
    colours: Sequence[Any],
) -> None:
    colour = np.array([to_rgb(colours[label]) for label in true]).reshape(-1, 3)
    right = ~wrong
    dots: dict[str, Any] = {"s": 20, "linewidths": 0.5, "edgecolors": "white", "zorder": 3}
    axes.scatter(query[right, 0], query[right, 1], c=colour[right], marker="o", **dots)
    axes.scatter(query[wrong, 0], query[wrong, 1], c=colour[wrong], marker="x", s=26, linewidths=1.4, zorder=4)
    big: dict[str, Any] = {"s": 90, "linewidths": 1.3, "edgecolors": BLACK, "zorder": 5}
    axes.scatter(support[:, 0], support[:, 1], c=[colours[label] for label in given], marker="^", **big)


def _legend(figure: Figure, borders: bool, wrong: bool) -> None:
    none: dict[str, Any] = {"linestyle": "none"}
    handles = [
        Line2D([], [], marker="^", mfc="white", mec=BLACK, markersize=9, label="support", **none),
        Line2D([], [], marker="o", mfc=BLACK, mec="white", markersize=5, label="query", **none),
    ]
    if wrong:
        handles.append(Line2D([], [], marker="x", color=BLACK, markersize=6, label="taken for another class", **none))
    if borders:
        handles.append(Line2D([], [], color=BLACK, linewidth=0.9, label="best possible border"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=11)
