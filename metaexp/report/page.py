"""The comparison as one self-contained HTML page: tables and pictures in a file that opens without a server."""

from collections.abc import Sequence

from metaexp.loggers import html_page as html
from metaexp.report.grouping import Compared
from metaexp.report.narrow import narrow
from metaexp.report.parts import Part, part_html
from metaexp.report.reading import Found
from metaexp.report.tables import Block
from metaexp.report.text import cells, legend, pair_cells

ROOM = 10**6  # a page scrolls


def page(
    made: Sequence[Block],
    compared: Compared,
    found: Found,
    pictures: Sequence[tuple[str, bytes]],
    beside: Sequence[Part] = (),
) -> str:
    """The whole report as HTML; parts `beside` the tables of single tests come first."""
    parts, before = [piece for part in beside for piece in part_html(part)], None
    for block in made:
        if block.section is not before:
            parts.append(f"<h2>{html.text(block.section.title)}</h2>")
        before = block.section
        head, rows = cells(block, compared.keys)
        head, rows, below = narrow(block, head, rows, head.index(block.metric), ROOM)
        parts.append(html.table(head, rows, [row.floor for row in block.rows]))
        parts += [f"<p>{html.text(line)}</p>" for line in below]
        if block.pairs:
            parts.append(html.folded("differences", html.table(*pair_cells(block))))
        if block.pairs_note:
            parts.append(f"<p>{html.text(block.pairs_note)}</p>")
    parts += [html.picture(name.removesuffix(".png"), png) for name, png in pictures]
    said = [line for text in legend(made) for line in text.splitlines()]
    parts.append("<ul>" + "".join(f"<li>{html.text(line)}</li>" for line in said) + "</ul>")
    lines = [f"note: {note}" for note in compared.notes]
    lines += [f"{one.state}: {one.folder} ({one.text})" for one in found.unfinished]
    lines += [f"damaged: {line}" for line in found.damaged]
    parts += [f"<p>{html.text(line)}</p>" for line in lines]
    return html.document(f"{len(found.runs)} runs compared", parts)
