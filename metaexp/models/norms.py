"""Normalisation layers that are right under vmap, in a loop, and at test in every named mode.

torch 2.13 gives a wrong second-order gradient for `vmap` of `F.batch_norm` (the loss is right, so no curve shows it).
These layers write the statistics in elementary operations under vmap and use the native kernel in a loop over tasks.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Norm(nn.Module):
    """(x - mean) / sqrt(var + eps) * weight + bias, with statistics over `dims` of the batch at hand.

    Has no running averages: "batch statistics always", as in the authors' code of MAML and Reptile. x is
    [n, channels, *space]; dims 0 means over the batch, 1 over channels, "space" over the rest.
    """

    def __init__(self, channels: int, over_batch: bool, over_channels: bool = False, eps: float = 1e-5):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.over_batch, self.over_channels, self.eps = over_batch, over_channels, eps
        self.native = False  # the native kernel: set by `prepare` where tasks are not mapped by vmap
        self.rows: int | None = None  # statistics from the first so many rows only

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, *space] -> the same shape."""
        if self.native and self.over_batch and self.rows is None:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        dims = ([0] if self.over_batch else []) + ([1] if self.over_channels else []) + list(range(2, x.dim()))
        part = x[: self.rows] if self.over_batch else x
        mean = part.mean(dims, keepdim=True)
        variance = ((part - mean) ** 2).mean(dims, keepdim=True)
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return (x - mean) * torch.rsqrt(variance + self.eps) * self.weight.view(shape) + self.bias.view(shape)


class Frozen(nn.Module):
    """A batch norm with fixed statistics: what `nn.BatchNorm*` in eval mode computes, as an affine map."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.register_buffer("mean", norm.running_mean)
        self.register_buffer("variance", norm.running_var)

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, *space] -> the same shape."""
        shape = (1, -1) + (1,) * (x.dim() - 2)
        y = (x - self.mean.view(shape)) * torch.rsqrt(self.variance.view(shape) + self.eps)
        return y if self.weight is None else y * self.weight.view(shape) + self.bias.view(shape)


def _replacement(layer: nn.Module) -> nn.Module | None:
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        if not layer.training and layer.running_mean is not None:
            return Frozen(layer)
        norm = Norm(layer.num_features, over_batch=True, eps=layer.eps)
    elif isinstance(layer, nn.modules.instancenorm._InstanceNorm):
        norm = Norm(layer.num_features, over_batch=False, eps=layer.eps)
    else:
        return None
    if layer.weight is None:
        norm.weight.requires_grad_(False)
        norm.bias.requires_grad_(False)
    else:
        norm.weight, norm.bias = layer.weight, layer.bias
    return norm


def adopt(model: nn.Module) -> nn.Module:
    """Put these layers in place of torch's batch and instance norms, in any module, keeping parameters and names.

    A batch norm in eval mode with running statistics (a pretrained body) stays fixed at them; one in training mode
    uses the statistics of the batch at hand from then on.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            layer = _replacement(child)
            if layer is not None:
                setattr(parent, name, layer)
    return _replacement(model) or model


def prepare(model: nn.Module, native: bool) -> None:
    """Use the native kernel (a loop over tasks) or elementary operations (vmap) in every `Norm` of the model."""
    for layer in model.modules():
        if isinstance(layer, Norm):
            layer.native = native


def depends_on_batch(model: nn.Module) -> bool:
    """Whether a prediction depends on the other examples of its batch."""
    return any(isinstance(layer, Norm) and layer.over_batch for layer in model.modules())


@contextmanager
def statistics_from(model: nn.Module, rows: int) -> Iterator[None]:
    """Inside, batch statistics come from the first `rows` rows of a batch alone."""
    layers = [layer for layer in model.modules() if isinstance(layer, Norm)]
    for layer in layers:
        layer.rows = rows
    try:
        yield
    finally:
        for layer in layers:
            layer.rows = None
