"""Batch norm with running averages: batch statistics during training, fixed statistics afterwards.

For methods that pass support and query examples through the network in one batch, as a prototypical network does.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaexp.models.norms import Norm, standardise

MOMENTUM = 0.1  # weight of the latest batch, as in torch
Seen = dict[str, dict[str, Tensor]]  # by layer: mean and unbiased variance, [channels] each


class Running(nn.Module):
    """Computes what `nn.BatchNorm*` does: batch statistics inside `batch_statistics`, running averages outside.

    Only `absorb_statistics` changes the averages, so that a forward pass stays a pure function, also under vmap and in
    a compiled graph. Replaces a `Norm` and takes over its scale and shift.
    """

    def __init__(self, norm: Norm, channels: int):
        super().__init__()
        self.weight, self.bias, self.eps, self.native = norm.weight, norm.bias, norm.eps, norm.native
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.collects = False
        self.seen: dict[str, Tensor] = {}  # statistics of the last batch, while `collects` is set

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, *space] -> the same shape."""
        shape = (1, -1) + (1,) * (x.dim() - 2)
        if not self.collects and self.native:
            return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, False, 0.0, self.eps)
        if not self.collects:
            y = (x - self.mean.view(shape)) * torch.rsqrt(self.variance.view(shape) + self.eps)
        else:
            dims = [0, *range(2, x.dim())]
            count = x.numel() // x.shape[1]
            raw = x.detach().to(self.mean.dtype)
            mean = raw.mean(dims)
            square = ((raw - mean.view(shape)) ** 2).sum(dims)
            self.seen = {"mean": mean, "variance": square / max(count - 1, 1)}
            if self.native and count > 1:  # the kernel rejects a single value
                return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
            y = standardise(x, dims, self.eps)
        y = y if self.weight is None else y * self.weight.view(shape)
        return y if self.bias is None else y + self.bias.view(shape)


def keep_running(model: nn.Module) -> nn.Module:
    """Replace every `Norm` over the batch by `Running`, keeping parameters and names; returns the model."""
    new: dict[nn.Module, nn.Module] = {}  # one per old layer, so that a layer shared by two parents stays shared

    def replacement(layer: nn.Module | None) -> nn.Module | None:
        if not isinstance(layer, Norm) or not layer.over_batch:
            return None
        channels = next((len(p) for p in (layer.weight, layer.bias) if p is not None), None)
        if channels is None:
            raise ValueError("normalise=running: a batch norm without scale and shift keeps no running averages here")
        return new.setdefault(layer, Running(layer, channels))

    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            layer = replacement(child)
            if layer is not None:
                setattr(parent, name, layer)
    return replacement(model) or model


def keeps_running(model: nn.Module) -> bool:
    """Whether the model has a norm with running averages."""
    return any(isinstance(layer, Running) for layer in model.modules())


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[Seen]:
    """Inside this context, norms use the statistics of the current batch; afterwards the yielded dict holds them."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Running)}
    for layer in layers.values():
        layer.collects = True
    seen: Seen = {}
    try:
        yield seen
        seen.update({name: layer.seen for name, layer in layers.items() if layer.seen})
    finally:
        for layer in layers.values():
            layer.collects, layer.seen = False, {}


def absorb_statistics(model: nn.Module, seen: Seen) -> None:
    """Move the running averages a step (0.1, as in torch) towards the statistics of the latest batch."""
    with torch.no_grad():
        for name, found in seen.items():
            layer = model.get_submodule(name)
            assert isinstance(layer, Running)
            layer.mean.lerp_(found["mean"], MOMENTUM)
            layer.variance.lerp_(found["variance"], MOMENTUM)
