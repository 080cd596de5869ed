"""The comparison as LaTeX tables with booktabs: the best in bold, what is not shown to be worse underlined."""

from collections.abc import Sequence

from metaexp.loggers.result_table import baseline_label
from metaexp.report.narrow import AS_GOOD, BEST, carried, marks
from metaexp.report.tables import Block, Row, number

SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
SPECIAL |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
HEAD = "% needs \\usepackage{booktabs}\n"


def latex(made: Sequence[Block], keys: Sequence[str]) -> str:
    """All tables, one `table` environment per metric and section."""
    return HEAD + "\n".join(_table(block, keys) for block in made)


def escaped(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return "".join(SPECIAL.get(sign, sign) for sign in text)


def _table(block: Block, keys: Sequence[str]) -> str:
    own = [row for row in block.rows if not row.floor]
    seeds = any(row.seeds_half is not None for row in own)
    half = "95\\,\\% over seeds (Student's $t$)" if seeds else "95\\,\\% over test tasks"
    lines = [
        "\\begin{table}",
        "\\centering",
        f"\\begin{{tabular}}{{{'l' * len(keys)}rrr}}",
        "\\toprule",
        " & ".join([*(escaped(key) for key in keys), escaped(block.metric), "median", "seeds"]) + r" \\",
        "\\midrule",
    ]
    before = False
    for row, mark in zip(block.rows, marks(block), strict=True):
        if row.floor and not before and own:
            lines.append("\\midrule")
        before = row.floor
        names = [baseline_label(row.names[0]), *[""] * (len(keys) - 1)] if row.floor else list(row.names)
        cells = [_value(row, mark), number(row.median), "" if row.seeds is None else str(row.seeds)]
        lines.append(" & ".join([*map(escaped, names), *cells]) + r" \\")
    best = " Bold: the best; underlined: no difference from the best shown." if any(marks(block)) else ""
    caption = f"{escaped(block.section.title)}. $\\pm$: {half}.{best}"
    lines += ["\\bottomrule", "\\end{tabular}", f"\\caption{{{caption}}}", "\\end{table}", ""]
    return "\n".join(lines)


def _value(row: Row, mark: str) -> str:
    half = row.seeds_half or row.tasks_half
    if row.mean is None:
        return "not finite"
    text = carried(row.mean, half)
    inside = f"{text} \\pm {carried(half, half)}" if half else text
    shape = {BEST: "\\mathbf", AS_GOOD: "\\underline"}.get(mark)
    return f"${shape}{{{inside}}}$" if shape else f"${inside}$"
