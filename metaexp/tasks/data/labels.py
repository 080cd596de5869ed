"""Labels of a new task among classes that are known."""

from typing import Any

import numpy as np

from metaexp.tasks.data.table_columns import word_of


def places_of(labels: np.ndarray, known: list[Any], whose: str = "this run") -> np.ndarray:
    """The place of each label [n] among the known ones, 1 and 1.0 being "1"; raises ValueError for another."""
    place, words = ({name(label): i for i, label in enumerate(known)} for name in (lambda label: label, word_of))
    found = [place.get(label, words.get(word_of(label))) for label in labels.tolist()]
    if None in found:
        label = labels.tolist()[found.index(None)]
        raise ValueError(f"y: {label!r} is none of the classes of {whose}, {', '.join(map(str, known[:10]))}")
    return np.array(found, np.int64)


def in_kind(known: list[Any], kind: str) -> np.ndarray:
    """The run's classes, which are words, in the kind of labels that the user has: numbers, truth values."""
    made = {"i": int, "u": int, "f": float, "b": {"True": True, "False": False}.__getitem__}.get(kind, str)
    try:
        return np.array([made(label) for label in known])  # type: ignore[operator]
    except (ValueError, KeyError):
        return np.array(known)
