"""Calling a module with other tensors instead of its own, whatever it shares; and which modules are refused."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from metaexp.models.attention import plain_attention
from metaexp.models.forward_pass import (
    built,
    carried_state,
    drawing_layer,
    example,
    output_fault,
    restore,
    state,
    unfit_tensor,
)


def functional_call(module: nn.Module, tensors: Mapping[str, Tensor], args: tuple[Any, ...]) -> Any:
    """module(*args) with the given parameters and buffers instead of its own; nothing of the module changes.

    As `torch.func.functional_call`, and also right if one submodule has several names (`self.b = self.a`, one block
    twice in a `Sequential`): torch exchanges its tensors once per name, and restores the wrong ones. A tensor that
    several modules hold (tied weights) is replaced in all of them, by whichever of its names it is given. torch's
    attention and recurrent layers have derivatives of any order here.

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
    recurrent = any(isinstance(part, nn.RNNBase) for part in module.modules())
    # cuDNN's recurrent layers have no second derivative.
    with plain_attention(), torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext():
        return torch.func.functional_call(module, each, args, tie_weights=False)


def predicted(module: nn.Module, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """`functional_call` of a network that predicts: x [n, ...] -> [n, outputs].

    Raises:
        ValueError: it returns anything else.
    """
    made = functional_call(module, tensors, (x,))
    check_output(made, x)
    prediction: Tensor = made
    return prediction


def check_output(made: Any, x: Tensor, what: str = "forward") -> None:
    """Raise ValueError unless `made` is a tensor [n, outputs] of real numbers for inputs x [n, ...].

    Args:
        what: the method of the network that returned it.
    """
    if fault := output_fault(made, x, half=not x.is_meta and torch.is_autocast_enabled(x.device.type)):
        raise ValueError(f"model: {what} {fault}")


SCALES = (1.0, -1.0, 10.0, -10.0)  # of the inputs that a network is tried on: RReLU draws for negative ones only


def check_module(model: nn.Module, x_shape: tuple[int, ...]) -> None:
    """Refuse a network that no task's seed and no meta-gradient can be right with; see `check_state` too.

    Args:
        model: as the user made it.
        x_shape: of one input; the network is tried on two, as far as it takes them.

    Raises:
        ValueError: it draws random numbers from torch's global generator, or has complex parameters or such without a
            shape yet, or makes layers in its forward pass.
    """
    if fault := unfit_tensor(model):
        raise ValueError(f"model: {fault}")
    before = state(model)
    try:
        x = example(model, x_shape)
        layer = drawing_layer(model, lambda: [model(scale * x) for scale in SCALES])
        made = built(before, state(model))
    finally:
        restore(before, state(model))
    if made:
        raise ValueError(f"model: its forward pass {made}: call it on an example before it is given here")
    if layer:
        raise ValueError(
            f"model: {layer} draws from torch's global generator, which is not tied to a task's seed and which no run "
            "could continue; leave it out, or call .eval() on it"
        )


def check_state(model: nn.Module, x_shape: tuple[int, ...]) -> None:
    """Refuse a network whose forward pass changes it, with its norms already replaced (`metaexp.models.norms.adopt`).

    Raises:
        ValueError: a buffer, a counter, a layer made on the way: `metaexp.models.forward_pass.carried_state`.
    """
    for network in model if isinstance(model, nn.ModuleList) else [model]:
        x = example(network, x_shape)
        if fault := next(filter(None, (carried_state(network, scale * x, functional_call) for scale in SCALES)), None):
            raise ValueError(
                f"model: in a forward pass {fault}, so that one task would change the next; call .eval() on that layer "
                "if this stops it, or keep it constant"
            )
