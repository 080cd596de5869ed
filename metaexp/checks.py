"""Shared checks, and helpers for the wording of their messages."""

from collections.abc import Iterable
from difflib import SequenceMatcher
from numbers import Integral
from typing import Any


def whole(name: str, value: Any, least: int) -> None:
    """Raise ValueError unless the value is a whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name}={value}: must be a whole number")
    if value < least:
        raise ValueError(f"{name}={value}: must be at least {least}")


def _likeness(word: str, name: str) -> float:
    # Compare the letters in order and sorted: a swapped pair of letters should cost little.
    pairs = ((word, name), ("".join(sorted(word)), "".join(sorted(name))))
    return sum(SequenceMatcher(None, *pair).ratio() for pair in pairs) / 2


def nearest(word: str, names: Iterable[str]) -> str:
    """'; did you mean X?' with the name most similar to `word`, or an empty string if none is similar."""
    best = max(names, key=lambda name: _likeness(word, name), default="")
    return f"; did you mean {best}?" if best and _likeness(word, best) > 0.6 else ""


def show(value: Any) -> str:
    """A value as it is typed on the command line: null, true, [1, 2]."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(show(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {show(item)}' for key, item in value.items())}}}"
    return str(value) if isinstance(value, str | int | float) else type(value).__name__
