"""Calling a module with other tensors instead of its own, whatever modules and tensors it shares; and what it draws."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def functional_call(module: nn.Module, tensors: Mapping[str, Tensor], args: tuple[Any, ...]) -> Any:
    """module(*args) with the given parameters and buffers instead of its own; nothing of the module changes.

    As `torch.func.functional_call`, and also right if one submodule has several names (`self.b = self.a`, one block
    twice in a `Sequential`): torch exchanges its tensors once per name, and restores the wrong ones. A tensor that
    several modules hold (tied weights) is replaced in all of them, by whichever of its names it is given.

    Args:
        module: any module.
        tensors: by name, as `named_parameters` and `named_buffers` name them; others stay the module's own.
        args: positional arguments of the call.

    Raises:
        KeyError: a name that the module does not have.
    """
    places: dict[int, list[str]] = {}  # tensor -> one name for each module that holds it
    own: dict[str, Tensor] = {}
    for prefix, part in module.named_modules():  # each module once
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None:
                full = f"{prefix}.{name}" if prefix else name
                own[full] = tensor
                places.setdefault(id(tensor), []).append(full)
    if any(name not in own for name in tensors):  # a second name of a shared module
        for prefix, part in module.named_modules(remove_duplicate=False):
            for name, tensor in (*part._parameters.items(), *part._buffers.items()):
                if tensor is not None:
                    own.setdefault(f"{prefix}.{name}" if prefix else name, tensor)
    each = {place: value for name, value in tensors.items() for place in places[id(own[name])]}
    return torch.func.functional_call(module, each, args, tie_weights=False)


def check_module(model: nn.Module, x_shape: tuple[int, ...]) -> None:
    """Refuse a network that no task's seed and no meta-gradient can be right with.

    Args:
        model: as the user made it.
        x_shape: of one input; the network is tried on two of zeros, as far as it takes them.

    Raises:
        ValueError: it draws random numbers from torch's global generator, or has complex parameters.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_complex():
            raise ValueError(
                f"model: {name} is complex, and its imaginary part would be lost in the run's precision; use a real "
                "parameter with two entries"
            )
    if layer := _draws(model, x_shape):
        raise ValueError(
            f"model: {layer} draws from torch's global generator, which is not tied to a task's seed and which no run "
            "could continue; leave it out, or call .eval() on it"
        )


def _draws(model: nn.Module, x_shape: tuple[int, ...]) -> str | None:
    """The layer that moves torch's global generator in a forward pass; the model is left as it was."""
    found: list[str] = []
    before: list[Tensor] = []

    def enter(layer: nn.Module, args: Any) -> None:
        before.append(torch.get_rng_state())

    def leave(layer: nn.Module, args: Any, output: Any) -> None:
        if not torch.equal(before.pop(), torch.get_rng_state()) and not found:
            found.append(str(layer).splitlines()[0])  # innermost first

    first = next(model.parameters(), None)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    hooks = [h for m in model.modules() for h in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model(torch.zeros(2, *x_shape, dtype=None if first is None else first.dtype))
    except Exception:  # a network that is called otherwise, or needs other inputs: the layers seen so far count
        pass
    finally:
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
    return found[0] if found else None
