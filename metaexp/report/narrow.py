"""A table for 80 columns: digits that the interval carries, the best marked, equal columns folded into a line."""

import math
from collections.abc import Sequence

from metaexp.report.tables import UNSHOWN, Block, Row, number

WIDTH = 80
MOST_PLACES = 8  # more behind the point are hard to count: 1.4e-11
BEST, AS_GOOD = "best", "not shown worse"
# What goes first where there is no room.
FOLDED = (
    "adapted",
    "parameters",
    "MB",
    "statistics",
    "worst 1 %",
    "test steps",
    "diverged",
    "made worse",
    "outer steps",
    "seconds",
    "tasks",
    "seeds",
    "median",
)


def carried(value: float | None, half: float | None) -> str:
    """A number with as many digits as its interval carries: those of the half-width's first two."""
    if value is None or half is None or not math.isfinite(value) or not 0 < half < math.inf:
        return number(value)
    places = 1 - math.floor(math.log10(half))
    if places > MOST_PLACES and value:
        return f"{value:.{max(0, math.floor(math.log10(abs(value))) + places)}e}"
    rounded = round(value, places) or 0.0  # no -0
    places = 0 if places > MOST_PLACES else places
    return f"{rounded:.{places}f}" if places > 0 else f"{rounded:.0f}"


def marks(block: Block) -> list[str]:
    """For each row: BEST, AS_GOOD where its difference from the best is not shown, or nothing.

    Nothing is marked where no direction is better or groups are not paired.
    """
    rows = [row for row in block.rows if not row.floor]
    labels = {group.values: group.label for group in block.section.groups}
    if block.larger is None or not rows or not block.pairs or rows[0].mean is None:
        return [""] * len(block.rows)
    if any(pair.barred for pair in block.pairs):  # nothing is claimed on the means
        return [""] * len(block.rows)
    best = labels.get(rows[0].names)
    beside = {
        pair.two if pair.one == best else pair.one
        for pair in block.pairs
        if best in (pair.one, pair.two) and pair.verdict.startswith(UNSHOWN)
    }
    return [
        "" if row.floor else BEST if row is rows[0] else AS_GOOD if labels.get(row.names) in beside else ""
        for row in block.rows
    ]


def narrow(
    block: Block, head: Sequence[str], rows: Sequence[Sequence[str]], keys: int, width: int = WIDTH
) -> tuple[list[str], list[list[str]], list[str]]:
    """Head, rows and lines below of a table that fits, if its first columns do.

    Args:
        head, rows: the wide table; `rows` belong to `block.rows`.
        keys: columns before the metric's.
        width: columns of text.
    """
    lines, head = [[*row] for row in rows], [*head]
    for place, row in enumerate(block.rows):
        if row.mean is not None:
            lines[place][keys] = carried(row.mean, _half(row))
    said = [*marks(block)]
    if any(said):
        head.insert(keys + 1, "")
        for line, mark in zip(lines, said, strict=True):
            line.insert(keys + 1, mark)
    below = _fold_equal(head, lines, keys, [not row.floor for row in block.rows])
    gone = []
    while _width(head, lines) > width and (name := _next(head, lines)):
        at = head.index(name)
        if name == "median" and any("(" in line[at] for line in lines):
            for line in lines:
                line[at] = line[at].partition(" (")[0]
            continue
        for line in (head, *lines):
            del line[at]
        gone.append(name)
    if gone:
        below.append(f"not shown: {', '.join(gone)} (--wide)")
    return head, lines, below


def _half(row: Row) -> float | None:
    return row.seeds_half or row.tasks_half  # a method without chance has none over seeds


def _fold_equal(head: list[str], lines: list[list[str]], keys: int, own: Sequence[bool]) -> list[str]:
    """Takes out the columns whose text is the same in all rows that have one, and says it in a line."""
    same = []
    for at in range(len(head) - 1, keys, -1):
        found = {line[at] for line in lines if line[at]}
        every = all(line[at] for line, mine in zip(lines, own, strict=True) if mine)
        if head[at] in FOLDED and head[at] != "median" and len(found) == 1 and every:
            same.append(f"{head[at]}{'' if head[at][-1].isalpha() else ':'} {found.pop()}")
            for line in (head, *lines):
                del line[at]
    return [f"in all rows: {', '.join(reversed(same))}"] if same else []


def _width(head: Sequence[str], lines: Sequence[Sequence[str]]) -> int:
    return sum(max(len(row[at]) for row in (head, *lines)) + 2 for at in range(len(head))) - 2


def _next(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str | None:
    whole = "median" in head and any("(" in line[head.index("median")] for line in lines)
    if whole and not any(name in head for name in FOLDED[:4]):
        return "median"  # first loses its interval
    return next((name for name in FOLDED if name in head), None)


def narrow_pairs(
    head: Sequence[str], rows: Sequence[Sequence[str]], width: int = WIDTH
) -> tuple[list[str], list[list[str]]]:
    """The table of differences without the columns that the verdict already rests on, until it fits."""
    head, lines = [*head], [[*row] for row in rows]
    for name in ("tasks", "seeds", "claim about", "sign p", "p"):
        if _width(head, lines) > width and name in head:
            at = head.index(name)
            for line in (head, *lines):
                del line[at]
    return head, lines
