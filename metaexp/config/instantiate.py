"""Make the objects that a configuration describes; `metaexp.config.trust` decides which classes it may name."""

import importlib
import inspect
import re
from collections.abc import Callable, Collection, Iterator
from copy import deepcopy
from typing import Any

from metaexp.checks import nearest, show
from metaexp.config.trust import check_target, is_optim, is_ours, module_of
from metaexp.errors import ConfigError, DataError
from metaexp.system.files import is_full

METADATA = {"_target_", "_partial_", "_convert_", "_recursive_", "gives", "needs"}


def locate(path: str, target: str, trusted: Collection[str] = ()) -> Callable[..., Any]:
    """Import what a target names.

    Raises:
        ConfigError: the target is not on the list, does not exist, or comes from another package than its name says.
    """
    check_target(path, target, trusted)
    module_name, name = module_of(target), target.rpartition(".")[2]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists; something that IT imports does not
        raise ConfigError(f"{path}={target}: no module {error.name} in this folder or on the Python path") from error
    found: Any = getattr(module, name, None)
    home = str(getattr(found, "__module__", None))
    kind: Callable[[Any], bool] = inspect.isclass
    if is_ours(module_name):
        package, at_home = "metaexp", is_ours(home)
    elif is_optim(target):
        package, at_home = "torch.optim", f"{home}.".startswith("torch.optim.")
    else:  # trusted code may name a function that makes the object
        kind, package = callable, target.partition(".")[0]
        at_home = f"{home}.".startswith(f"{package}.")
    if not kind(found) or name.startswith("_"):
        public = [n for n, value in vars(module).items() if kind(value) and not n.startswith("_")]
        raise ConfigError(f"{path}={target}: no class {name} in {module_name}{nearest(name, public)}")
    if not at_home:
        raise ConfigError(f"{path}={target}: comes from {home}, not from {package}")
    return found


def nodes(group: str, node: dict[str, Any] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, node) of each object of a group, which is a single object or holds several by name.

    Raises:
        ConfigError: an entry without `_target_`.
    """
    if node and "_target_" in node:
        yield group, node
        return
    for name, one in (node or {}).items():
        if not isinstance(one, dict) or "_target_" not in one:
            raise ConfigError(f"{group}.{name}: has no _target_; a file of this group begins '# @package {group}.NAME'")
        yield f"{group}.{name}", one


class Maker:
    """What a node with `_partial_: true` becomes: call it with the remaining arguments.

    Like functools.partial, but the constructor's errors become a ConfigError that names the setting.
    """

    def __init__(self, target: Callable[..., Any], group: str, args: tuple[Any, ...], settings: dict[str, Any]):
        self.target, self.group, self.args, self.settings = target, group, args, settings

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Copies, so that two objects made from one node never share a list.
        settings = {**deepcopy_plain(self.settings), **kwargs}
        try:
            return self.target(*self.args, *args, **settings)
        except (ValueError, TypeError) as error:
            raise ConfigError(_complaint(error, self.group, self.target, settings)) from error
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
                raise
            raise ConfigError(f"{self.group}: {_name(self.target)} needs more memory than there is: {error}") from error
        except OSError as error:  # the folder of a user's data set is missing
            if is_full(error):
                raise
            raise DataError(f"{self.group}: {_name(self.target)} cannot read its data: {error}") from error


def deepcopy_plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Copies of lists and dicts; objects made by the program are passed unchanged."""
    return {key: deepcopy(value) if isinstance(value, list | dict) else value for key, value in settings.items()}


def instantiate(node: dict[str, Any], *args: Any, group: str, trusted: Collection[str] = (), **kwargs: Any) -> Any:
    """Make the object that a node of the configuration describes.

    Nested nodes with a `_target_` are made first. With `_partial_: true` the result is a `Maker`. Unlike Hydra's
    function it takes plain containers only, resolves no interpolation and copies no argument, so that a
    configuration that came with a checkpoint stays data.

    Args:
        node: plain dict with `_target_`; `gives` and `needs` are descriptions and not passed on.
        args, kwargs: further arguments; kwargs override the node's.
        group: the node's key in the configuration, for messages.
        trusted: modules allowed besides metaexp.* and torch.optim.*.

    Raises:
        ConfigError: a class that is refused or missing, an unknown argument, or a ValueError or TypeError
            of the constructor.
    """
    target = locate(f"{group}._target_", node.get("_target_"), trusted)  # type: ignore[arg-type]
    settings = {key: _nested(node[key], f"{group}.{key}", trusted) for key in node if key not in METADATA}
    settings.update(kwargs)
    _check_names(target, group, settings)
    maker = Maker(target, group, args, settings)
    return maker if node.get("_partial_") else maker()


def _nested(value: Any, path: str, trusted: Collection[str]) -> Any:
    if isinstance(value, dict):
        if "_target_" in value:
            return instantiate(value, group=path, trusted=trusted)
        return {key: _nested(item, f"{path}.{key}", trusted) for key, item in value.items()}
    if isinstance(value, list):
        return [_nested(item, f"{path}.{index}", trusted) for index, item in enumerate(value)]
    return value


def _parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(target).parameters)
    except (ValueError, TypeError):
        return {}


def _check_names(target: Callable[..., Any], group: str, settings: dict[str, Any]) -> None:
    known = _parameters(target)
    if not known or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        return
    for name, value in settings.items():
        if name not in known:
            hint = nearest(name, known) or f"; it has {', '.join(known)}"
            raise ConfigError(f"{group}.{name}={show(value)}: {_name(target)} has no such argument{hint}")


def _name(target: Callable[..., Any]) -> str:
    return str(getattr(target, "__qualname__", target))


def _complaint(error: Exception, group: str, target: Callable[..., Any], settings: dict[str, Any]) -> str:
    """One line that starts with the setting's full key, as far as the constructor's message reveals it."""
    message = " ".join(str(error).split())
    if re.match(r"task\.[\w.]+=", message):  # a method rejects its tasks: the key is already complete
        return message
    first = re.match(r"\w+", message)
    if first and first[0] in {*settings, *_parameters(target)} and re.match(r"[\w.]+(=|:)", message):
        return f"{group}.{message}"
    for name, value in settings.items():  # a class from elsewhere: find the value that it quotes
        values = value if isinstance(value, list) else [value]
        if any(
            isinstance(v, int | float)
            and not isinstance(v, bool)
            and re.search(rf"(?<![\w.]){re.escape(str(v))}(?![\w.]*\d)", message)
            for v in values
        ):
            return f"{group}.{name}={show(value)}: {message}"
    return f"{group}: {message}"
