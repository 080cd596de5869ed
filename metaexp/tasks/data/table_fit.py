"""What a table's columns are turned into, fitted by scikit-learn's transformers to the rows of the training tasks."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from metaexp.checks import nearest
from metaexp.errors import DataError
from metaexp.tasks.data.table import EXTRA, Frame
from metaexp.tasks.data.table_columns import (
    MISSING,
    day_of,
    is_missing,
    kind_of,
    number_of,
    read_column,
    word_of,
)
from metaexp.tasks.data.table_inputs import Spec, TableInputs

log = logging.getLogger(__name__)


class Wishes(NamedTuple):
    """What the settings say of columns."""

    inputs: Sequence[str] | None = None  # None: all that have no other use
    drop: Sequence[str] = ()
    categorical: Sequence[str] = ()
    log: Sequence[str] = ()
    missing: Sequence[str] = ()  # further words that mean a missing value
    most: int = 30  # categories of one column with a place of their own

    @property
    def words(self) -> frozenset[str]:
        """All words that mean a missing value."""
        return MISSING | frozenset(self.missing)


def input_names(frame: Frame, wishes: Wishes, used: dict[str, str]) -> list[str]:
    """The columns that are inputs, in the order of the file.

    Args:
        used: column -> the setting that gives it another use; only the column of `order` may be an input too.

    Raises:
        DataError: a setting names a column that is not there, or none is left.
        ValueError: the target or the tasks' own column is among the inputs.
    """
    for setting in ("inputs", "drop", "categorical", "log"):
        for name in getattr(wishes, setting) or ():
            frame.column(name, setting)
    for name in wishes.inputs or ():
        if used.get(name, "order") != "order":
            leak = (
                "the learner would be given what it has to predict" if used[name] == "target" else "it names the task"
            )
            raise ValueError(f"inputs: {name} is task.{used[name]}; {leak}, leave it out")
        if name in wishes.drop:
            raise ValueError(f"drop: {name} is among the inputs; name it in one of them")
    free = [name for name in frame.columns if used.get(name, "order") == "order" and name not in wishes.drop]
    names = free if wishes.inputs is None else [name for name in frame.columns if name in wishes.inputs]
    if not names:
        raise DataError(f"{frame.path}: no column is left as an input; it has {', '.join(list(frame.columns)[:20])}")
    for setting in ("categorical", "log"):
        for name in getattr(wishes, setting):
            if name not in names:
                raise ValueError(f"{setting}: {name} is no input{nearest(name, names)}")
    return names


def known_names(frame: Frame, fitted: TableInputs, target: str, kind: str, used: dict[str, str]) -> list[str]:
    """The input columns of another table, all of which must be here; columns that it did not have are not read, which
    is said.

    Raises ValueError if the target, its kind or a column is another one.
    """
    known, names = fitted.target, list(fitted.names or [])
    if target != known["name"] or kind not in ("auto", known["kind"]):
        raise ValueError(f"target={target}: the run learned {known['name']} ({known['kind']}); it must stay so")
    for name in names:
        if name not in frame.columns:
            raise ValueError(
                f"file: {frame.path} has no column {name}{nearest(name, frame.columns)}, an input of the run"
            )
    foreign = [name for name in frame.columns if name not in {*names, *fitted.others, *used}]
    if foreign:
        log.warning("columns that the run does not know are not read: %s", ", ".join(foreign[:20]))
    return names


def fit_columns(frame: Frame, names: Sequence[str], train: np.ndarray, wishes: Wishes) -> list[Spec]:
    """The specification of each input column, fitted to the rows `train` (numbers) alone; see `TableInputs`.

    A column that is the same in all these rows is marked as constant: the learner is given 0, whatever other rows hold.

    Raises DataError for a column of mixed types, or one that is missing in all training tasks.
    """
    _need_sklearn(frame)
    return [_fitted(frame, name, train, wishes) for name in names]


def _fitted(frame: Frame, name: str, train: np.ndarray, wishes: Wishes) -> Spec:
    values = frame.columns[name]

    def where(row: int) -> str:
        return f"{frame.path}: {frame.where(row)}"

    kind = "category" if name in wishes.categorical else kind_of(name, values, wishes.words, where)
    if kind is None:
        raise DataError(f"{frame.path}: column {name} holds nothing but missing values; task.drop=[{name}]")
    if kind != "number" and name in wishes.log:
        raise DataError(f"{frame.path}: column {name} holds no numbers, task.log needs them")
    if kind == "category":
        return _fitted_category(frame, name, [values[row] for row in train], wishes)
    numbers, _ = read_column(values, day_of if kind == "date" else number_of, wishes.words)
    log = name in wishes.log
    if log and (low := np.flatnonzero(numbers <= 0)).size:
        raise DataError(f"{where(int(low[0]))}: column {name} holds {numbers[low[0]]:g}; task.log needs more than 0")
    return _fitted_number(frame, name, kind, np.log(numbers[train]) if log else numbers[train], log)


def _fitted_number(frame: Frame, name: str, kind: str, numbers: np.ndarray, log: bool) -> Spec:
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    if np.isnan(numbers).all():
        raise DataError(f"{frame.path}: column {name} is missing in all training tasks; task.drop=[{name}]")
    imputer = SimpleImputer(strategy="median").fit(numbers[:, None])
    scaler = StandardScaler().fit(imputer.transform(numbers[:, None]))
    missing = bool(np.isnan(numbers).any())
    constant = float(np.nanmin(numbers)) == float(np.nanmax(numbers)) and not missing
    units = {"median": imputer.statistics_[0], "mean": scaler.mean_[0], "std": scaler.scale_[0]}
    return {
        "name": name,
        "kind": kind,
        "log": log,
        "missing": missing,
        **{key: float(value) for key, value in units.items()},
        **({"constant": True} if constant else {}),
    }


def _fitted_category(frame: Frame, name: str, values: Sequence[Any], wishes: Wishes) -> Spec:
    from sklearn.preprocessing import OneHotEncoder

    words = [word_of(value) for value in values if not is_missing(value, wishes.words)]
    if not words:
        raise DataError(f"{frame.path}: column {name} is missing in all training tasks; task.drop=[{name}]")
    missing = len(words) < len(values)
    constant = len(set(words)) == 1 and not missing
    encoder = OneHotEncoder(max_categories=wishes.most + 1, handle_unknown="infrequent_if_exist")
    encoder.fit(np.array(words, dtype=object)[:, None])
    rare = encoder.infrequent_categories_[0]
    kept = [str(one) for one in encoder.categories_[0] if rare is None or one not in set(rare)]
    spec = {"name": name, "kind": "category", "categories": kept, "rest": rare is not None, "missing": missing}
    return spec | ({"constant": True} if constant else {})


def check_leak(frame: Frame, names: Sequence[str], target: str) -> None:
    """Refuse, with a DataError, an input column whose cells equal the target's in every row."""
    y = frame.columns[target]
    for name in names:
        if len(y) > 2 and frame.columns[name] == y:
            raise DataError(
                f"{frame.path}: column {name} equals the target {target} in every row: it would give it away; "
                f"task.drop=[{name}]"
            )


def fit_target(frame: Frame, target: str, kind: str, train: np.ndarray, words: frozenset[str]) -> tuple[Spec, str]:
    """The specification of the target, and why it is regression or classification, in words ("" if that was typed).

    Text and two different values make classes (named over all tasks, for every task has the same); other numbers are
    regression, standardised with the mean and deviation of the training tasks.

    Raises DataError for a missing, infinite or mixed target, with its row.
    """
    values = frame.columns[target]

    def where(row: int) -> str:
        return f"{frame.path}: {frame.where(row)}"

    for row, value in enumerate(values):
        if is_missing(value, words):
            raise DataError(f"{where(row)}: the target {target} is missing; complete the row or remove it")
    found = kind_of(target, values, words, where)
    why = ""
    if kind == "auto":
        different = len({word_of(value) for value in values})
        kind = "classification" if found == "category" or different == 2 else "regression"
        why = f"{target} has {different} different values" + ("" if found == "number" else ", which are no numbers")
    if kind == "classification":
        return _classes(frame, target, values, found == "number"), why
    if found != "number":
        raise DataError(f"{frame.path}: the target {target} holds no numbers; task.kind=classification learns classes")
    return _units(frame, target, values, train, words), why


def _classes(frame: Frame, target: str, values: Sequence[Any], numeric: bool) -> Spec:
    words = {word_of(value) for value in values}
    classes = sorted(words, key=(lambda word: (float(word), word)) if numeric else None)
    if len(classes) < 2:
        raise DataError(f"{frame.path}: the target {target} is {classes[0]!r} in every row; there must be two classes")
    if len(classes) > max(20, len(values) // 10):
        raise DataError(
            f"{frame.path}: the target {target} has {len(classes)} classes in {len(values)} rows; "
            "task.kind=regression learns numbers"
        )
    return {"name": target, "kind": "classification", "classes": classes}


def _units(frame: Frame, target: str, values: Sequence[Any], train: np.ndarray, words: frozenset[str]) -> Spec:
    from sklearn.preprocessing import StandardScaler

    numbers, _ = read_column(values, number_of, words)
    if np.ptp(numbers[train]) == 0:
        raise DataError(
            f"{frame.path}: the target {target} is {numbers[train][0]:g} in every row of the training tasks"
        )
    scaler = StandardScaler().fit(numbers[train][:, None])
    return {"name": target, "kind": "regression", "mean": float(scaler.mean_[0]), "std": float(scaler.scale_[0])}


def _need_sklearn(frame: Frame) -> None:
    try:
        import sklearn.preprocessing  # noqa: F401
    except ImportError:
        raise DataError(f"{frame.path}: task=table needs scikit-learn; {EXTRA}") from None
