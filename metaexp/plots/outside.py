"""Marks for what lies outside of a picture's axes: a prediction that leaves the task's range must not vanish."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

LINE = 11  # points between two notes


def mark_outside(axes: Axes, x: np.ndarray, y: np.ndarray, colour: Any, row: int = 0) -> None:
    """Marks where a line leaves the axes, whose limits are set: an arrowhead at the frame for each stretch that lies
    outside, and the farthest value as a number.

    Args:
        axes: with their final limits.
        x, y: the line [n], x ascending; values that are not finite have no place on it and are counted in words.
        colour: that of the line.
        row: how many notes of other lines there are already, which it must not cover.
    """
    low, high = sorted(axes.get_ylim())
    left, right = sorted(axes.get_xlim())
    for edge, marker, beyond, sign in ((high, "^", y > high, 1), (low, "v", y < low, -1)):
        places = np.flatnonzero(beyond & np.isfinite(y))
        if not len(places):
            continue
        farthest = places[np.argmax(sign * y[places])]
        for part in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
            at = part[np.argmax(sign * y[part])]
            form: dict[str, Any] = {"clip_on": False, "markersize": 8, "mec": "white", "zorder": 6}
            axes.plot([x[at]], [edge], marker, color=colour, **form)
        share = (x[farthest] - left) / ((right - left) or 1.0)
        side = "left" if share < 0.2 else "right" if share > 0.8 else "center"
        _note(axes, f"{y[farthest]:.3g}", (float(x[farthest]), edge), -sign * (8 + LINE * row), side, colour)
    if lost := int((~np.isfinite(y)).sum()):
        text = f"not finite for {lost} of {len(y)} inputs"
        _note(axes, text, (left, high), -(8 + LINE * row), "left", colour)


def note_outside(axes: Axes, values: np.ndarray, colour: Any, row: int = 0) -> None:
    """Says above the axes how many of these points lie above or below them, and how far the farthest is."""
    low, high = sorted(axes.get_ylim())
    values = values.ravel()
    with np.errstate(invalid="ignore"):
        out = ~((values >= low) & (values <= high))
    if out.any():
        far = values[out & np.isfinite(values)]
        how = f", as far as {far[np.argmax(np.abs(far))]:.3g}" if len(far) else ", not finite"
        text = f"{int(out.sum())} of {len(values)} outside{how}"
        axes.annotate(
            text, (0.02, 0.98), (0, -LINE * row), "axes fraction", "offset points",
            ha="left", va="top", fontsize=9, color=colour, path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip


def _note(axes: Axes, text: str, place: tuple[float, float], up: float, side: str, colour: Any) -> None:
    effects = [withStroke(linewidth=3, foreground="white")]
    style: dict[str, Any] = {"ha": side, "va": "top" if up < 0 else "bottom", "fontsize": 9, "color": colour}
    axes.annotate(text, place, (0, up), textcoords="offset points", path_effects=effects, zorder=7, **style)
