"""Reading a table from CSV, TSV or Parquet: columns by name, and where each row stands in the file.

CSV and TSV are read by Python's `csv`, strictly, so that every fault has its line; Parquet needs pyarrow (extra
`tables`).
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metaexp.checks import nearest
from metaexp.errors import DataError
from metaexp.tasks.data.text_file import utf8

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
EXTRA = "pip install 'metaexp[tables]' adds it"


class Frame(NamedTuple):
    """A table in memory."""

    path: Path
    columns: dict[str, list[Any]]  # name -> values in the order of the rows: texts, or of Parquet objects
    lines: list[int]  # 1-based line of the file at which each row ends; of Parquet the number of the row

    def where(self, row: int) -> str:
        """Where row number `row` (from 0) stands, in words."""
        return f"{'line' if self.path.suffix.lower() in DELIMITERS else 'row'} {self.lines[row]}"

    def column(self, name: str, setting: str) -> list[Any]:
        """The values of a column. Raises DataError, naming the setting, if there is none of that name."""
        if name not in self.columns:
            hint = nearest(name, self.columns) or f"; it has {', '.join(list(self.columns)[:20])}"
            raise DataError(f"{self.path}: has no column {name}{hint}; set task.{setting}=")
        return self.columns[name]


def read_table(file: str, wanted: Sequence[tuple[str, str]] = ()) -> Frame:
    """The table in a file with a header.

    Args:
        file: .csv (comma), .tsv or .tab (tabulator), .parquet or .pq.
        wanted: (setting, column) that must be there; named in the message if they are not.

    Raises:
        DataError: the file is missing, empty, not UTF-8, has another delimiter, a column twice, or a row of another
            length; one line that names the file, and the row where there is one.
    """
    path = Path(file).expanduser()
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        frame = _parquet(path)
    elif suffix in DELIMITERS:
        frame = _delimited(path, DELIMITERS[suffix], wanted)
    else:
        raise DataError(f"{path}: tables are read from .csv, .tsv and .parquet; save it as one of them")
    if not frame.lines:
        raise DataError(f"{path}: has no rows")
    for setting, name in wanted:
        frame.column(name, setting)
    return frame


def _delimited(path: Path, delimiter: str, wanted: Sequence[tuple[str, str]]) -> Frame:
    content = utf8(path, "a CSV, TSV or Parquet file")
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        header = [name.strip() for name in next(reader)]
        _check_header(path, header, content.splitlines()[0], delimiter, wanted)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{path}: line {reader.line_num} has {len(row)} columns, the header {len(header)}; complete the "
                    f"row, and quote fields that hold {delimiter!r}"
                )
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}; quote fields with line breaks") from error
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in header]
    return Frame(path, dict(zip(header, columns, strict=True)), lines)


def _check_header(
    path: Path, header: Sequence[str], line: str, delimiter: str, wanted: Sequence[tuple[str, str]]
) -> None:
    others = [mark for mark in ";\t|," if mark != delimiter and line.count(mark) > line.count(delimiter)]
    if others and any(name not in header for _, name in wanted):
        fix = "name it .tsv" if others[0] == "\t" else f"save it with {delimiter!r}"
        raise DataError(f"{path}: its columns are separated by {others[0]!r}, not {delimiter!r}; {fix}")
    _check_names(path, header)


def _check_names(path: Path, header: Sequence[str]) -> None:
    if double := sorted({name for name in header if list(header).count(name) > 1}):
        what = f"two columns are named {double[0]}" if double[0] else "two columns have no name"
        raise DataError(f"{path}: line 1: {what}; rename one")
    if "" in header:
        raise DataError(f"{path}: line 1: column {list(header).index('') + 1} has no name; give it one")


def _parquet(path: Path) -> Frame:
    if not path.exists():
        raise DataError(f"{path}: no such file; task.file= names a CSV, TSV or Parquet file")
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table as read
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow; {EXTRA}") from None
    try:
        table = read(path)
    except (ArrowException, OSError) as error:
        reason = (str(error).strip().splitlines() or ["damaged"])[0][:120]
        raise DataError(f"{path}: cannot be read as Parquet ({reason})") from error
    names = [str(name) for name in table.column_names]
    _check_names(path, names)
    columns = {name: table.column(i).to_pylist() for i, name in enumerate(names)}
    return Frame(path, columns, list(range(1, table.num_rows + 1)))
