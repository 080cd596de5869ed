"""The comparison as text: aligned columns, Markdown, CSV."""

import csv
import html
import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from metaexp.checks import printable
from metaexp.evaluation.intervals import LEAST_SEEDS
from metaexp.loggers.result_table import BASELINE, UPPER_BOUND, baseline_label
from metaexp.report.grouping import Compared, Section
from metaexp.report.medians import better_on
from metaexp.report.narrow import narrow, narrow_pairs
from metaexp.report.reading import TESTED, Found
from metaexp.report.tables import Block, Row, machines_of, number, p_words

LEGEND = {
    "± tasks": "1.96 s / sqrt(tasks): how well one trained learner is measured; of several seeds the mean of theirs",
    "± seeds": "95 % of Student's t over the seeds' means: how much a new training would differ",
    "median": "over test tasks, with 95 % by order statistics (any distribution); of several seeds the mean of theirs",
    "worst 1 %": "share of the mean that the worst 1 % of tasks carry; above a quarter nothing is claimed on the mean",
    "diverged": "test tasks of all seeds with a score that is not finite: left out of every mean",
    "made worse": "test tasks of all seeds with a worse score after the last inner step than before the first",
    BASELINE: "what a method must beat; where it depends on network and inner loop, the best of all runs here",
    "p": "probability of such a difference by chance, corrected for all pairs (Holm 1979); ± 95 % is one pair's own",
    "sign p": "of the sign test (on how many tasks is the first better?): these trained learners, new tasks; Holm",
    UPPER_BOUND: "what a learner would reach that knows the task family",
}
MARKS = {
    "shifted": "tested on tasks of the family it was trained on, with other settings",
    "cross-domain": "tested on another family, or on other data, than it was trained on",
}
PAIRS = {
    "algorithms": f"at least {LEAST_SEEDS} seeds each: 95 % for new seeds and new tasks (crossed, both random)",
    "checkpoints": "fewer seeds: 95 % for new tasks, of these trained learners only; says nothing about new trainings",
}


def cells(block: Block, keys: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a block's table; columns with nothing in them are left out."""
    letters = machines_of(block.rows)
    columns: list[tuple[str, Callable[[Row], str]]] = [
        (block.metric, lambda r: "not finite" if r.mean is None else number(r.mean)),
        ("± tasks", lambda r: number(r.tasks_half, 2)),
        ("± seeds", lambda r: number(r.seeds_half, 2)),
        ("median", _median),
        ("worst 1 %", lambda r: "" if r.worst_share is None else f"{100 * r.worst_share:.0f} %"),
        ("seeds", lambda r: _text(r.seeds)),
        ("tasks", lambda r: _text(r.tasks)),
        ("diverged", lambda r: _text(r.diverged)),
        ("made worse", lambda r: _text(r.made_worse)),
        ("outer steps", lambda r: number(r.steps, 7)),
        ("test steps", lambda r: r.test_steps or ""),
        ("statistics", lambda r: r.normalise or ""),
        ("seconds", lambda r: _seconds(r, letters)),
        ("MB", lambda r: number(r.peak_mb)),
        ("parameters", lambda r: r.parameters or ""),
        ("adapted", lambda r: r.adapted or ""),
        ("", lambda r: r.note),
    ]
    if len({row.normalise for row in block.rows if not row.floor}) <= 1:
        columns = [column for column in columns if column[0] != "statistics"]
    rows = []
    for row in block.rows:
        names = [baseline_label(row.names[0]), *[""] * (len(keys) - 1)] if row.floor else list(row.names)
        rows.append([*names, *(cell(row) for _, cell in columns)])
    head = [*keys, *(name for name, _ in columns)]
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] for row in rows)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _seconds(row: Row, letters: Mapping[str, str]) -> str:
    """Of runs on different machines, the seconds on each with its letter."""
    if not letters or not row.timed:
        return "" if row.seconds is None else f"{row.seconds:.0f}"
    return ", ".join(f"{seconds:.0f} {letters[name]}" for name, seconds in row.timed)


def _median(row: Row) -> str:
    if row.median is None or row.median_low is None or row.median_high is None:
        return number(row.median)
    return f"{number(row.median)} ({number(row.median_low, 3)} to {number(row.median_high, 3)})"


def pair_cells(block: Block) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of differences."""
    on = "larger on" if block.larger is None else "better on"
    head = ["difference", block.metric, "± 95 %", "p", on, "sign p", "claim about", "seeds", "tasks", ""]
    rows = []
    for pair in block.pairs:
        tasks = f"{pair.tasks} ({pair.lost} left out)" if pair.lost else f"{pair.tasks}"
        numbers = [f"{number(pair.mean)}", number(pair.half, 2), p_words(pair.p)]
        numbers += [better_on(pair, block.larger), p_words(pair.sign_p)]
        rows.append([f"{pair.one} - {pair.two}", *numbers, pair.claim, pair.seeds, tasks, pair.verdict])
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]  # no p where nothing is claimed on the mean
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows]


def aligned(head: list[str], rows: list[list[str]], left: int) -> str:
    """A table as text; the first `left` columns, and those without a name, are aligned at their beginning."""
    head, rows = [printable(cell) for cell in head], [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        cells = zip(row, widths, strict=True)
        words = [cell.ljust(w) if i < left or not head[i] else cell.rjust(w) for i, (cell, w) in enumerate(cells)]
        lines.append("  ".join(words).rstrip())
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is: no table cells, links, pictures, HTML or code begin in it."""
    return re.sub(r"([\\\\|`*\[\]])", r"\\\1", html.escape(printable(text), quote=False))


def marked(head: list[str], rows: list[list[str]], left: int) -> str:
    """A table as Markdown."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(_escaped, cells))} |"

    rule = ["---" if i < left else "---:" for i in range(len(head))]
    lines = [line(head), f"| {' | '.join(rule)} |", *map(line, rows)]
    return "\n".join(lines)


def text(
    made: Sequence[Block], compared: Compared, found: Found, markdown: bool = False, width: int | None = None
) -> str:
    """The whole report, as aligned columns or as Markdown; with `width`, its tables are folded to so many columns."""
    table, safe = (marked, _escaped) if markdown else (aligned, printable)

    def fit(lines: str) -> str:
        return lines if width is None else "\n".join(_filled(line, width) for line in lines.splitlines())

    parts: list[str] = []
    before: Section | None = None
    for block in made:
        if block.section is not before:
            parts.append(fit(f"{'## ' if markdown else ''}{safe(block.section.title)}"))
        before = block.section
        head, rows = cells(block, compared.keys)
        keys = next(i for i, name in enumerate(head) if name == block.metric)
        below: list[str] = []
        if width is not None:
            head, rows, below = narrow(block, head, rows, keys, width)
        parts.append("\n".join([table(head, rows, keys), *map(fit, below)]))
        if block.pairs:
            head, rows = pair_cells(block)
            if width is not None:
                head, rows = narrow_pairs(head, rows, width)
            parts.append(table(head, rows, 1))
        if block.pairs_note:
            parts.append(fit(safe(block.pairs_note)))
    parts += map(fit, legend(made, markdown))
    parts += map(fit, _marks(made, compared.keys, markdown))
    if compared.notes:
        parts.append("\n".join(fit(f"{'- ' if markdown else ''}note: {safe(note)}") for note in compared.notes))
    parts += not_read(found, markdown)
    return "\n\n".join(parts) + "\n"


def not_read(found: Found, markdown: bool = False) -> list[str]:
    """Runs without a result, and what is damaged."""
    bullet, safe, parts = "- " if markdown else "", _escaped if markdown else printable, []
    if found.unfinished:
        lines = [bullet + safe(f"{one.state}: {one.folder} ({one.text})") for one in found.unfinished]
        parts.append("\n".join([f"not finished ({len(lines)} runs):", *([""] if markdown else []), *lines]))
    if found.damaged:
        parts.append("\n".join(f"{bullet}damaged: {safe(line)}" for line in found.damaged))
    return parts


def _filled(line: str, width: int) -> str:
    return textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def legend(made: Sequence[Block], markdown: bool = False) -> list[str]:
    """What the columns mean, one line each, of those that are shown."""
    rows = [row for block in made for row in block.rows]
    shown = {
        "± tasks": any(row.tasks_half is not None for row in rows),
        "± seeds": any(row.seeds_half is not None for row in rows),
        "median": any(row.median_low is not None for row in rows),
        "worst 1 %": any(row.worst_share is not None for row in rows),
        "diverged": any(row.diverged for row in rows),
        "made worse": any(row.made_worse is not None for row in rows),
        **{
            kind: any(row.floor and baseline_label(row.names[0]).startswith(kind) for row in rows)
            for kind in (BASELINE, UPPER_BOUND)
        },
    }
    claims = {pair.claim for block in made for pair in block.pairs}
    lines = [f"{name}: {LEGEND[name]}" for name, there in shown.items() if there]
    if any(pair.p is not None for block in made for pair in block.pairs):
        lines.append(f"p: {LEGEND['p']}")
    if claims:
        lines.append(f"sign p: {LEGEND['sign p']}")
    lines += [f"claim about {name}: {meaning}" for name, meaning in PAIRS.items() if name in claims]
    return ["\n".join(f"{'- ' if markdown else ''}{line}" for line in lines)] if lines else []


def _marks(made: Sequence[Block], keys: Sequence[str], markdown: bool) -> list[str]:
    """What the marks of tests on other tasks or data mean, of those in the tables."""
    if TESTED not in keys:
        return []
    place = keys.index(TESTED)
    there = {row.names[place].partition(",")[0] for block in made for row in block.rows if not row.floor}
    lines = [f"{mark}: {meaning}" for mark, meaning in MARKS.items() if mark in there]
    return ["\n".join(f"{'- ' if markdown else ''}{line}" for line in lines)] if lines else []


def csv_text(made: Sequence[Block], keys: Sequence[str]) -> str:
    """One line per group or baseline and metric, numbers in full."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    fields = [field for field in Row._fields if field not in ("names", "floor", "mean", "note")]
    before, after = ["task", "test", "query_sha256", "metric", "floor"], ["mean", *fields, "note"]
    named = [f"setting_{key}" if key in (*before, *after) else key for key in keys]  # no name twice
    writer.writerow([*before, *map(_cell, named), *after])
    for block in made:
        section = block.section
        for row in block.rows:
            names = ["" for _ in keys] if row.floor else list(row.names)
            start = [
                section.task,
                section.title,
                section.queries or "",
                block.metric,
                row.names[0] if row.floor else "",
            ]
            values = [getattr(row, field) for field in ("mean", *fields, "note")]
            writer.writerow(map(_cell, [*start, *names, *("" if value is None else value for value in values)]))
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    """Text that a spreadsheet shows and does not compute: `=cmd()` gets an apostrophe in front; numbers stay."""
    if isinstance(value, tuple):
        value = "; ".join(f"{name}: {number(seconds)}" for name, seconds in value)
    if not isinstance(value, str):
        return value
    value = printable(value)
    if value.lstrip()[:1] not in ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20") or value == "-":
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _text(value: int | None) -> str:
    return "" if value is None else str(value)
