"""Nested dictionaries and their dotted keys: `{"a": {"b": 1}}` has the key `a.b`."""

from collections.abc import Iterator, Mapping
from typing import Any

_REQUIRED = object()


def leaves(tree: Mapping[str, Any], prefix: str = "", separator: str = ".") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that is not a mapping, in order; an empty mapping counts as a value."""
    for name, value in tree.items():
        key = f"{prefix}{separator}{name}" if prefix else str(name)
        if isinstance(value, Mapping) and value:
            yield from leaves(value, key, separator)
        else:
            yield key, value


def flatten(tree: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """`leaves` as one flat dictionary."""
    return dict(leaves(tree, separator=separator))


def at(tree: Mapping[str, Any], key: str, default: Any = _REQUIRED, separator: str = ".") -> Any:
    """The value at a dotted key.

    Args:
        default: what to return where the key does not exist.

    Raises:
        KeyError: the key does not exist and there is no default; it names the whole key.
    """
    value: Any = tree
    for name in key.split(separator):
        if not isinstance(value, Mapping) or name not in value:
            if default is _REQUIRED:
                raise KeyError(key)
            return default
        value = value[name]
    return value
