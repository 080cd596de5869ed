"""Curves in a terminal: block characters, each of two by two dots."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# The dots of a cell as bits: top left 1, top right 2, bottom left 4, bottom right 8.
BLOCKS = " ▘▝▀▖▌▞▛▗▚▐▜▄▙▟█"
ORANGE, BLUE, GREY = "33;1", "34;1", "2"  # codes of ECMA-48


class Marks(NamedTuple):
    """How what is drawn looks: characters, and the colour of each."""

    point: str = "●"
    truth: str = "·"
    line: str = BLOCKS
    axis: str = "│"
    floor: str = "─"
    corner: str = "└"


ASCII = Marks("o", ".", " " + "#" * 15, "|", "-", "+")


def plot(
    x: np.ndarray,
    line: np.ndarray,
    truth: np.ndarray,
    points: tuple[np.ndarray, np.ndarray],
    size: tuple[int, int],
    colour: bool = False,
    marks: Marks = Marks(),  # noqa: B008
    limits: tuple[float, float] | None = None,
) -> str:
    """A prediction, the function itself and points, over x.

    Args:
        x: [n], ascending; line, truth: [n] over it.
        points: x and y of the points, [k] each; they cover the rest.
        size: columns and rows of the whole picture, axes included.
        colour: whether to write colours.
        marks: the characters.
        limits: least and largest y; None: those of what is drawn.
    """
    columns, rows = max(size[0] - 8, 10), max(size[1] - 2, 4)
    low, high = limits or _limits(line, truth, points[1])
    cells = _cells(x, line, columns, rows, low, high)
    text = [[(marks.line[bits], BLUE) if bits else (" ", "") for bits in row] for row in cells]
    for column, row in _places(np.linspace(x[0], x[-1], columns), x, truth, columns, rows, low, high):
        if text[row][column][0] == " ":
            text[row][column] = (marks.truth, GREY)
    for px, py in zip(*points, strict=True):
        column = round((px - x[0]) / (x[-1] - x[0]) * (columns - 1))
        row = round((high - py) / (high - low) * (rows - 1))
        if 0 <= column < columns and 0 <= row < rows:
            text[row][column] = (marks.point, ORANGE)
    zero = round(high / (high - low) * (rows - 1)) if low < 0 < high else -1
    labels = {0: f"{high:.3g}", rows - 1: f"{low:.3g}"} | ({zero: "0"} if 0 < zero < rows - 1 else {})
    drawn = [f"{labels.get(i, ''):>6} {marks.axis}{_painted(row, colour)}" for i, row in enumerate(text)]
    left, right = f"{x[0]:.3g}", f"{x[-1]:.3g}"
    below = f"{'':7}{marks.corner}{marks.floor * columns}"
    return "\n".join([*drawn, below, f"{'':8}{left}{right:>{columns - len(left)}}"])


def _limits(*values: np.ndarray) -> tuple[float, float]:
    every = np.concatenate(values)
    low, high = float(every.min()), float(every.max())
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def _cells(x: np.ndarray, line: np.ndarray, columns: int, rows: int, low: float, high: float) -> np.ndarray:
    """The bits of each cell, [rows, columns]: the curve is connected from one column of dots to the next."""
    dots = np.zeros((2 * rows, 2 * columns), dtype=bool)
    y = np.interp(np.linspace(x[0], x[-1], 2 * columns), x, line)
    height = np.rint((high - y) / (high - low) * (2 * rows - 1)).astype(int)
    for column, here in enumerate(height):
        before = height[max(column - 1, 0)]
        middle = (here + before) // 2  # half of a steep piece in each of the two columns
        for place, (a, b) in ((column, sorted((middle, here))), (max(column - 1, 0), sorted((middle, before)))):
            dots[max(a, 0) : max(b + 1, 0), place] = True
    quarters = dots.reshape(rows, 2, columns, 2)
    return (quarters * np.array([[1, 2], [4, 8]])[None, :, None, :]).sum((1, 3))


def _places(
    at: np.ndarray, x: np.ndarray, y: np.ndarray, columns: int, rows: int, low: float, high: float
) -> list[tuple[int, int]]:
    height = np.rint((high - np.interp(at, x, y)) / (high - low) * (rows - 1)).astype(int)
    return [(column, row) for column, row in enumerate(height) if 0 <= row < rows]


def _painted(row: Sequence[tuple[str, str]], colour: bool) -> str:
    """One row; a colour is written where it changes."""
    if not colour:
        return "".join(mark for mark, _ in row).rstrip()
    out, now = [], ""
    for mark, code in row:
        if code != now:
            out.append(f"\x1b[0;{code}m" if code else "\x1b[0m")
            now = code
        out.append(mark)
    return "".join(out) + ("\x1b[0m" if now else "")
