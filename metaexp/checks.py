"""Checks of settings that several places share; the message starts with the setting's name."""

from numbers import Integral
from typing import Any


def whole(name: str, value: Any, least: int) -> None:
    """Refuse what is not a whole number of at least `least`, with a ValueError."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name}={value}: must be a whole number")
    if value < least:
        raise ValueError(f"{name}={value}: must be at least {least}")
