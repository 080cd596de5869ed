"""Shared checks, and helpers for the wording of their messages."""

from collections.abc import Iterable
from difflib import SequenceMatcher
from numbers import Integral
from shlex import quote
from typing import Any


def whole(name: str, value: Any, least: int) -> None:
    """Raise ValueError unless the value is a whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name}={value}: must be a whole number")
    if value < least:
        raise ValueError(f"{name}={value}: must be at least {least}")


def printable(text: str) -> str:
    r"""The text as one line that a terminal only shows: control characters, escape sequences, changes of the writing
    direction and bytes that are no text stand there as \x1b, \u202e."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def shell(word: str) -> str:
    """A word as it can be pasted into a shell, in one line: quoted where it must be, as $'...' if not shown."""
    if word.isprintable():
        return quote(word)
    shown = (c if c.isprintable() else _bytes(c) for c in word.replace("\\", "\\\\").replace("'", "\\'"))
    return f"$'{''.join(shown)}'"


def _bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


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
