"""Checks of settings that several places share; the message starts with the setting's name."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any


def whole(name: str, value: Any, least: int) -> None:
    """Refuse what is not a whole number of at least `least`, with a ValueError."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name}={value}: must be a whole number")
    if value < least:
        raise ValueError(f"{name}={value}: must be at least {least}")


def interval(name: str, value: Any) -> tuple[Any, Any]:
    """(low, high) of a list of two finite numbers with low <= high; refuses others with a ValueError."""
    numbers = isinstance(value, Sequence) and all(isinstance(end, Real) and math.isfinite(end) for end in value)
    if not numbers or isinstance(value, str) or len(value) != 2:
        raise ValueError(f"{name}={value}: must be two numbers, [low, high]")
    low, high = value
    if not low <= high:
        raise ValueError(f"{name}=[{low}, {high}]: the first number must not be above the second")
    return low, high
