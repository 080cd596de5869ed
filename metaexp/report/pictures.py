"""The comparison as pictures: all adaptation curves of a test together, and the validation metric against seconds."""

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metaexp.checks import printable
from metaexp.evaluation.intervals import over_seeds, over_tasks
from metaexp.loggers.result_table import baseline_label
from metaexp.metric_names import SUFFIXES, metric_name, near
from metaexp.plots.baselines import far_below
from metaexp.plots.dots import rows as dot_rows
from metaexp.plots.style import (
    COLOURS,
    GREY,
    MARKERS,
    log_if_wide,
    method_look,
    new_figure,
    on_a_board,
    tidy,
    whole_numbers,
)
from metaexp.report.grouping import Group
from metaexp.report.reading import Run
from metaexp.report.tables import Block, machine_of
from metaexp.storage.metrics_log import read_rows
from metaexp.storage.saved_result import is_number

DASHES = ("-", (0, (6, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)))  # of groups of the same method
MOST = 8  # most curves in one picture: of more methods, each is a dot with its interval


class Drawn(NamedTuple):
    """A picture of a table."""

    name: str  # of the file, unique
    png: bytes
    block: int  # the place of its table


def draw(made: Sequence[Block], board: bool = False) -> Iterator[Drawn]:
    """Every picture of these tables, or its form for TensorBoard."""
    seen: dict[str, int] = {}
    for place, block in enumerate(made):
        for kind, figure in (("adaptation", adaptation(block)), ("seconds", against_seconds(block))):
            if figure is None:
                continue
            name = re.sub(r"[^\w.-]+", "_", f"{kind}_{block.section.task}_{block.metric}")
            seen[name] = seen.get(name, 0) + 1
            number = f"_{seen[name]}" if seen[name] > 1 else ""
            buffer = io.BytesIO()
            with on_a_board(figure) if board else nullcontext():
                figure.savefig(buffer, format="png", metadata={"Software": None})
            yield Drawn(f"{name}{number}.png", buffer.getvalue(), place)


def adaptation(block: Block) -> Figure | None:
    """The metric against inner steps at test, a curve per group with its 95 % band; None without scores per task.

    The band is over tasks for one run and over seeds for several. A method without inner steps is a horizontal line.
    """
    curves = [(group, found) for group in _ordered(block) if (found := _curve(group, block.metric)) is not None]
    if not curves:
        return None
    floors = {row.names[0]: row.mean for row in block.rows if row.floor and row.mean is not None}
    looks = _looks(block)
    if len(curves) > MOST or all(len(mean) == 1 for _, (mean, _) in curves):
        methods = {_said(group): (float(mean[-1]), float(half[-1]) or None) for group, (mean, half) in curves}
        known = {baseline_label(as_drawn(name)): (value, None) for name, value in floors.items()}
        seen = {_said(group): (looks[group.values][0], looks[group.values][1]) for group, _ in curves}
        title = textwrap.fill(as_drawn(block.section.title), 80)
        return dot_rows(as_drawn(block.metric), methods, known, title, block.larger, seen)
    figure, axes = _empty(block, "inner steps")
    last = max(1, *(len(mean) - 1 for _, (mean, _) in curves))
    ends: list[tuple[float, str, str]] = []
    levels = []
    for group, (mean, half) in curves:
        colour, dot, dashes = looks[group.values]
        alone = len(mean) == 1
        x = np.array([0, last]) if alone else np.arange(len(mean))
        y, width = (np.repeat(mean, 2), np.repeat(half, 2)) if alone else (mean, half)
        said, marker = _said(group) + (", no steps" if alone else ""), "" if alone else dot
        axes.fill_between(x, y - width, y + width, color=colour, alpha=0.15, linewidth=0)
        axes.plot(x, y, color=colour, linestyle=dashes, linewidth=2, marker=marker, markersize=4, label=said)
        axes.plot([x[-1], last], [y[-1], y[-1]], color=colour, linestyle=":", linewidth=1)  # to its label
        ends.append((float(y[-1]), said, colour))
        levels.append(y)
    draw_floors(axes, floors, levels, ends, block.larger)
    axes.set_xlim(0, last)
    whole_numbers(axes)
    finish(axes, np.concatenate(levels), ends, block.larger)
    return figure


def against_seconds(block: Block) -> Figure | None:
    """The metric on validation tasks against seconds of training, a thin line per run; None without such rows.

    The seconds are those that a time limit counts. Of more than MOST groups, the best are drawn.
    """
    looks = _looks(block)
    lines = [(place, group, run) for place, group in enumerate(_ordered(block)[:MOST]) for run in group.runs]
    found = [(place, group, *line) for place, group, run in lines if (line := _training(run, block.metric)) is not None]
    if not found:
        return None
    several = len({machine_of(run.result) for _, _, run in lines}) > 1
    figure, axes = _empty(block, "seconds of training" + ", on different machines" * several, "validation ")
    last = max(float(x[-1]) for _, _, x, _, _ in found)
    floors: dict[str, float] = {}
    finals: dict[int, list[float]] = {}
    for place, group, x, y, beside in found:
        colour, dot, dashes = looks[group.values]
        width, said = 1.8 if len(group.runs) == 1 else 1.1, "_" if place in finals else _said(group)
        axes.plot(x, y, color=colour, linestyle=dashes, linewidth=width, label=said)
        axes.plot(x[-1], y[-1], dot, color=colour, markersize=5)
        axes.plot([x[-1], last], [y[-1], y[-1]], color=colour, linestyle=":", linewidth=0.8)
        finals.setdefault(place, []).append(float(y[-1]))
        floors = beside | floors
    groups = _ordered(block)
    ends = [
        (float(np.mean(values)), _said(groups[place]), looks[groups[place].values][0])
        for place, values in finals.items()
    ]
    levels = [y for _, _, _, y, _ in found]
    draw_floors(axes, floors, levels, ends, block.larger)
    axes.set_xlim(0, last)
    finish(axes, np.concatenate(levels), ends, block.larger)
    return figure


def draw_floors(
    axes: Axes,
    floors: dict[str, float],
    levels: list[np.ndarray],
    ends: list[tuple[float, str, str]],
    larger: bool | None,
) -> None:
    """A line for each baseline; `levels` (what is drawn) and `ends` (labels at the right) are extended."""
    drawn = np.concatenate(levels)
    wide = bool(not larger and (drawn > 0).all() and drawn.max() > 10 * drawn.min())
    for name, value in floors.items():
        # A baseline that would flatten the curves, or has no place on their axis, is named below with its value.
        if far_below(value, drawn) or (wide and value <= 0):
            ends.append((-np.inf, f"{baseline_label(as_drawn(name))}, {value:.2g}", GREY))
            continue
        axes.axhline(value, color=GREY, linestyle="--", linewidth=1.2, zorder=1)
        ends.append((value, baseline_label(as_drawn(name)), GREY))
        levels.append(np.array([value]))


def _ordered(block: Block) -> list[Group]:
    """The groups of the table, best first."""
    place = {row.names: i for i, row in enumerate(block.rows) if not row.floor}
    return sorted((g for g in block.section.groups if g.values in place), key=lambda group: place[group.values])


def _looks(block: Block) -> dict[tuple[str, ...], tuple[str, str, Any]]:
    """Colour, marker and dashes of each group: those of its method, and of several groups of one method other dashes.

    Where all groups are one method, colours tell them apart.
    """
    groups = _ordered(block)
    methods = [str(group.runs[0].result.get("algo")) for group in groups]
    if len(set(methods)) == 1 and len(groups) > 1:
        return {g.values: (COLOURS[i % len(COLOURS)], ("o", *MARKERS)[i // len(COLOURS) % 5], DASHES[0])
                for i, g in enumerate(groups)}  # fmt: skip
    places = [methods[:i].count(method) for i, method in enumerate(methods)]
    return {
        group.values: (*method_look(method), DASHES[place % len(DASHES)])
        for group, method, place in zip(groups, methods, places, strict=True)
    }


def _said(group: Group) -> str:
    seeds = f" ({len(group.runs)} seeds)" if len(group.runs) > 1 and not group.mixed else ""
    return as_drawn(group.label) + seeds


def as_drawn(text: str) -> str:
    """Text from a file, which Matplotlib then draws unchanged: no formula begins in it."""
    return printable(text).replace("$", r"\$")


def _curve(group: Group, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and half-width of the band after every step; None if scores are missing or differ in length."""
    found = [run.scores[metric] for run in group.runs if metric in run.scores]
    if not found or len({scores.shape[1] for scores in found}) != 1:
        return None
    kept = [scores[np.isfinite(scores).all(1)] for scores in found]
    kept = [scores for scores in kept if len(scores)]
    if not kept:
        return None
    intervals = []
    for step in range(kept[0].shape[1]):
        if len(kept) == 1:
            intervals.append(over_tasks(kept[0][:, step]))
        else:
            intervals.append(over_seeds([float(scores[:, step].mean()) for scores in kept]))
    half = [0.0 if one.half is None or group.mixed else one.half for one in intervals]
    return np.array([one.mean for one in intervals], dtype=float), np.array(half)


def _training(run: Run, metric: str) -> tuple[np.ndarray, np.ndarray, dict[str, float]] | None:
    """Seconds, the metric on validation tasks, and the baselines on the same tasks."""
    points, floors = [], {}
    for row in read_rows(run.folder):
        names = (metric, metric_name(metric, SUFFIXES["queries"]))
        name = next((n for n in names if isinstance(row.get(n), dict)), None)
        if row.get("kind") != "val" or name is None or not is_number(mean := row[name].get("mean")):
            continue
        points.append((row["seconds"], float(mean)))
        beside = row.get("floors")
        for floor, values in (beside if isinstance(beside, dict) else {}).items():
            value = near(values, name) if isinstance(values, dict) else None
            if is_number(value):
                floors[str(floor)] = float(value)
    return (np.array([x for x, _ in points]), np.array([y for _, y in points]), floors) if points else None


def _empty(block: Block, x: str, before: str = "") -> tuple[Figure, Axes]:
    title = as_drawn(block.section.task) if before else textwrap.fill(as_drawn(block.section.title), 80)
    figure = new_figure(9, 5, title)
    axes = figure.subplots()
    tidy(axes, x, before + as_drawn(block.metric))
    return figure, axes


def finish(axes: Axes, levels: np.ndarray, ends: list[tuple[float, str, str]], larger: bool | None) -> None:
    """Sets the vertical axis, and labels each curve at the height of its end; labels are moved apart if they touch."""
    finite = levels[np.isfinite(levels)]
    if len(finite) and finite.min() < finite.max():
        axes.margins(y=0.06)
    log_if_wide(axes, finite, larger)
    ends = [end for end in ends if np.isfinite(end[0]) or end[0] < 0]
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = [0.0 if np.isinf(y) else float(to_axes.transform((0, y))[1]) for y, _, _ in ends]
    for y, (_, text, colour) in zip(spread(wanted), ends, strict=True):
        axes.text(1.015, y, text, transform=axes.transAxes, color=colour, va="center", fontsize=10.5, clip_on=False)


def spread(wanted: Sequence[float], gap: float = 0.055, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Heights as close as possible to the wanted ones, at least `gap` apart, within the limits if there is room."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    # After subtracting the gaps, heights must not decrease: isotonic regression by pooling neighbours that do.
    pools: list[list[float]] = []
    for rank, i in enumerate(order):
        pools.append([wanted[i] - rank * gap])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    levels = [float(np.mean(pool)) for pool in pools for _ in pool]
    most = high - (len(order) - 1) * gap
    placed = [max(min(level, most), low) + rank * gap for rank, level in enumerate(levels)]
    return [placed[order.index(i)] for i in range(len(wanted))]
