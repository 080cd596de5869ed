"""Predictions of one task as a table: printed, or written whole or not at all as CSV, TSV, Parquet or npz."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from metaexp.adapt.sheets import Sheet
from metaexp.errors import ConfigError
from metaexp.system.files import replace_file

Table = dict[str, Sequence[Any] | np.ndarray]  # columns by name


def table(model: Any, query: Sheet, target: str) -> tuple[Table, dict[str, np.ndarray]]:
    """Predictions as columns, and as arrays for npz.

    Classification: `prediction`, and `p_CLASS` for every class. Regression: `prediction` (with several targets
    `prediction_1`, ...) and, where the method has them, standard deviations `std`. The query's own targets stand
    beside them under their name.

    Raises ConfigError if a column that is kept has such a name.
    """
    rows: Table = dict(query.rows)
    if any(value is not None for value in query.y):
        rows[target] = query.y
    made, arrays = _classes(model, query) if hasattr(model, "predict_proba") else _values(model, query)
    if double := [name for name in made if name in rows]:
        raise ConfigError(f"keep={double[0]}: is also the name of a column of predictions; rename it")
    kept = {name: np.array(["" if v is None else v for v in values]) for name, values in rows.items()}
    return rows | made, {name: array for name, array in kept.items() if array.dtype.kind != "O"} | arrays


def _classes(model: Any, query: Sheet) -> tuple[Table, dict[str, np.ndarray]]:
    proba = model.predict_proba(query.x)  # [n, classes]
    best = model.classes_[proba.argmax(1)]
    columns = {f"p_{label}": proba[:, i] for i, label in enumerate(model.classes_)}
    return {"prediction": best, **columns}, {
        "prediction": best, "probabilities": proba, "classes": model.classes_
    }  # fmt: skip


def _values(model: Any, query: Sheet) -> tuple[Table, dict[str, np.ndarray]]:
    mean, std = model.predict(query.x, return_std=True) if model.gaussian else (model.predict(query.x), None)
    arrays = {"prediction": mean} | ({} if std is None else {"std": std})
    columns: Table = {}
    for name, values in arrays.items():
        flat = values.reshape(len(values), -1)
        several = flat.shape[1] > 1
        columns |= {f"{name}_{i + 1}" if several else name: flat[:, i] for i in range(flat.shape[1])}
    return columns, arrays


def check_ending(path: Path) -> None:
    """Raises ConfigError if this kind of file cannot be written here."""
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise ConfigError(f"out={path}: Parquet needs pyarrow; pip install 'metaexp[tables]' adds it") from None


def write(path: Path, columns: Table, arrays: dict[str, np.ndarray]) -> None:
    """Write the file that its ending names; raises SpaceError, with nothing written."""
    suffix = path.suffix.lower()

    def fill(file: BinaryIO) -> None:
        if suffix == ".npz":
            np.savez(file, **arrays)  # type: ignore[arg-type]
        elif suffix == ".parquet":
            from pyarrow import table as arrow
            from pyarrow.parquet import write_table

            write_table(arrow({name: _plain(values) for name, values in columns.items()}), file)
        else:
            file.write(_delimited(columns, "," if suffix == ".csv" else "\t").encode())

    replace_file(path, fill)


def _plain(values: Sequence[Any] | np.ndarray) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _delimited(columns: Table, mark: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=mark, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*map(_plain, columns.values()), strict=True))
    return text.getvalue()


def printed(columns: Table, most: int = 20) -> str:
    """The first rows, aligned; numbers with four digits."""
    cells = [[name, *(_shown(value) for value in _plain(values)[:most])] for name, values in columns.items()]
    widths = [max(map(len, column)) for column in cells]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in zip(*cells, strict=True)
    ]
    rows = len(next(iter(columns.values())))
    return "\n".join(lines + ([f"... {rows - most:,} more; out=FILE writes all"] if rows > most else []))


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
