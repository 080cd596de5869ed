"""A part of a report beside its tables of single tests: tables, lines, pictures and numbers, in every form."""

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from metaexp.checks import printable
from metaexp.loggers import html_page as html
from metaexp.report.latex import escaped
from metaexp.report.narrow import WIDTH
from metaexp.report.reading import Found
from metaexp.report.text import aligned, marked, not_read


class Table(NamedTuple):
    """Cells of text."""

    head: list[str]
    rows: list[list[str]]
    left: int  # columns that are aligned at their beginning
    short: "Table | None" = None  # what stands on a screen instead if this one is too wide; None: this one does


class Part(NamedTuple):
    """What is said under one title."""

    title: str
    tables: list[Table]
    notes: list[str]
    data: dict[str, Any]  # all numbers in full, for JSON
    pictures: list[tuple[str, bytes]] = []  # file name, PNG


def part_text(part: Part, width: int | None = WIDTH, markdown: bool = False) -> str:
    """The part as aligned columns or Markdown."""
    made = [f"{'## ' if markdown else ''}{printable(part.title)}"]
    for table in part.tables:
        shown = (marked if markdown else aligned)(table.head, table.rows, table.left)
        if table.short and width and not markdown and max(map(len, shown.splitlines())) > width:
            shown = aligned(table.short.head, table.short.rows, table.short.left)
        made.append(shown)
    if markdown:
        made.append("\n".join(f"- {printable(note)}" for note in part.notes))
    else:
        made += [textwrap.fill(printable(note), width or WIDTH, subsequent_indent="  ", break_long_words=False)
                 for note in part.notes]  # fmt: skip
    return "\n\n".join(filter(None, made)) + "\n"


def parts_text(parts: Sequence[Part], found: Found, width: int | None = WIDTH, markdown: bool = False) -> str:
    """All parts, and the runs that could not be read."""
    made = [part_text(part, width, markdown) for part in parts]
    return "\n".join([*made, *(f"{line}\n" for line in not_read(found, markdown))])


def part_html(part: Part) -> list[str]:
    """The part as pieces of a page."""
    made = [f"<h2>{html.text(part.title)}</h2>"]
    made += [html.picture(name.removesuffix(".png"), png) for name, png in part.pictures]
    made += [html.table(table.head, table.rows) for table in part.tables]
    return [*made, *(f"<p>{html.text(note)}</p>" for note in part.notes)]


def part_latex(part: Part) -> str:
    """The part's tables for LaTeX, with booktabs; the title and what is said stand in the caption of the first."""
    made = []
    for place, table in enumerate(part.tables):
        right = len(table.head) - table.left
        said = (
            part.title
            if place
            else ". ".join([part.title, *(note[:1].upper() + note[1:].rstrip(".") for note in part.notes)])
        )
        lines = ["\\begin{table}", "\\centering", f"\\begin{{tabular}}{{{'l' * table.left}{'r' * right}}}", "\\toprule"]
        lines += [" & ".join(map(_cell, row)) + r" \\" for row in (table.head, *table.rows)]
        lines.insert(5, "\\midrule")
        made.append(
            "\n".join([*lines, "\\bottomrule", "\\end{tabular}", f"\\caption{{{_cell(said)}.}}", "\\end{table}\n"])
        )
    return "\n".join(made)


def _cell(text: str) -> str:
    return escaped(text).replace("±", "$\\pm$").replace("<", "$<$")
