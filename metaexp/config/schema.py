"""Names and types of settings, read from the YAML files themselves.

The defaults are the schema: a setting exists if the files have it, and its type is its default's. A comment that
lists words, `precision: 32  # 32 | 64-true | bf16-mixed`, allows these words only; one that mentions null allows
null; one that says "a list" allows one value or a list of such; null takes a list where the comment has one.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import yaml

from metaexp.checks import nearest, show
from metaexp.config.trust import check_target, is_optim
from metaexp.errors import ConfigError

NUMBER = "a number"


def comments(text: str) -> dict[str, str]:
    """The comment behind each setting of a YAML text, by dotted key; of several on one line the outermost."""
    lines, found = text.splitlines(), {}

    def walk(node: yaml.Node | None, path: str, line: int) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            here = f"{path}.{key.value}" if path else str(key.value)
            if key.start_mark.line > line:
                end = value.end_mark if isinstance(value, yaml.ScalarNode) or value.flow_style else key.end_mark
                rest = re.search(r"\s#\s*(.*)$", lines[end.line][end.column :]) if end.line < len(lines) else None
                if rest:
                    found[here] = rest[1].strip()
            walk(value, here, key.start_mark.line)

    walk(yaml.compose(text, Loader=yaml.SafeLoader), "", -1)
    return found


def allowed(comment: str) -> tuple[str, ...] | None:
    """The words that a comment allows, `a number` among them where it says so; None: it lists none, or adds prose."""
    text = re.sub(r"\([^()]*\)", "", comment).split(";")[0]
    if " | " not in text:
        return None
    items = [item.strip() for item in text.split(" | ")]
    items[0] = items[0].rpartition(": ")[2]
    return tuple(items) if all(item == NUMBER or re.fullmatch(r"[\w.+-]+", item) for item in items) else None


class Schema(NamedTuple):
    """What the settings may be.

    Attributes:
        defaults: the configuration without any typed value.
        notes: comments by dotted key.
        trusted: modules that a `_target_` may name besides metaexp.* and torch.optim.*.
        origin: says in brackets where a value that was not typed comes from, or nothing.
        above: dotted keys that are typed, or set by an experiment or pair file: laid over the defaults.
    """

    defaults: dict[str, Any]
    notes: Mapping[str, str]
    trusted: Collection[str]
    origin: Callable[[str], str]
    above: Collection[str] = ()

    def check(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration, with whole numbers turned into floats where a float is meant.

        Raises:
            ConfigError: the first unknown name or wrong type.
        """
        return self._node(config, self.defaults, "")

    def _node(self, value: dict[str, Any], default: dict[str, Any], path: str) -> dict[str, Any]:
        free, other = _free(value, default), _other_class(value, default) and "." in path
        result = {}
        for key, item in value.items():
            here = f"{path}.{key}" if path else str(key)
            if other and key in default and not key.startswith("_") and here not in self.above:
                continue  # algo.inner=Adam in the place of SGD: SGD's own defaults go with it
            if key in default:
                result[key] = self._value(item, default[key], here)
            elif free:
                result[key] = item
            else:
                self._unknown(here, item, default)
        gone = [key for key in default if key not in value]
        if gone and not free:
            raise ConfigError(f"~{path}{'.' if path else ''}{gone[0]}: this setting cannot be removed")
        return result

    def _unknown(self, path: str, value: Any, siblings: Collection[str]) -> None:
        while isinstance(value, dict) and value:
            key, value = next(iter(value.items()))
            path = f"{path}.{key}"
        names = [*_paths(self.defaults), "experiment"]  # a group that leaves no settings of its own
        parent, _, last = path.rpartition(".")
        same = [name for name in names if name.rpartition(".")[2] == last]
        if same:
            hint = f"; did you mean {' or '.join(same[:3])}?"
        else:
            hint = nearest(path, [f"{parent}.{name}" for name in siblings if parent]) or nearest(path, names)
        hint = hint or f"; there are {', '.join(name for name in siblings if not name.startswith('_'))}"
        raise ConfigError(f"{path}={show(value)}{self.origin(path)}: no such setting{hint}")

    def _value(self, value: Any, default: Any, path: str) -> Any:
        if isinstance(default, dict):
            if isinstance(value, dict):
                return self._node(value, default, path)
            if not (value is None and self._null(path)):
                names = ", ".join(f"{path}.{name}" for name in default if not name.startswith("_"))
                self._refuse(path, value, f"must be a group of settings; set one of {names}")
            return None
        if isinstance(value, dict):
            if default is None and "_target_" in value:
                check_target(f"{path}._target_", value["_target_"], self.trusted)
                return value
            self._refuse(path, value, f"must be {self._wanted(default)}, not a group of settings")
        if isinstance(default, list) or isinstance(value, list):
            return self._list(value, default, path)
        return self._scalar(value, default, path)

    def _list(self, value: Any, default: Any, path: str) -> Any:
        either = self._says(r"\ba list\b", path)
        if not isinstance(value, list):
            if value is None and self._null(path):
                return None
            if either and default:
                return self._value(value, _example(default), path)
            self._refuse(path, value, f"must be a list, e.g. {path}={show(default).replace(', ', ',')}")
        if default is None and self._says(r"\blists?\b|\[", path):
            return value
        if not isinstance(default, list):
            if not either:
                self._refuse(path, value, f"must be {self._wanted(default)}, not a list")
            return [self._value(item, default, path) for item in value]
        return [self._value(item, _example(default), path) for item in value] if default else value

    def _scalar(self, value: Any, default: Any, path: str) -> Any:
        if isinstance(value, float) and math.isnan(value):
            self._refuse(path, value, f"must be {self._wanted(default)}")
        if value is None:
            if default is not None and not self._null(path):
                self._refuse(path, value, f"must be {self._wanted(default)}")
            return None
        note = self.notes.get(path, "")
        words = allowed(note)
        if words:
            if show(value) not in words and not (NUMBER in words and _is_number(value)):
                hint = nearest(show(value), words)
                self._refuse(path, value, f"must be {' | '.join(words)}{hint}")
            return value
        if default is None or " | " in note:
            return value
        right, result = convert(value, default)
        if not right:
            self._refuse(path, value, f"must be {self._wanted(default)}")
        return result

    def _null(self, path: str) -> bool:
        return self._says(r"\bnull\b", path)

    def _says(self, pattern: str, path: str) -> bool:
        """Whether the comment of a setting, or of a group of settings around it, has the pattern."""
        parts = path.split(".")
        around = (".".join(parts[: n + 1]) for n in range(len(parts)))
        return any(re.search(pattern, self.notes.get(name, "")) for name in around)

    def _wanted(self, default: Any) -> str:
        if default is None:
            return "one value"
        kind = {bool: "true or false", int: "a whole number", float: "a number"}.get(type(default), "text")
        return f"{kind}, like the default {show(default)}"

    def _refuse(self, path: str, value: Any, why: str) -> None:
        raise ConfigError(f"{path}={show(value)}{self.origin(path)}: {why}")


def _free(value: dict[str, Any], default: dict[str, Any]) -> bool:
    # Settings of torch's optimisers and of a class put in the place of another are known to the constructor only.
    return not default or is_optim(value.get("_target_")) or _other_class(value, default)


def _other_class(value: dict[str, Any], default: dict[str, Any]) -> bool:
    return value.get("_target_") != default.get("_target_")


def _example(values: list[Any]) -> Any:
    # Numbers of a list share one type; a list of lists takes its first as the example.
    return next((value for value in values if isinstance(value, float)), values[0])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def convert(value: Any, default: Any) -> tuple[bool, Any]:
    """Whether a scalar has the default's type, and the scalar in this type (1e4 is a whole number)."""
    if isinstance(default, bool):
        return isinstance(value, bool), value
    if isinstance(default, int):
        whole = _is_number(value) and math.isfinite(value) and value == int(value)
        return whole, int(value) if whole else value
    if isinstance(default, float):
        return _is_number(value), float(value) if _is_number(value) else value
    plain = isinstance(value, str | int) and not isinstance(value, bool)
    return plain, str(value)


def _paths(node: dict[str, Any], path: str = "") -> list[str]:
    found = []
    for key, value in node.items():
        if not str(key).startswith("_"):
            here = f"{path}.{key}" if path else str(key)
            found += [here, *(_paths(value, here) if isinstance(value, dict) else [])]
    return found
