"""Checks a composed configuration: names come from the YAML files, types and ranges from constructors and declarations.

A setting exists if the files have it. Its allowed values come from the annotation of the constructor's parameter, or
for the settings of train.yaml from `metaexp.config.declared`; if neither has one, from the type of its default.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from metaexp.checks import nearest, show
from metaexp.config import familiar
from metaexp.config.annotations import parameters
from metaexp.config.declared import TRAIN
from metaexp.config.trust import check_target, is_optim
from metaexp.constraints import Misfit, described, fields, fitted, takes_names, takes_null
from metaexp.errors import ConfigError


class Schema(NamedTuple):
    """The allowed settings and their values.

    Attributes:
        defaults: the configuration without any typed value.
        trusted: modules that a `_target_` may name besides metaexp.* and torch.optim.*.
        origin: gives, in brackets, where a value that was not typed comes from, or an empty string.
        above: dotted keys that override the defaults: typed, or set by an experiment or pair file.
    """

    defaults: dict[str, Any]
    trusted: Collection[str]
    origin: Callable[[str], str]
    above: Collection[str] = ()

    def check(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration, with integers turned into floats where a float is expected.

        Raises:
            ConfigError: the first unknown name, wrong type or value out of range.
        """
        return self._node(config, self.defaults, "", TRAIN)

    def _node(
        self, value: dict[str, Any], default: dict[str, Any], path: str, kinds: Mapping[str, Any]
    ) -> dict[str, Any]:
        free, other = _free(value, default), _other_class(value, default) and "." in path
        result = {}
        for key, item in value.items():
            here = f"{path}.{key}" if path else str(key)
            if other and key in default and not key.startswith("_") and here not in self.above:
                continue  # algo.inner=Adam instead of SGD: SGD's own defaults disappear
            kind = kinds.get(key, kinds.get("*", Any))
            if key in default:
                # A class that replaces another has no defaults here, only its annotations.
                result[key] = self._value(item, item if other and not key.startswith("_") else default[key], here, kind)
            elif free:
                result[key] = self._value(item, item, here, kind)
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
        if said := familiar.hint(path, show(value)):
            raise ConfigError(f"{path}={show(value)}{self.origin(path)}: no such setting{said}")
        names = [*_paths(self.defaults), "experiment"]  # a group without settings of its own
        parent, _, last = path.rpartition(".")
        same = [name for name in names if name.rpartition(".")[2] == last]
        if same:
            hint = f"; did you mean {' or '.join(same[:3])}?"
        else:
            hint = nearest(path, [f"{parent}.{name}" for name in siblings if parent]) or nearest(path, names)
        hint = hint or f"; there are {', '.join(name for name in siblings if not name.startswith('_'))}"
        raise ConfigError(f"{path}={show(value)}{self.origin(path)}: no such setting{hint}")

    def _value(self, value: Any, default: Any, path: str, kind: Any) -> Any:
        if isinstance(default, dict):
            if isinstance(value, dict):
                return self._node(value, default, path, kinds_of(value, kind))
            if not (value is None and takes_null(kind)):
                names = ", ".join(f"{path}.{name}" for name in default if not name.startswith("_"))
                self._refuse(path, value, f"must be a group of settings; set one of {names}")
            return None
        if isinstance(value, dict):
            if default is None and "_target_" in value:
                check_target(f"{path}._target_", value["_target_"], self.trusted)
                return value
            if default is None and takes_names(kind) and "_target_" not in value:
                return value
            wanted = described(known(kind, default)) or "one value"
            self._refuse(path, value, f"must be {wanted}, not a group of settings without _target_")
        try:
            return checked_value(value, default, kind)
        except Misfit as fault:
            self._refuse(path + fault.path, fault.value, f"{fault}{_example(fault, path, default)}")

    def _refuse(self, path: str, value: Any, why: str) -> None:
        raise ConfigError(f"{path}={show(value)}{self.origin(path)}: {why}")


def kinds_of(node: Mapping[str, Any], kind: Any = Any) -> dict[str, Any]:
    """The types of a node's settings, from its own annotation and from the constructor of its `_target_`."""
    return fields(kind) | parameters(node.get("_target_"))


def kind_at(config: Mapping[str, Any], key: str) -> Any:
    """The type of the setting with this dotted key, in a configuration as composed or saved."""
    node: Any = config
    kinds: Mapping[str, Any] = TRAIN
    kind: Any = Any
    for name in key.split("."):
        kind = kinds.get(name, kinds.get("*", Any))
        node = node.get(name) if isinstance(node, Mapping) else None
        kinds = kinds_of(node if isinstance(node, Mapping) else {}, kind)
    return kind


def checked_value(value: Any, default: Any, kind: Any) -> Any:
    """One value converted to its type; raises Misfit. The default itself is allowed whatever the annotation says."""
    if value is default or (value == default and type(value) is type(default)):
        return value
    return fitted(value, known(kind, default))


def known(kind: Any, default: Any) -> Any:
    """The annotation, or the type of the default if there is none."""
    if described(kind):
        return kind
    if isinstance(default, list):
        example = next((item for item in default if isinstance(item, float)), default[0] if default else None)
        return list[known(Any, example)]  # type: ignore[misc]
    return type(default) if isinstance(default, bool | int | float | str) else Any


def _example(fault: Misfit, path: str, default: Any) -> str:
    if fault.out_of_range or fault.path or default is None or "|" in str(fault):
        return ""
    if isinstance(default, list):
        return f", e.g. {path}={show(default).replace(', ', ',')}"
    return f", like the default {show(default)}"


def _free(value: dict[str, Any], default: dict[str, Any]) -> bool:
    # Settings of torch's optimisers and of a class that replaces another are known only to the constructor.
    return not default or is_optim(value.get("_target_")) or _other_class(value, default)


def _other_class(value: dict[str, Any], default: dict[str, Any]) -> bool:
    return value.get("_target_") != default.get("_target_")


def _paths(node: dict[str, Any], path: str = "") -> list[str]:
    found = []
    for key, value in node.items():
        if not str(key).startswith("_"):
            here = f"{path}.{key}" if path else str(key)
            found += [here, *(_paths(value, here) if isinstance(value, dict) else [])]
    return found
