"""The dashed lines of every picture of results: what a method must beat, and what nobody can."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from metaexp.boards.style import GREEN, GREY, ORANGE, PURPLE, VERMILION

LOOKS: dict[str, tuple[str, Any]] = {  # colour and dashes, the same in every picture
    "mean": (VERMILION, (0, (6, 2))),
    "neighbour": (PURPLE, (0, (2, 1.2))),
    "oracle": (ORANGE, (0, (1, 1.2))),
    "scratch": (GREEN, (0, (7, 1.5, 1.5, 1.5))),
}
OTHER: tuple[str, Any] = (GREY, (0, (4, 4)))


def near(values: Mapping[str, Any], metric: str) -> Any:
    """The value of a metric, else of its form in another mode: a floor has `accuracy`, a test `accuracy_support`.

    None where there is neither: a floor without, say, a likelihood is no floor of it.
    """
    if metric in values:
        return values[metric]
    return next((value for name, value in values.items() if _plain(name) == _plain(metric)), None)


def _plain(metric: str) -> str:
    return metric.removesuffix("_transductive").removesuffix("_support")


def floor_levels(floors: Mapping[str, float | np.ndarray]) -> dict[str, np.ndarray]:
    """The floors' values by name: [1], or a curve [k]."""
    return {name: np.atleast_1d(np.asarray(value, dtype=np.float64)) for name, value in floors.items()}


def above_0(levels: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Those that have a place on a logarithmic axis: an oracle's error without noise, 0, has none."""
    return [level for level in levels.values() if (level > 0).all()]


def draw_floors(axes: Axes, levels: Mapping[str, np.ndarray], x: np.ndarray | None = None) -> None:
    """Draws each floor, a level or a curve over x (None: 0, 1, ...), as a dashed line with its last value.

    One that has no place on the axis stands in the legend alone.
    """
    for name, level in levels.items():
        colour, dashes = LOOKS.get(name, OTHER)
        value = f"{level[-1]:.3g}" if np.isfinite(level).all() else "not finite"
        style: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 1.8, "label": f"{name}: {value}"}
        if not np.isfinite(level).all() or (axes.get_yscale() == "log" and not (level > 0).all()):
            axes.plot([], [], **style)
        elif len(level) == 1:
            axes.axhline(level[0], **style)
        else:
            axes.plot(np.arange(len(level)) if x is None else x, level, **style)
