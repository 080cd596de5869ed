"""The comparison as one self-contained HTML page: tables and pictures in a file that opens without a server."""

from collections.abc import Sequence

from metaexp.checks import show
from metaexp.loggers import html_page as html
from metaexp.report.grouping import Compared
from metaexp.report.narrow import narrow
from metaexp.report.parts import Part, part_html
from metaexp.report.pictures import Drawn
from metaexp.report.reading import Found, Run
from metaexp.report.tables import Block
from metaexp.report.text import cells, legend, pair_cells

ROOM, ALL = 112, 10**6  # columns of text: what fits on a page, and what scrolls


def page(
    made: Sequence[Block],
    compared: Compared,
    found: Found,
    pictures: Sequence[Drawn],
    beside: Sequence[Part] = (),
) -> str:
    """The whole report as HTML; parts `beside` the tables of single tests come first.

    Pictures stand below their table; those of a test's further metrics open on request.
    """
    parts, before = [piece for part in beside for piece in part_html(part)], None
    for place, block in enumerate(made):
        further = block.section is before
        if block.section is not before:
            parts.append(f"<h2>{html.text(block.section.title)}</h2>")
        before = block.section
        parts += _numbers(block, compared.keys)
        if block.pairs:
            parts.append(html.folded("differences", html.table(*pair_cells(block))))
        if block.pairs_note:
            parts.append(f"<p>{html.text(block.pairs_note)}</p>")
        shown = [html.picture(one.name.removesuffix(".png"), one.png) for one in pictures if one.block == place]
        parts += [html.folded(f"pictures of {block.metric}", "\n".join(shown))] if further and shown else shown
    said = [line for text in legend(made) for line in text.splitlines()]
    parts.append("<ul>" + "".join(f"<li>{html.text(line)}</li>" for line in said) + "</ul>")
    lines = [f"note: {note}" for note in compared.notes]
    lines += [f"{one.state}: {one.folder} ({one.text})" for one in found.unfinished]
    lines += [f"damaged: {line}" for line in found.damaged]
    parts += [f"<p>{html.text(line)}</p>" for line in lines]
    parts += _origin([run for section in compared.sections for run in section.runs])
    return html.document(f"{len(found.runs)} runs compared", parts)


def _numbers(block: Block, keys: Sequence[str]) -> list[str]:
    """The table of a metric as wide as the page is; with all columns where some have no room."""
    head, rows = cells(block, keys)
    pale, at = [row.floor for row in block.rows], head.index(block.metric)
    wide, wide_rows, below = narrow(block, head, rows, at, ALL)
    fit, fit_rows, _ = narrow(block, head, rows, at, ROOM)
    parts = [html.table(fit, fit_rows, pale), *(f"<p>{html.text(line)}</p>" for line in below)]
    return parts if fit == wide else [*parts, html.folded("all columns", html.table(wide, wide_rows, pale))]


def _origin(runs: Sequence[Run]) -> list[str]:
    """The commands of the runs, and the settings that all of them share."""
    typed = {run.folder: str(run.result.get("command") or "") for run in runs}
    distinct = [command for command in dict.fromkeys(typed.values()) if command]
    parts = [f"<h2>Command{'s' * (len(distinct) > 1)}</h2><pre>{html.text(chr(10).join(distinct))}</pre>"] * bool(
        distinct
    )
    keys = [key for key in runs[0].config if all(key in run.config for run in runs)] if runs else []
    same = [(key, show(runs[0].config[key])) for key in keys if len({str(run.config[key]) for run in runs}) == 1]
    parts.append(html.folded("settings of all runs", html.table(["setting", "value"], same)))
    names = [(str(run.folder.name), str(run.folder)) for run in runs]
    return [*parts, html.folded("runs", html.table(["run", "folder"], names))]
