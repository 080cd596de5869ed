"""Reading the examples of a new task: tables, arrays, folders of pictures -> raw inputs and their targets."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metaexp.checks import nearest
from metaexp.errors import DataError
from metaexp.tasks.data.pictures import ENDINGS
from metaexp.tasks.data.raw import RawInputs
from metaexp.tasks.data.table import Frame, read_table

TABLES = (".csv", ".tsv", ".tab", ".parquet", ".pq")


class Columns(NamedTuple):
    """Which columns of a table have which part.

    Attributes:
        target: of targets or labels.
        text: of sentences; None: the run's own.
        keep: of neither inputs nor targets; they stand in the predictions.
        numeric: whether targets are numbers.
    """

    target: str
    text: str | None
    keep: Sequence[str]
    numeric: bool


class Sheet(NamedTuple):
    """Examples as they were read.

    Attributes:
        source: the file or folder, for messages.
        x: raw examples, for the estimator; of a table of numbers the array of its inputs.
        y: a target for each, None where there is none.
        rows: columns that tell the rows apart, for the predictions.
        inputs: names of the inputs of a table of numbers.
    """

    source: Path
    x: Any
    y: list[Any]
    rows: dict[str, list[Any]]
    inputs: list[str] | None = None

    def __len__(self) -> int:
        return len(self.y)

    def part(self, places: Sequence[int]) -> "Sheet":
        """Some of the rows."""
        chosen: Any
        if isinstance(self.x, dict):
            chosen = {name: [values[i] for i in places] for name, values in self.x.items()}
        else:
            chosen = self.x[list(places)] if isinstance(self.x, np.ndarray) else [self.x[i] for i in places]
        rows = {name: [values[i] for i in places] for name, values in self.rows.items()}
        return Sheet(self.source, chosen, [self.y[i] for i in places], rows, self.inputs)


def read_sheet(path: Path, raw: RawInputs, columns: Columns, like: Sheet | None = None) -> Sheet:
    """The examples in a file or folder.

    Args:
        raw: what the run does with raw examples.
        columns: of a table.
        like: the support set, whose inputs a query set must have; they may stand in another order.

    Raises:
        DataError: the file cannot be read, or lacks a column; one line that names it, and the row where there is one.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    suffix = path.suffix.lower()
    if path.is_dir():
        return _folder(path)
    if suffix in ENDINGS:
        return Sheet(path, [path], [None], {"file": [str(path)]})
    if suffix == ".npz":
        return _arrays(path, columns.numeric)
    if suffix in TABLES:
        return _table(read_table(str(path)), raw, columns, like)
    raise DataError(f"{path}: must be a .csv, .tsv, .parquet or .npz file, or a folder of pictures")


def divided(sheet: Sheet) -> tuple[Sheet, Sheet]:
    """Rows with a target, and rows without one; raises DataError if there are none of a kind."""
    known = [i for i, value in enumerate(sheet.y) if value is not None]
    asked = [i for i, value in enumerate(sheet.y) if value is None]
    for places, what in ((known, "with"), (asked, "without")):
        if not places:
            raise DataError(f"{sheet.source}: has no row {what} a target; name two files, support= and query=")
    return sheet.part(known), sheet.part(asked)


# -- folders -----------------------------------------------------------------------------------------------------------


def _folder(root: Path) -> Sheet:
    """Pictures in class folders, with these as labels; or pictures that lie in the folder itself, without labels."""
    if alone := _pictures(root, deep=False):
        return Sheet(root, alone, [None] * len(alone), {"file": [str(path.relative_to(root)) for path in alone]})
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    pairs = [(path, folder.name) for folder in folders for path in _pictures(folder, deep=True)]
    if not pairs:
        raise DataError(f"{root}: no pictures; there must be one folder of pictures per class, e.g. {root}/cat/1.png")
    files = [path for path, _ in pairs]
    return Sheet(root, files, [label for _, label in pairs], {"file": [str(path.relative_to(root)) for path in files]})


def _pictures(folder: Path, deep: bool) -> list[Path]:
    found = folder.rglob("*") if deep else folder.iterdir()
    return sorted(p for p in found if p.suffix.lower() in ENDINGS and not p.name.startswith(".") and p.is_file())


# -- arrays ------------------------------------------------------------------------------------------------------------


def _arrays(path: Path, numeric: bool) -> Sheet:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = (str(error).strip().splitlines() or ["damaged"])[0][:120]
        raise DataError(f"{path}: cannot be read as npz ({reason})") from error
    if "x" not in found:
        raise DataError(f"{path}: has no array x; it has {', '.join(found) or 'nothing'}")
    x, y = found["x"], found.get("y")
    if x.ndim == 0 or len(x) == 0:
        raise DataError(f"{path}: x holds no examples")
    if y is not None and (y.ndim == 0 or len(y) != len(x)):
        raise DataError(f"{path}: y is {list(y.shape)}, and x has {len(x)} examples; there must be one y for each")
    return Sheet(path, x, _listed(path, y, len(x), numeric), {"row": list(range(len(x)))})


def _listed(path: Path, y: np.ndarray | None, n: int, numeric: bool) -> list[Any]:
    if y is None:
        return [None] * n
    if numeric and y.dtype.kind not in "biuf":
        raise DataError(f"{path}: y holds {y.dtype}, must be numbers")
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    values = y.tolist() if y.ndim == 1 else list(y)
    return [None if _is_missing(value) else value for value in values]


def _is_missing(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return bool(np.isnan(value).all()) if value.dtype.kind == "f" else False
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


# -- tables ------------------------------------------------------------------------------------------------------------


def _table(frame: Frame, raw: RawInputs, columns: Columns, like: Sheet | None) -> Sheet:
    names = list(frame.columns)
    kept = [name for name in columns.keep if name in names]
    if like is not None and (gone := [name for name in columns.keep if name not in names]):
        raise DataError(f"{frame.path}: has no column {gone[0]}{_hint(gone[0], names)} (keep=)")
    y = _targets(frame, columns) if columns.target in names else [None] * len(frame.lines)
    rows = {name: frame.columns[name] for name in kept} or {"row": list(range(1, len(frame.lines) + 1))}
    kind = getattr(raw, "kind", "frames" if raw.names is not None else "arrays")
    rest = [name for name in names if name != columns.target and name not in kept]
    if kind == "texts":
        name = columns.text or (raw.names or ["text"])[0]
        return Sheet(frame.path, _column(frame, name, rest, "text"), y, rows)
    if kind == "pictures":
        name = (raw.names or ["filename"])[0]
        files = [_file(frame, str(cell)) for cell in _column(frame, name, rest, "")]
        return Sheet(frame.path, files, y, {name: frame.columns[name]} | (rows if kept else {}))
    if kind == "frames":
        return Sheet(frame.path, {name: frame.columns[name] for name in rest}, y, rows)
    inputs = rest if like is None or like.inputs is None else like.inputs
    for name in inputs:
        if name not in rest:
            raise DataError(f"{frame.path}: has no column {name}{_hint(name, rest)}")
    if extra := [name for name in rest if name not in inputs]:
        raise DataError(
            f"{frame.path}: column {extra[0]} is not among those of {like.source if like else ''}; leave it out with "
            f"keep=[{extra[0]}]"
        )
    numbers = [[_number(frame, name, row, cell) for row, cell in enumerate(frame.columns[name])] for name in inputs]
    x = np.array(numbers, np.float64).reshape(len(inputs), len(frame.lines)).T
    return Sheet(frame.path, x, y, rows, inputs)


def _targets(frame: Frame, columns: Columns) -> list[Any]:
    cells = [None if _is_missing(cell) or str(cell).strip() == "" else cell for cell in frame.columns[columns.target]]
    if columns.numeric:
        return [None if cell is None else _number(frame, columns.target, row, cell) for row, cell in enumerate(cells)]
    return [cell.strip() if isinstance(cell, str) else cell for cell in cells]


def _number(frame: Frame, name: str, row: int, cell: Any) -> float:
    try:
        value = float(cell)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        shown = "nothing" if _is_missing(cell) else repr(cell)[:40]
        raise DataError(
            f"{frame.path}: {frame.where(row)} has {shown} as {name}, which must be a finite number; "
            f"correct it, or leave the column out with keep=[{name}]"
        )
    return value


def _column(frame: Frame, name: str, names: Sequence[str], setting: str) -> list[Any]:
    if name not in names:
        fix = f"; set {setting}=COLUMN" if setting else ""
        raise DataError(f"{frame.path}: has no column {name}{_hint(name, names)}{fix}")
    return frame.columns[name]


def _file(frame: Frame, name: str) -> Path:
    path = Path(name).expanduser()
    return path if path.is_absolute() else frame.path.parent / path


def _hint(name: str, names: Sequence[str]) -> str:
    return nearest(name, names) or f"; it has {', '.join(names[:20]) or 'no other'}"
