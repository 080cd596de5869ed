"""The dashed lines in every picture of results: the baselines that a method must beat, and the upper bound."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from metaexp.plots.style import GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, log_if_wide

LOOKS: dict[str, tuple[str, Any]] = {  # colour and dashes, the same in every picture
    "mean": (VERMILION, (0, (6, 2))),
    "neighbour": (PURPLE, (0, (2, 1.2))),
    "oracle": (ORANGE, (0, (1, 1.2))),
    "random": (VERMILION, (0, (6, 2))),
    "nominal": (PURPLE, (0, (2, 1.2))),
    "thompson": (PURPLE, (0, (2, 1.2))),
    "psrl": (PURPLE, (0, (2, 1.2))),
    "gittins": (GREEN, (0, (7, 1.5, 1.5, 1.5))),
    "informed": (ORANGE, (0, (1, 1.2))),
    "scratch": (GREEN, (0, (7, 1.5, 1.5, 1.5))),
    "parent": (SKY, (0, (3, 1.2, 1, 1.2))),
}
OTHER: tuple[str, Any] = (GREY, (0, (4, 4)))
FAR = 1000.0  # a baseline this many times below everything else is left off the scale


def baseline_levels(baselines: Mapping[str, float | np.ndarray]) -> dict[str, np.ndarray]:
    """The baselines' values by name: [1], or a curve [k]."""
    return {name: np.atleast_1d(np.asarray(value, dtype=np.float64)) for name, value in baselines.items()}


def far_below(level: float | np.ndarray, drawn: np.ndarray) -> bool:
    """Whether a baseline above 0 is so far below the drawn values that a scale with both would flatten them."""
    seen = drawn[np.isfinite(drawn)]
    return bool(len(seen) and 0 < np.min(level) < seen.min() / FAR)


def draw_baselines(
    axes: Axes,
    levels: Mapping[str, np.ndarray],
    drawn: np.ndarray,
    x: np.ndarray | None = None,
    larger_is_better: bool | None = None,
) -> None:
    """Draws each baseline, a level or a curve over x (None: 0, 1, ...), as a dashed line with its last value.

    A baseline that has no place on the axis, or is far below everything else, is listed in the legend only.

    Args:
        drawn: the other values of the picture; they determine the vertical axis, logarithmic for a wide range.
        larger_is_better: direction of the metric; such an axis is never logarithmic.
    """
    placed = {name: level for name, level in levels.items() if not far_below(level, drawn)}
    seen = [drawn, *(level for level in placed.values() if (level > 0).all())]
    log_if_wide(axes, np.concatenate(seen), larger_is_better)
    for name, level in levels.items():
        colour, dashes = LOOKS.get(name, OTHER)
        value = f"{level[-1]:.3g}" if np.isfinite(level).all() else "not finite"
        style: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 1.8, "label": f"{name}: {value}"}
        unplaced = name not in placed or not np.isfinite(level).all()
        if unplaced or (axes.get_yscale() == "log" and not (level > 0).all()):
            axes.plot([], [], **style)
        elif len(level) == 1:
            axes.axhline(level[0], **style)
        else:
            axes.plot(np.arange(len(level)) if x is None else x, level, **style)
