"""Which classes a configuration may name, and how they are made.

`_target_` can name any importable thing, so it is checked against a positive list before anything is imported: the
modules of metaexp that hold what a configuration describes (PLACES), torch.optim.*, and modules that the user's own
group files name. Of the first two it must be a class: a function, or this module's own machinery, could be led to call
something else. The resolved object's module is checked again, because a dotted path may lead through one module into
another (`metaexp.config.settings.os.system`).
"""

import importlib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from copy import deepcopy
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from metaexp.errors import ConfigError, DataError
from metaexp.system.files import is_full

PLACES = ("algos", "models", "tasks", "inner", "outer")  # of metaexp: packages and modules whose classes may be named
METADATA = {"_target_", "_partial_", "_convert_", "_recursive_", "gives", "needs"}


def _likeness(word: str, name: str) -> float:
    # Letters in order, and letters in any order: a swapped pair should cost little.
    pairs = ((word, name), ("".join(sorted(word)), "".join(sorted(name))))
    return sum(SequenceMatcher(None, *pair).ratio() for pair in pairs) / 2


def nearest(word: str, names: Iterable[str]) -> str:
    """'; did you mean X?' for the name most like `word`, or an empty string."""
    best = max(names, key=lambda name: _likeness(word, name), default="")
    return f"; did you mean {best}?" if _likeness(word, best) > 0.6 else ""


def targets(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every `_target_` in a tree of plain containers, as (dotted path, value)."""
    if isinstance(node, dict):
        for key, value in node.items():
            here = f"{path}.{key}" if path else str(key)
            if key == "_target_":
                yield here, value
            else:
                yield from targets(value, here)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from targets(value, f"{path}.{index}")


def module_of(target: str) -> str:
    """The dotted path without its last name."""
    return target.rpartition(".")[0]


def trusted_modules(node: Any, packages: Collection[str], modules: Collection[str] = ()) -> set[str]:
    """The modules that a tree of plain containers names and that lie in these packages, or are among these modules."""
    named = {module_of(str(target)) for _, target in targets(node)}
    return {n for n in named if n in modules or any(f"{n}.".startswith(f"{package}.") for package in packages)}


def _ours(module: str) -> bool:
    # The module must be a file in one of the places: a path THROUGH one of them (metaexp.inner.descent.torch) is none.
    root, *parts = module.split(".")
    if root != "metaexp" or not parts or parts[0] not in PLACES or not all(part.isidentifier() for part in parts):
        return False
    file = Path(__file__).parent.joinpath(*parts)
    return file.with_suffix(".py").is_file() or (file / "__init__.py").is_file()


def is_optim(target: Any) -> bool:
    """Whether a target is a class of torch.optim or of one of its modules."""
    return isinstance(target, str) and re.fullmatch(r"torch\.optim(\.[a-z]\w*)?\.[A-Za-z]\w*", target) is not None


def check_target(path: str, target: Any, trusted: Collection[str] = ()) -> None:
    """Refuse a target that is not on the list, without importing it.

    Args:
        path: the key, for the message.
        trusted: modules that may be named besides those of metaexp (PLACES) and torch.optim.*; never other ones of
            metaexp.

    Raises:
        ConfigError: the target is refused.
    """
    if isinstance(target, str):
        module = module_of(target)
        own = module in trusted and module.split(".")[0] != "metaexp"
        if own or _ours(module) or is_optim(target):
            return
    raise ConfigError(
        f"{path}={target}: must be a class of metaexp.* or torch.optim.*; "
        "your own class is named in a group file of yours (--config-dir), not here"
    )


def locate(path: str, target: str, trusted: Collection[str] = ()) -> Callable[..., Any]:
    """Import what a target names.

    Raises:
        ConfigError: it is not on the list, does not exist, or comes from another package than its name says.
    """
    check_target(path, target, trusted)
    module_name, name = module_of(target), target.rpartition(".")[2]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; what IT imports is not
        raise ConfigError(f"{path}={target}: no module {error.name} in this folder or on the Python path") from error
    found: Any = getattr(module, name, None)
    home = str(getattr(found, "__module__", None))
    kind: Callable[[Any], bool] = inspect.isclass
    if _ours(module_name):
        package, at_home = "metaexp", _ours(home)
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


class Maker:
    """What a node with `_partial_: true` becomes: call it with the remaining arguments.

    Like functools.partial, but the constructor's complaints come out as ConfigError naming the setting.
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
        except OSError as error:  # a data set of the user's whose folder is not there
            if is_full(error):
                raise
            raise DataError(f"{self.group}: {_name(self.target)} cannot read its data: {error}") from error


def deepcopy_plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Copies of lists and dicts; objects made by the program are passed as they are."""
    return {key: deepcopy(value) if isinstance(value, list | dict) else value for key, value in settings.items()}


def instantiate(node: dict[str, Any], *args: Any, group: str, trusted: Collection[str] = (), **kwargs: Any) -> Any:
    """Make the object that a node of the configuration describes.

    Nested nodes with a `_target_` are made first. With `_partial_: true` the result is a `Maker`. Unlike Hydra's
    function it takes plain containers only, resolves no interpolation and copies no argument, so that a
    configuration that came with a checkpoint stays data.

    Args:
        node: plain dict with `_target_`; `gives` and `needs` are descriptions and not passed on.
        args, kwargs: further arguments; kwargs win over the node's.
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
    """One line that starts with the setting's full key, as far as the constructor's message tells it."""
    message = " ".join(str(error).split())
    if re.match(r"task\.[\w.]+=", message):  # a method complains of its tasks: the key is whole
        return message
    first = re.match(r"\w+", message)
    if first and first[0] in {*settings, *_parameters(target)} and re.match(r"[\w.]+(=|:)", message):
        return f"{group}.{message}"
    for name, value in settings.items():  # a foreign class: find the value that it quotes
        values = value if isinstance(value, list) else [value]
        if any(
            isinstance(v, int | float)
            and not isinstance(v, bool)
            and re.search(rf"(?<![\w.]){re.escape(str(v))}(?![\w.]*\d)", message)
            for v in values
        ):
            return f"{group}.{name}={show(value)}: {message}"
    return f"{group}: {message}"


def show(value: Any) -> str:
    """A value as one types it: null, true, [1, 2]."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(show(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {show(item)}' for key, item in value.items())}}}"
    return str(value) if isinstance(value, str | int | float) else type(value).__name__
