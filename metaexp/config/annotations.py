"""The allowed values of a constructor's parameters, read from its source without importing anything, torch included.

Names are followed through the imports and the simple assignments of a module (`Number = float | Sequence[float]`).
Anything that cannot be understood this way counts as `Any`; only the constructor then knows what it allows.
"""

import ast
import collections.abc
import sys
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import metaexp
from metaexp import constraints
from metaexp.config.trust import is_optim, module_of

_BUILTIN = {kind.__name__: kind for kind in (int, float, str, bool, dict, list, tuple)}
_REAL = {"typing": typing, "collections.abc": collections.abc, "metaexp.constraints": constraints}
_DEEPEST = 20  # most names followed from module to module, so that cycles end


class _Module(NamedTuple):
    """The top level of a source file."""

    name: str
    imported: dict[str, tuple[str, str]]  # local name -> (module, name there); an empty name: the module itself
    assigned: dict[str, ast.expr]
    classes: dict[str, ast.ClassDef]
    functions: dict[str, ast.FunctionDef]


def parameters(target: Any) -> dict[str, Any]:
    """The annotation of each parameter of the class or function that a `_target_` names; empty if it is not found.

    Classes of torch.optim are not read: their settings get their types from the defaults in conf/.
    """
    if not isinstance(target, str) or is_optim(target):
        return {}
    found = _follow(module_of(target), target.rpartition(".")[2])
    return {} if found is None else _parameters(*found)


def _parameters(module: _Module, name: str, depth: int = 0) -> dict[str, Any]:
    if name in module.functions:
        return _signature(module, module.functions[name], skip=0)
    node = module.classes.get(name)
    if node is None or depth > _DEEPEST:
        return {}
    own = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    found: dict[str, Any] = {}
    if own is None and not node.bases:
        return {}
    if own is None and any(_dotted(base).rpartition(".")[2] == "NamedTuple" for base in node.bases):
        return {n.target.id: kind_of(module, n.annotation) for n in _annotated(node)}
    if own is None or own.args.kwarg is not None:
        for base in reversed(node.bases):
            above = _follow_local(module, _dotted(base))
            found |= _parameters(*above, depth + 1) if above else {}
    return found | (_signature(module, own, skip=1) if own else {})


def _signature(module: _Module, function: ast.FunctionDef, skip: int) -> dict[str, Any]:
    arguments = [*function.args.posonlyargs, *function.args.args][skip:] + function.args.kwonlyargs
    return {a.arg: kind_of(module, a.annotation) if a.annotation else Any for a in arguments}


def _annotated(node: ast.ClassDef) -> Iterator[Any]:
    return (n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name))


def kind_of(module: _Module, node: ast.expr, depth: int = 0) -> Any:
    """An annotation as its run-time object, if it consists of plain values; otherwise `Any`."""
    if depth > _DEEPEST:
        return Any
    if isinstance(node, ast.Constant):
        if node.value is None:
            return None
        try:
            return kind_of(module, ast.parse(str(node.value), mode="eval").body, depth + 1)
        except SyntaxError:
            return Any
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([kind_of(module, one, depth + 1) for one in (node.left, node.right)])
    if isinstance(node, ast.Subscript):
        return _subscript(module, node, depth)
    return _named(module, _dotted(node), depth)


def _subscript(module: _Module, node: ast.Subscript, depth: int) -> Any:
    base, inside = _named(module, _dotted(node.value), depth), node.slice
    items = inside.elts if isinstance(inside, ast.Tuple) else [inside]
    if base is typing.Literal:
        try:
            return typing.Literal[tuple(ast.literal_eval(item) for item in items)]
        except ValueError:
            return Any
    if base is typing.Annotated:
        kind, rules = kind_of(module, items[0], depth + 1), [_rule(module, item) for item in items[1:]]
        return typing.Annotated[(kind, *rules)] if None not in rules and kind is not Any else kind
    if base not in (list, tuple, dict, typing.Union, typing.Optional, typing.NotRequired, *_SHAPES):
        return Any
    kinds = [... if _is_ellipsis(item) else kind_of(module, item, depth + 1) for item in items]
    if base in (typing.Union, typing.Optional):
        return _union([*kinds, *([None] if base is typing.Optional else [])])
    return base[tuple(kinds)] if len(kinds) > 1 else base[kinds[0]]


_SHAPES = (collections.abc.Sequence, collections.abc.Mapping, typing.Sequence, typing.Mapping)


def _union(kinds: list[Any]) -> Any:
    return Any if Any in kinds else typing.Union[tuple(kinds)]  # noqa: UP007


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def _rule(module: _Module, node: ast.expr) -> Any:
    """The object that `Limit(above=0)` makes, if it is from metaexp.constraints and its arguments are constants."""
    if not isinstance(node, ast.Call):
        return None
    maker = _named(module, _dotted(node.func), 0)
    if maker not in (constraints.Limit, constraints.Ordered, constraints.Filled):
        return None
    try:
        values = [ast.literal_eval(one) for one in node.args]
        return maker(*values, **{str(k.arg): ast.literal_eval(k.value) for k in node.keywords})
    except (ValueError, TypeError):
        return None


def _named(module: _Module, name: str, depth: int) -> Any:
    if name in _BUILTIN and name not in module.assigned:
        return _BUILTIN[name]
    head, _, rest = name.partition(".")
    home, original = module.imported.get(head, ("", ""))
    if home in _REAL or f"{home}.{original}".strip(".") in _REAL:
        real: Any = _REAL.get(home) if home in _REAL else _REAL[f"{home}.{original}"]
        return getattr(real, (original if home in _REAL else "") or rest.rpartition(".")[2], Any)
    found = _follow_local(module, name)
    if found is None:
        return Any
    place, last = found
    if last in place.assigned:
        return kind_of(place, place.assigned[last], depth + 1)
    if last in place.classes:
        return _typed_dict(place, place.classes[last], depth)
    return Any


def _typed_dict(module: _Module, node: ast.ClassDef, depth: int) -> Any:
    entries: dict[str, Any] = {}
    known = False
    for base in node.bases:
        if _dotted(base).rpartition(".")[2] == "TypedDict":
            known = True
            continue
        above = _named(module, _dotted(base), depth + 1)
        if typing.is_typeddict(above):
            known, entries = True, entries | constraints.fields(above)
    if not known:
        return Any
    entries |= {n.target.id: kind_of(module, n.annotation, depth + 1) for n in _annotated(node)}
    return typing.TypedDict(node.name, entries)  # type: ignore[operator]


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{_dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


# -- from name to file -------------------------------------------------------------------------------------------------


def _follow_local(module: _Module, name: str) -> tuple[_Module, str] | None:
    head, _, rest = name.partition(".")
    if not rest and (head in module.assigned or head in module.classes or head in module.functions):
        return module, head
    if head not in module.imported:
        return None
    home, original = module.imported[head]
    if rest:
        inside = ".".join([part for part in (home, original) if part] + rest.split(".")[:-1])
        return _follow(inside, rest.rpartition(".")[2])
    return _follow(home, original) if original else None


def _follow(module: str, name: str, depth: int = 0) -> tuple[_Module, str] | None:
    """The module in which a name is defined, and its name there."""
    source = _source(module)
    read = _read(module, source[0], source[1]) if source else None
    if read is None or depth > _DEEPEST:
        return None
    if name in read.assigned or name in read.classes or name in read.functions:
        return read, name
    home, original = read.imported.get(name, ("", ""))
    return _follow(home, original, depth + 1) if original else None


def _source(module: str) -> tuple[Path, int] | None:
    """A module's file and modification time; modules of torch and of the standard library are not read."""
    root, *parts = module.split(".")
    if root in ("torch", "") or root in sys.stdlib_module_names:
        return None
    places = [Path(metaexp.__file__).parent.parent] if root == "metaexp" else [Path(p or ".") for p in sys.path]
    for place in places:
        stem = place.joinpath(root, *parts)
        for file in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")):
            if file.is_file():
                return file, file.stat().st_mtime_ns
    return None


@cache
def _read(name: str, file: Path, _changed: int) -> _Module | None:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
    read = _Module(name, {}, {}, {}, {})
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            read.classes[node.name] = node
        elif isinstance(node, ast.FunctionDef):
            read.functions[node.name] = node
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            read.assigned[node.targets[0].id] = node.value
        elif isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.split(".")[0]
                read.imported[local] = (alias.name if alias.asname else local, "")
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
            above = package[: len(package) - node.level + 1] if node.level else []
            home = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                read.imported[alias.asname or alias.name] = (home, alias.name)
    return read
