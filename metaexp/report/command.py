"""`python -m metaexp.report PATH...`: all runs under the paths as one comparison. See --help."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from metaexp.checks import printable
from metaexp.config.command_line import complain, exit_code
from metaexp.config.overrides import typed_path
from metaexp.errors import ConfigError, DataError
from metaexp.system.files import replace_file

if TYPE_CHECKING:
    from metaexp.report.parts import Part
    from metaexp.report.reading import Run


def main() -> None:
    """The command; exits with the codes of metaexp.errors."""
    sys.exit(exit_code(lambda: report(sys.argv[1:])))


OPTIONS = (
    "by",
    "over",
    "across",
    "against",
    "where",
    "sort",
    "metric",
    "markdown",
    "csv",
    "latex",
    "html",
    "json",
    "plots",
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see --help)")


def report(argv: Sequence[str]) -> int:
    """Print the comparison and write the requested files; returns the exit code.

    Raises:
        ConfigError: a wrong argument, a path that does not exist, a key or metric that no run has.
        DataError: there is no finished run under the paths.
        SpaceError: a file could not be written.
    """
    parser = _Parser(
        prog="python -m metaexp.report",
        description="Compares all runs and evaluations under the paths; unfinished and damaged ones are listed.",
        epilog="exit codes: 0 all read, 2 a wrong argument, 3 nothing finished or something damaged, 7 no space",
        allow_abbrev=False,
    )
    parser.add_argument(
        "paths", nargs="*", default=["outputs"], help="run folders, or folders of them; default outputs"
    )
    parser.add_argument(
        "--by",
        metavar="KEYS",
        help="settings that make groups, e.g. algo,task.shots; default: all in which the runs differ, except the seed",
    )
    parser.add_argument("--over", metavar="KEY", help="means over the values of this setting, e.g. task.fold")
    parser.add_argument(
        "--across", metavar="KEYS", help="ranks of methods, the values of these settings being the units, e.g. task"
    )
    parser.add_argument("--against", metavar="KEY", help="a curve over the values of this setting, e.g. train_tasks")
    parser.add_argument("--metric", metavar="NAMES", help="only these, e.g. mse,accuracy")
    parser.add_argument(
        "--where", metavar="KEY=VALUE", action="append", default=[], help="only runs with this setting; repeatable"
    )
    parser.add_argument(
        "--sort", metavar="ORDER", help="rows by mean, median, seconds, MB, steps or name; default: best"
    )
    parser.add_argument("--wide", action="store_true", help="every column; otherwise tables are folded to 80 columns")
    parser.add_argument("--pairs", action="store_true", help="differences between all groups, however many")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables as Markdown")
    parser.add_argument("--latex", metavar="FILE", type=Path, help="write the tables for LaTeX, with booktabs")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write tables and pictures as one page for a browser")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all numbers as JSON")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write one line per group and metric")
    parser.add_argument(
        "--plots", metavar="FOLDER", type=Path, help="write adaptation curves and error against seconds"
    )
    arguments = parser.parse_intermixed_args(list(argv))
    from metaexp.report.grouping import compare
    from metaexp.report.latex import HEAD, latex
    from metaexp.report.narrow import WIDTH
    from metaexp.report.page import page
    from metaexp.report.parts import part_latex, parts_text
    from metaexp.report.reading import find
    from metaexp.report.select import ordered, rows_of, where
    from metaexp.report.tables import blocks
    from metaexp.report.text import csv_text, text

    found = find([_path(word) for word in arguments.paths])
    if not found.runs:
        for one in found.unfinished:
            print(printable(f"{one.state}: {one.folder} ({one.text})"))
        for line in found.damaged:
            complain(line)
        raise DataError(f"{', '.join(map(str, arguments.paths))}: no finished run there")
    found = found._replace(runs=where(found.runs, arguments.where)) if arguments.where else found
    compared = compare(found.runs, _names(arguments.by))
    metrics = _names(arguments.metric)
    made = blocks(compared, arguments.pairs, metrics)
    known = list(dict.fromkeys(metric for section in compared.sections for metric in section.metrics))
    if unknown := [name for name in metrics if name not in known]:
        raise ConfigError(f"--metric {unknown[0]}: no run has it; there are {', '.join(known)}")
    made = [ordered(block, arguments.sort) for block in made] if arguments.sort else made
    parts = _parts(arguments, [run for section in compared.sections for run in section.runs], metrics)
    width = None if arguments.wide else WIDTH
    shown = parts_text(parts, found, width) if parts else text(made, compared, found, width=width)
    encoding = sys.stdout.encoding or "utf-8"
    print(shown.replace("±", "+-" if "utf" not in encoding.lower() else "±"), end="")
    if arguments.markdown:
        marked = parts_text(parts, found, markdown=True) if parts else text(made, compared, found, markdown=True)
        _write(typed_path("--markdown", str(arguments.markdown)), marked)
    if arguments.csv:
        _write(typed_path("--csv", str(arguments.csv)), csv_text(made, compared.keys))
    if arguments.latex:
        shown = HEAD + "\n".join(map(part_latex, parts)) if parts else latex(made, compared.keys)
        _write(typed_path("--latex", str(arguments.latex)), shown)
    if arguments.json:
        _write(typed_path("--json", str(arguments.json)), rows_of(made, compared.keys, parts))
    if arguments.plots or arguments.html:
        from metaexp.report.pictures import draw  # matplotlib takes half a second to import

        drawn = list(draw(made))
        beside = [picture for part in parts for picture in part.pictures]
        for name, png in [*beside, *((one.name, one.png) for one in drawn)] if arguments.plots else ():
            _write(typed_path("--plots", str(arguments.plots)) / name, png)
        if arguments.html:
            _write(typed_path("--html", str(arguments.html)), page(made, compared, found, drawn, parts))
    return DataError.exit_code if found.damaged else 0


def _parts(arguments: argparse.Namespace, runs: "list[Run]", metrics: list[str]) -> "list[Part]":
    """What is asked for beside, or instead of, the tables of single tests."""
    made, by = [], _names(arguments.by)
    if arguments.over:
        from metaexp.report.over import over_parts

        made += over_parts(runs, arguments.over, by, metrics)
    if arguments.across:
        from metaexp.report.across_part import across_parts

        made += across_parts(runs, _names(arguments.across), by, metrics, arguments.pairs)
    if arguments.against:
        from metaexp.report.against import against_parts

        made += against_parts(runs, arguments.against, by, metrics)
    return made


def _path(word: str) -> Path:
    path, (key, equals, value) = typed_path("PATH", word), word.partition("=")
    if equals and not path.exists() and key in OPTIONS:
        raise ConfigError(f"{word}: here options are written --{key} {value}")
    return path


def _names(words: str | None) -> list[str]:
    return [word.strip() for word in (words or "").split(",") if word.strip()]


def _write(path: Path, content: str | bytes) -> None:
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: its folder cannot be made ({error.strerror})") from error
    replace_file(path, lambda file: file.write(data), needs=len(data))
    print(printable(f"written: {path}"), file=sys.stderr)


if __name__ == "__main__":
    main()
