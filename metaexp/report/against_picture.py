"""The picture of a metric against a numeric setting: a curve with its 95 % band for each method."""

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from metaexp.plots.style import method_look, new_figure, tidy
from metaexp.report.against import TASKS, Curve, Point, words
from metaexp.report.pictures import DASHES, as_drawn, draw_floors, finish

NAMES = {TASKS: "training tasks"}


def picture(
    title: str,
    key: str,
    metric: str,
    larger: bool | None,
    curves: Sequence[tuple[Curve, Mapping[float, Point]]],
    floors: dict[str, float],
) -> bytes:
    """PNG; values above 0 that span a factor of 4 or more are on a base-2 logarithmic axis."""
    figure = new_figure(9, 5, as_drawn(title))
    axes = figure.subplots()
    tidy(axes, NAMES.get(key, as_drawn(key)), as_drawn(metric))
    values = sorted({value for _, points in curves for value in points})
    finite = [value for value in values if math.isfinite(value)]
    log = bool(finite) and finite[0] > 0 and finite[-1] >= 4 * finite[0]
    last = finite[-1] if finite else 1.0
    end = last * 2 if log else last + max(last - (finite[0] if finite else 0.0), 1.0) / max(len(finite), 1)
    algos = [curve.algo for curve, _ in curves]
    ends: list[tuple[float, str, str]] = []
    levels = []
    for place, (curve, points) in enumerate(curves):
        colour, marker = method_look(curve.algo if len(set(algos)) > 1 or len(algos) == 1 else curve.label)
        dashes = DASHES[algos[:place].count(curve.algo) % len(DASHES)]
        x = np.array([end if math.isinf(value) else value for value in points])
        y, low, high = (np.array([getattr(one, name) for one in points.values()]) for name in ("value", "low", "high"))
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(x, y, color=colour, linestyle=dashes, linewidth=2, marker=marker, markersize=6, label=curve.label)
        ends.append((float(y[-1]), as_drawn(curve.label), colour))
        levels.append(y)
    draw_floors(axes, floors, levels, ends, larger)
    if log:
        axes.set_xscale("log", base=2)
    places = [end if math.isinf(value) else value for value in values]
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_major_formatter(FixedFormatter([words(value) for value in values]))
    axes.xaxis.set_minor_locator(NullLocator())
    finish(axes, np.concatenate(levels), ends, larger)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
