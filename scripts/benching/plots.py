"""Plots of the committed numbers."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from benching.tables import OURS, median, rows
from metaexp.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    legend,
    log_if_wide,
    new_panels,
    tidy,
)

COLOURS = {OURS: VERMILION, "plain-loop": GREY, "plain-vmap": BLACK, "learn2learn": GREEN, "torchopt-metasgd": ORANGE}
COLOURS |= {"easyfsl": PURPLE, "jax-vmap": SKY, "jax-scan": BLUE, "jax-looppatches": BLUE}
HOWS = {"eager": (GREY, "o"), "compiled": (VERMILION, "s"), "chunks of 16": (BLUE, "^")}


def works(runs: list[dict[str, Any]], path: Path) -> None:
    """ms per outer step of ours and every peer, one panel for each work at its least number of threads."""
    names = list(dict.fromkeys(run["work"] for run in runs))
    height = 1.0 + 1.9 * -(-len(names) // 2)
    figure, panels = new_panels(len(names), "Milliseconds per outer step (shorter is faster)", height, columns=2)
    for axes, work in zip(panels, names, strict=True):
        threads = min(run["threads"] for run in runs if run["work"] == work)
        part = [run for run in runs if (run["work"], run["threads"]) == (work, threads)]
        found = {row["peer"]: row for row in rows(part) if row["peer_ms"] is not None}
        bars = [(name, row["peer_ms"], row["note"]) for name, row in found.items()]
        mine = median([run for run in part if run["who"] == OURS], "ms")
        bars += [(OURS, mine, "")] if mine is not None else []
        _bars(axes, sorted(bars, key=lambda bar: -bar[1]))
        axes.set_title(f"{work}, {threads} thread{'s' * (threads > 1)}", fontsize=11)
    figure.savefig(path)


def _bars(axes: Axes, bars: list[tuple[str, float, str]]) -> None:
    for place, (name, ms, note) in enumerate(bars):
        colour = COLOURS.get(name, GREY)
        hatch = "///" if note else None
        axes.barh(place, ms, color=colour if not note else "white", edgecolor=colour, hatch=hatch, height=0.7)
        label = f" {ms:.3g}" if ms < 1000 else f" {ms:,.0f}"
        axes.text(ms, place, label + (f" ({note})" if note else ""), va="center", fontsize=9)
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars], fontsize=9)
    values = [ms for _, ms, _ in bars]
    low, high = min(values), max(values)
    if high > 10 * low:
        axes.set_xscale("log")
        axes.set_xlim(low / 2, high * (high / low) ** 0.5 * 4)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("ms, logarithmic", fontsize=9)
    else:
        axes.set_xlim(0, 1.6 * high)
        axes.set_xlabel("ms", fontsize=9)
    axes.tick_params(axis="x", labelsize=9)
    axes.grid(axis="y", visible=False)


def scaling(points: list[dict[str, Any]], path: Path) -> None:
    """Time above and memory below, against tasks per meta-batch, inner steps and width."""
    axes_names = [axis for axis in ("tasks", "inner steps", "width") if any(p["axis"] == axis for p in points)]
    figure, panels = new_panels(2 * len(axes_names), "Sine MAML, one outer step", 6.5, columns=len(axes_names))
    for place, axes in enumerate(panels):
        axis, key = axes_names[place % len(axes_names)], ("ms", "mb")[place // len(axes_names)]
        ticks: set[int] = set()
        for how, (colour, marker) in HOWS.items():
            found = [p for p in points if (p["axis"], p["how"]) == (axis, how) and p.get(key) is not None]
            ticks |= {p["value"] for p in found}
            if found or place == 0:
                axes.plot(
                    [p["value"] for p in found], [p[key] for p in found], color=colour, marker=marker, ms=4, label=how
                )
        axis_name = "tasks per meta-batch" if axis == "tasks" else axis
        tidy(axes, axis_name, {"ms": "ms", "mb": "peak MB of the process"}[key] if place % len(axes_names) == 0 else "")
        axes.set_xscale("log")
        axes.set_xticks(sorted(ticks), [str(tick) for tick in sorted(ticks)])
        axes.xaxis.set_minor_locator(NullLocator())
        if key == "ms":
            log_if_wide(axes, np.array([p["ms"] for p in points if p["axis"] == axis and p.get("ms")]))
        else:
            axes.set_ylim(bottom=0, top=1.08 * max(p["mb"] for p in points if p["axis"] == axis and p.get("mb")))
    legend(figure, panels[0])
    figure.savefig(path)
