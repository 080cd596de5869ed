"""Arrays and frames that a user hands over: numbers, and names of columns."""

from typing import Any

import numpy as np
from torch import Tensor


def numbers(name: str, value: Any) -> np.ndarray:
    """An array of finite numbers; tensors, lists and frames are accepted too.

    Raises ValueError for anything else, TypeError for objects that are no numbers; the message starts with `name`.
    """
    if hasattr(value, "toarray") and not hasattr(value, "__array__"):
        raise ValueError(f"{name}: a sparse matrix; {name}.toarray() makes it an array")
    value = value.detach().cpu() if isinstance(value, Tensor) else value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: not an array, its rows differ in length") from error
    if array.dtype.kind == "O" and array.size and not any(isinstance(item, str | bytes) for item in array.flat):
        try:
            array = array.astype(np.float64)  # a frame with columns of several types
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error
    if array.dtype.kind == "c":
        raise ValueError(f"{name}: Complex data not supported ({array.dtype})")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: holds {array.dtype}, must be numbers")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name}: holds a value that is not finite (NaN or inf)")
    return array


def column_names(x: Any) -> np.ndarray | None:
    """The names of a frame's columns [columns] (pandas, polars, Arrow); None without, or if they are no words.

    Raises TypeError if only some of them are words.
    """
    found = getattr(x, "column_names", None) or getattr(x, "columns", None)
    if found is None or isinstance(x, np.ndarray | Tensor):
        return None
    names = list(found)
    words = sum(isinstance(name, str) for name in names)
    if words == 0:
        return None
    if words < len(names):
        raise TypeError(
            "x: Feature names are only supported if all input features have string names; "
            "x.columns = x.columns.astype(str) makes it so"
        )
    return np.array(names, dtype=object)


def check_names(before: np.ndarray | None, now: np.ndarray | None, kind: str) -> str:
    """Compare the columns of `fit` with those of `predict`; returns a warning, "" if all is well.

    Columns in another order are refused, as scikit-learn does, not sorted: raises ValueError.
    """
    if before is None or now is None:
        if before is not None:
            return f"X does not have valid feature names, but {kind} was fitted with feature names"
        return "" if now is None else f"X has feature names, but {kind} was fitted without feature names"
    if list(before) == list(now):
        return ""
    said = []
    if new := [str(name) for name in now if name not in set(before)]:
        said.append(f"{', '.join(new[:5])} not seen in fit")
    if gone := [str(name) for name in before if name not in set(now)]:
        said.append(f"{', '.join(gone[:5])} missing")
    order = f"in fit they were {', '.join(map(str, before[:10]))}, in this order"
    raise ValueError(f"x: The feature names should match those that were passed during fit: {'; '.join(said) or order}")
