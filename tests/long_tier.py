"""Which rows of a parametrized test run only in the tier of long tests."""

from collections.abc import Collection
from typing import Any

import pytest


def long(values: Collection[Any], slow: Collection[Any]) -> list[Any]:
    """Rows for parametrize; those that are slow are in the tier of long tests."""
    return [pytest.param(value, marks=[pytest.mark.tier("long")] if value in slow else []) for value in values]
