"""Which classes a configuration may name.

`_target_` can name anything importable, so it is checked against an allowlist before anything is imported: classes of
metaexp that a configuration describes (PLACES), classes of torch.optim, and modules that the user's own group files
name. No function of metaexp is on the list, since it could be made to call something else. `instantiate` checks the
class's own module once more, because a dotted path may lead through one module into another
(`metaexp.config.settings.os.system`).
"""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from metaexp.errors import ConfigError

# Allowed places in metaexp: packages with all their modules, and single modules; `inner` and `outer` re-export two.
PLACES = (
    "algos", "encoders", "models", "tasks", "inner", "inner.optimisers", "outer", "outer.schedules",
    "loggers.csv", "loggers.mlflow", "loggers.wandb",
)  # fmt: skip
_PACKAGES = ("algos", "encoders", "models", "tasks")


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
    """The modules named in a tree of plain containers that are in these packages or among these modules."""
    named = {module_of(str(target)) for _, target in targets(node)}
    return {n for n in named if n in modules or any(f"{n}.".startswith(f"{package}.") for package in packages)}


def is_ours(module: str) -> bool:
    """Whether a module is in PLACES and is a file: a path THROUGH such a module (metaexp.tasks.sine.torch) is not."""
    root, _, inside = module.partition(".")
    parts = inside.split(".")
    if root != "metaexp" or not all(part.isidentifier() for part in parts):
        return False
    if inside not in PLACES and parts[0] not in _PACKAGES:
        return False
    file = Path(__file__).resolve().parent.parent.joinpath(*parts)
    return file.with_suffix(".py").is_file() or (file / "__init__.py").is_file()


def is_optim(target: Any) -> bool:
    """Whether a target is a class of torch.optim or of one of its modules."""
    return isinstance(target, str) and re.fullmatch(r"torch\.optim(\.[a-z]\w*)?\.[A-Za-z]\w*", target) is not None


def check_target(path: str, target: Any, trusted: Collection[str] = ()) -> None:
    """Refuse a target that is not on the list, without importing it.

    Args:
        path: the key, for the message.
        trusted: modules that may be named besides those of metaexp (PLACES) and torch.optim.*; this never allows
            further modules of metaexp.

    Raises:
        ConfigError: the target is refused.
    """
    if isinstance(target, str):
        module = module_of(target)
        own = module in trusted and module.split(".")[0] != "metaexp"
        if own or is_ours(module) or is_optim(target):
            return
    raise ConfigError(
        f"{path}={target}: must be a class of metaexp.* or torch.optim.*; "
        "your own class is named in a group file of yours (--config-dir), not here"
    )
