"""Reading labelled sentences from CSV, TSV, JSON and JSON lines."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from metaexp.checks import nearest
from metaexp.errors import DataError
from metaexp.tasks.data.text_file import utf8

SUFFIXES = {".csv": ",", ".tsv": "\t"}


def read_texts(files: Sequence[str], text: str, label: str, drop: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """All sentences of the files and their labels, sorted by label, in the order of the files within one label.

    A CSV or TSV file has a header. A JSON file is a list of objects, a list of [text, label], or an object of such
    lists, which are taken together. JSON lines hold one object or pair each.

    Args:
        files: paths; the ending tells the form.
        text, label: names of the two columns.
        drop: labels whose sentences are left out.

    Raises:
        DataError: a file is missing, empty, not UTF-8 or of another form, lacks a column, or has a row without text or
            label; the message names file and row.
    """
    if not files:
        raise DataError("task.file=[]: name a file, e.g. task.file=sentences.csv")
    if text == label:
        raise DataError(f"task.text={text}: is task.label too; the sentences and their labels are two columns")
    rows: list[tuple[str, str]] = []
    for name in files:
        path = Path(name).expanduser()
        before = len(rows)
        for place, found in _rows(path, text, label):
            rows.append(_checked(path, place, found))
        if len(rows) == before:
            raise DataError(f"{path}: has no rows")
    left_out = set(drop)
    if unknown := sorted(left_out - {one for _, one in rows}):
        raise DataError(f"task.drop: {unknown[0]!r} is not a label{nearest(unknown[0], {one for _, one in rows})}")
    kept = [row for row in rows if row[1] not in left_out]
    kept.sort(key=lambda row: row[1])
    return [row[0] for row in kept], [row[1] for row in kept]


def _checked(path: Path, place: str, found: tuple[Any, Any]) -> tuple[str, str]:
    for what, value in zip(("text", "label"), found, strict=True):
        if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
            shown = "nothing" if value is None or value == "" else repr(value)[:40]
            raise DataError(f"{path}: {place} has {shown} as {what}; complete the row or remove it")
    return str(found[0]), str(found[1]).strip()


def _rows(path: Path, text: str, label: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """(where it is, (text, label)) of each row."""
    suffix = path.suffix.lower()
    if suffix not in (*SUFFIXES, ".json", ".jsonl", ".ndjson"):
        raise DataError(f"{path}: sentences are read from .csv, .tsv, .json and .jsonl; save it as one of them")
    content = utf8(path, "a CSV, TSV, JSON or JSON-lines file")
    if suffix in SUFFIXES:
        yield from _table(path, content, SUFFIXES[suffix], text, label)
        return
    try:
        if suffix == ".json":
            data = json.loads(content)
            places = [(f"item {i}", item) for i, item in enumerate(_items(path, data))]
        else:
            lines = enumerate(content.split("\n"), 1)
            places = [(f"line {i}", _json_line(path, i, line)) for i, line in lines if line.strip()]
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    for place, item in places:
        if isinstance(item, list) and len(item) == 2:
            yield place, (item[0], item[1])
        elif isinstance(item, dict):
            for setting, name in (("text", text), ("label", label)):
                if name not in item:
                    hint = nearest(name, item) or f"; it has {', '.join(map(str, item)) or 'nothing'}"
                    raise DataError(f"{path}: {place} has no {name}{hint}; set task.{setting}=")
            yield place, (item[text], item[label])
        else:
            raise DataError(f"{path}: {place} is neither an object nor [text, label] but {repr(item)[:40]}")


def _json_line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {number} is not valid JSON: {error.msg} (column {error.colno})") from error


def _items(path: Path, data: Any) -> list[Any]:
    if isinstance(data, dict) and data and all(isinstance(part, list) for part in data.values()):
        return [item for part in data.values() for item in part]
    if isinstance(data, list):
        return data
    raise DataError(f"{path}: must be a list of rows, or an object of such lists")


def _table(path: Path, content: str, delimiter: str, text: str, label: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    reader = csv.reader(content.splitlines(keepends=True), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader)]
        if double := sorted({name for name in header if header.count(name) > 1 and name in (text, label)}):
            raise DataError(f"{path}: two columns are named {double[0]}; rename one")
        for setting, name in (("text", text), ("label", label)):
            if name not in header:
                raise DataError(no_column(path, header, content.splitlines()[0], delimiter, setting, name))
        first, second = header.index(text), header.index(label)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(f"{path}: line {reader.line_num} has {len(row)} columns, the header {len(header)}")
            yield f"line {reader.line_num}", (row[first], row[second])
    except csv.Error as error:
        long = "field larger" in str(error)  # most likely half of the file
        fix = "close the quote before it" if long else "quote fields with commas or line breaks"
        raise DataError(f"{path}: line {reader.line_num}: {error}; {fix}") from error


def no_column(path: Path, header: Sequence[str], line: str, delimiter: str, setting: str, name: str) -> str:
    others = [mark for mark in ",;\t|" if mark != delimiter and mark in line]
    if len(header) == 1 and others:
        return f"{path}: its columns are separated by {others[0]!r}, not {delimiter!r}; save it with {delimiter!r}"
    hint = nearest(name, header) or f"; it has {', '.join(header[:20])}"
    return f"{path}: has no column {name}{hint}; set task.{setting}="
