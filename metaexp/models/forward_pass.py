"""What a network's forward pass returns, draws and changes: what no task's seed and no meta-gradient can be right with.

Each function tells what it found in words, or None; `metaexp.models.functional.check_module` refuses it.
"""

import copy
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from metaexp.models.attention import plain_attention

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_CONTAINERS = (list, dict, set, deque)  # whose content is looked at
_TORCHS = set(vars(nn.Module()))  # attributes that every module has
Call = Callable[[nn.Module, Mapping[str, Tensor], tuple[Any, ...]], Any]


def output_fault(made: Any, x: Tensor, half: bool = False) -> str | None:
    """Why this is no prediction for inputs x [n, ...], which must be [n, outputs] in the precision of x.

    Args:
        made: what a network returned.
        half: lower precision than that of x is fine.
    """
    if not isinstance(made, Tensor):
        kind = "None" if made is None else f"a {type(made).__name__}"
        return f"returns {kind}; it must return a tensor [n, outputs]"
    if not made.dtype.is_floating_point:
        return f"returns {_dtype(made)} numbers; it must return real numbers"
    if made.dim() < 2 or made.shape[0] != x.shape[0]:
        hint = ", which .unsqueeze(-1) makes of it" if list(made.shape) == [x.shape[0]] else ""
        return f"returns the shape {list(made.shape)} for {x.shape[0]} inputs; it must be [{x.shape[0]}, outputs]{hint}"
    if x.dtype.is_floating_point and torch.finfo(made.dtype).bits < torch.finfo(x.dtype).bits and not half:
        return f"returns {_dtype(made)} for inputs in {_dtype(x)}; it must keep the precision of its inputs"
    return None


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def unfit_tensor(model: nn.Module) -> str | None:
    """A parameter or buffer that is not there yet, or that has an imaginary part."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            return f"{name} has no shape yet (a lazy layer): call the network on an example before it is given here"
        if tensor.is_complex():
            return (
                f"{name} is complex, and its imaginary part would be lost in the run's precision; use a real "
                "parameter with two entries"
            )
    return None


def example(model: nn.Module, x_shape: tuple[int, ...], n: int = 2) -> Tensor:
    """Inputs [n, *x_shape] between 0.1 and 0.9, to try a network on."""
    first = next(model.parameters(), torch.zeros(()))
    size = torch.zeros(n, *x_shape).numel()
    return torch.linspace(0.1, 0.9, size, dtype=first.dtype, device=first.device).reshape(n, *x_shape)


def drawing_layer(model: nn.Module, call: Callable[[], Any]) -> str | None:
    """The layer that moves torch's global generator in `call()`, innermost first; the generator is left as it was."""
    found: list[str] = []
    before: list[Tensor] = []

    def enter(layer: nn.Module, args: Any) -> None:
        before.append(torch.get_rng_state())

    def leave(layer: nn.Module, args: Any, output: Any) -> None:
        if not torch.equal(before.pop(), torch.get_rng_state()) and not found:
            found.append(str(layer).splitlines()[0].removesuffix("("))

    hooks = [h for m in model.modules() for h in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), plain_attention():
            call()
    except Exception:  # a network that is called otherwise, or needs other inputs: the layers seen so far count
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def carried_state(model: nn.Module, x: Tensor, call: Call) -> str | None:
    """What a forward pass on x changes in the model, so that one task would change the next; the model is left as it
    was.

    Buffers, counters, lists that grow and layers made on the way count. An attribute that every pass sets anew (the
    last attention weights, the weight of an old `weight_norm`) does not, unless a later pass reads it. A network that
    cannot be called on x alone has no answer here.

    Args:
        call: `metaexp.models.functional.functional_call`.
    """
    before = state(model)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), plain_attention():
            model(x)
            once = state(model)
            model(x)
            twice = state(model)
            call(model, _other_weights(model), (x,))
            fault = _changed(before, state(model)) or _counted(once, twice)
            if fault is None and (name := _set_anew(before, twice)):
                restore(before, twice)
                if _remembers(model, x, call):
                    fault = f"{name}, which a later pass reads"
            return fault
    except Exception:
        return None
    finally:
        restore(before, state(model))


class _Held(NamedTuple):
    """An attribute, parameter, buffer or layer of a module."""

    part: nn.Module
    own: dict[str, Any]  # the dict of the module that holds it
    value: Any
    content: Any  # a copy of what the value holds; None: the value itself is all there is


_State = dict[tuple[str, str, str], _Held]  # by path of the module, kind and name


def state(model: nn.Module) -> _State:
    """Parameters, buffers, layers and own attributes of a module, with copies of what they hold."""
    found: _State = {}
    for path, part in model.named_modules():
        kinds = {"self.": part.__dict__, "its parameter ": part._parameters, "its buffer ": part._buffers}
        for kind, own in (kinds | {"its layer ": part._modules}).items():
            for name, value in own.items():
                if kind != "self." or name not in _TORCHS:
                    found[path, kind, name] = _Held(part, own, value, _content(value))
    return found


def _content(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return copy.copy(value) if type(value) in _CONTAINERS else None


def built(before: _State, after: _State) -> str | None:
    """A parameter, buffer or layer that is new, gone or another one."""
    for key in dict.fromkeys((*before, *after)):
        old, new, (path, kind, name) = before.get(key), after.get(key), key
        part = (old or after[key]).part
        same = old is not None and new is not None and (kind != "its layer " or old.value is new.value)
        if kind != "self." and not same:
            return f"of {_called(path, part)} makes or takes away {kind}{name}"
    return None


def _called(path: str, part: nn.Module) -> str:
    return f"{path} ({type(part).__name__})" if path else type(part).__name__


def _changed(before: _State, after: _State) -> str | None:
    """A parameter or buffer with other values."""
    for key, new in after.items():
        old, (path, kind, name) = before.get(key), key
        if kind != "self." and old is not None and not _same(old.content, new.content):
            return f"{_called(path, new.part)} changes {kind}{name}"
    return None


def _counted(once: _State, twice: _State) -> str | None:
    """A number, text or container that the second pass changed again."""
    for key, new in twice.items():
        old, (path, kind, name) = once.get(key), key
        if kind == "self." and (old is None or _moved(old, new)):
            return f"{_called(path, new.part)} changes {kind}{name}"
    return None


def _moved(old: _Held, new: _Held) -> bool:
    if type(new.value) in _CONTAINERS and old.value is new.value:
        then, now = ([*c.items()] if isinstance(c, dict) else [*c] for c in (old.content, new.content))
        return len(then) != len(now)
    plain = isinstance(old.value, _PLAIN) and isinstance(new.value, _PLAIN)
    return plain and old.value != new.value and old.value == old.value


def _set_anew(before: _State, after: _State) -> str | None:
    """An attribute that a pass set to another object, or filled."""
    for key, new in after.items():
        old, (path, kind, name) = before.get(key), key
        same = old is not None and old.value is new.value and (old.content is None or _alike(old.content, new.content))
        if kind == "self." and not same:
            return f"{_called(path, new.part)} sets {kind}{name}"
    return None


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return _same(a, b)
    then, now = ([x for pair in c.items() for x in pair] if isinstance(c, dict) else [*c] for c in (a, b))
    if len(then) != len(now):
        return False
    return all(x is y or (isinstance(x, _PLAIN) and x == y) for x, y in zip(then, now, strict=True))


def _remembers(model: nn.Module, x: Tensor, call: Call) -> bool:
    """Whether a pass with other inputs and other weights decides what `model(x)` returns afterwards."""
    before = state(model)
    first = model(x)
    restore(before, state(model))
    call(model, _other_weights(model), (1 - x,))
    pairs = zip(tree_leaves(first), tree_leaves(model(x)), strict=False)
    return any(isinstance(a, Tensor) and not _same(a, b) for a, b in pairs)


def _other_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: 0.7 * p + 0.1 for name, p in model.named_parameters() if p.dtype.is_floating_point}


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    if a.is_meta and b.is_meta:  # a network made without memory, to count its weights
        return a.shape == b.shape and a.dtype == b.dtype
    return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a.detach(), b.detach()))


def restore(before: _State, after: _State) -> None:
    """Undo what happened to a module between two states."""
    for key, held in after.items():
        if key not in before:
            held.own.pop(key[2], None)
    with torch.no_grad():
        for (_, _, name), held in before.items():
            held.own[name] = held.value
            if isinstance(held.value, Tensor):
                if not _same(held.value, held.content):
                    held.value.data.copy_(held.content)
            elif isinstance(held.value, list):
                held.value[:] = held.content if type(held.value) is list else held.value
            elif type(held.value) in _CONTAINERS:
                held.value.clear()
                held.value.extend(held.content) if isinstance(held.value, deque) else held.value.update(held.content)
