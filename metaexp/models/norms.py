"""Normalisation layers that are correct under vmap, in a loop, and in every mode of batch statistics at test.

torch 2.13 gives a wrong second-order gradient for `vmap` of `F.batch_norm` and `F.layer_norm` (the loss is correct, so
no curve shows the error). These layers compute the statistics in elementary operations under vmap and in compiled
graphs, and use the native kernel in an eager loop over tasks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

FEW_PIXELS = 64  # maps of at most this size are averaged at once


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """x [n, channels, *space] scaled and shifted per channel."""
    shape = (1, -1) + (1,) * (x.dim() - 2)
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


def _mean(x: Tensor, dims: list[int]) -> Tensor:
    """The mean over `dims`, which are kept with size 1.

    Over pictures and pixels [n, channels, height, width] in two stages, first within a row: in channels-last memory
    compiled code sums a few channels at a time, and would otherwise pass over all memory once for each few.
    """
    if dims == [0, 2, 3] and x.dim() == 4:
        x = x.mean([3] if x.shape[2] * x.shape[3] > FEW_PIXELS else [2, 3], keepdim=True)
    return x.mean(dims, keepdim=True)


class _Standardise(torch.autograd.Function):
    """x, dims, eps -> y = (x - mean) r and r = 1 / sqrt(var + eps), with the statistics over dims.

    If g and h are the gradients with respect to y and r, the gradient with respect to x is
    r (g - mean(g) - y mean(g y)) - h r^2 y / n. Autograd needs twice as many passes over memory for the same gradient.
    The backward pass consists of differentiable operations, so second-order gradients need no further code.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dims: list[int], eps: float) -> tuple[Tensor, Tensor]:
        centred = x - _mean(x, dims)
        # As the exponential of a logarithm: a compiler keeps an exponential that is used twice, but recomputes a square
        # root for every element.
        root = torch.exp(-0.5 * torch.log(_mean(centred * centred, dims) + eps))
        return centred * root, root

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.dims = inputs[1]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, h: Tensor | None) -> tuple[Tensor | None, None, None]:
        y, root = ctx.saved_tensors
        gradient = None
        if g is not None:
            means = _mean(g, ctx.dims), _mean(g * y, ctx.dims)
            gradient = root * (g - means[0] - y * means[1])
        if h is not None:
            part = h * (root * root) * y / (y.numel() // root.numel())
            gradient = -part if gradient is None else gradient - part
        return gradient, None, None


def standardise(x: Tensor, dims: list[int], eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) with statistics over the dimensions `dims`; has derivatives of any order."""
    y: Tensor = _Standardise.apply(x, dims, eps)[0]
    return y


class Norm(nn.Module):
    """(x - mean) / sqrt(var + eps) * weight + bias, with the statistics of the current batch.

    Has no running averages: it always uses batch statistics, as in the authors' code of MAML and Reptile. x is
    [n, channels, *space]; statistics are always over `space`, and optionally over the batch and over the channels.
    Scale and shift, each [channels], may be None.
    """

    def __init__(self, channels: int, over_batch: bool, over_channels: bool = False, eps: float = 1e-5):
        super().__init__()
        self.weight: nn.Parameter | None = nn.Parameter(torch.ones(channels))
        self.bias: nn.Parameter | None = nn.Parameter(torch.zeros(channels))
        self.over_batch, self.over_channels, self.eps = over_batch, over_channels, eps
        self.native = False  # use the native kernel: set by `prepare` if tasks are not mapped by vmap
        self.rows: int | None = None  # the number of first rows that give the statistics; None: all rows
        self.group: int | None = None  # so many consecutive rows have statistics of their own; None: see `rows`

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, *space] -> the same shape."""
        if self.group is not None and self.over_batch:
            parts = x.unflatten(0, (-1, self.group))  # [n / group, group, channels, *space]
            over = [1, *([2] if self.over_channels else []), *range(3, parts.dim())]
            return _affine(standardise(parts, over, self.eps).flatten(0, 1), self.weight, self.bias)
        if self.native and self.over_batch and self.rows is None and x[:, :1].numel() > 1:  # it refuses a single value
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        dims = ([0] if self.over_batch else []) + ([1] if self.over_channels else []) + list(range(2, x.dim()))
        if self.rows is None or not self.over_batch:
            return _affine(standardise(x, dims, self.eps), self.weight, self.bias)
        part = x[: self.rows]
        mean = part.mean(dims, keepdim=True)
        variance = ((part - mean) ** 2).mean(dims, keepdim=True)
        return _affine((x - mean) * torch.rsqrt(variance + self.eps), self.weight, self.bias)


class LayerNorm(nn.Module):
    """`nn.LayerNorm`: statistics over the last dimensions of an example, scale and shift per element of these."""

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        self.normalized_shape, self.eps = norm.normalized_shape, norm.eps
        self.elementwise_affine = norm.elementwise_affine
        self.weight, self.bias = norm.weight, norm.bias
        self.native = False

    def forward(self, x: Tensor) -> Tensor:
        """[*, *normalized_shape] -> the same shape."""
        if self.native:
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        y = standardise(x, list(range(-len(self.normalized_shape), 0)), self.eps)
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias


class Frozen(nn.Module):
    """A norm with fixed statistics: what `nn.BatchNorm*` computes in eval mode, as an affine map."""

    def __init__(self, norm: nn.modules.batchnorm._NormBase):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", norm.running_mean)
        self.register_buffer("variance", norm.running_var)

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, *space] -> the same shape."""
        shape = (1, -1) + (1,) * (x.dim() - 2)
        y = (x - self.mean.view(shape)) * torch.rsqrt(self.variance.view(shape) + self.eps)
        return _affine(y, self.weight, self.bias)


_KINDS = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_EXACT = (
    nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)  # fmt: skip


def _replacement(layer: nn.Module) -> nn.Module | None:
    if isinstance(layer, _KINDS) and type(layer) not in _EXACT:
        raise ValueError(
            f"model: {type(layer).__name__} is a norm of its own, and torch's norms have wrong second derivatives "
            "under vmap: make it a module that contains the norm, instead of a subclass"
        )
    if isinstance(layer, _KINDS) and (layer._forward_hooks or layer._forward_pre_hooks):
        raise ValueError(
            f"model: {type(layer).__name__} has forward hooks, which would be lost with the layer that replaces it; "
            "register them on the module around it"
        )
    if isinstance(layer, nn.LayerNorm):
        return LayerNorm(layer)
    if not isinstance(layer, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
        return None
    if not layer.training and layer.running_mean is not None:
        return Frozen(layer)
    over_batch = isinstance(layer, nn.modules.batchnorm._BatchNorm)
    norm = Norm(layer.num_features, over_batch, eps=layer.eps)
    norm.weight, norm.bias = layer.weight, layer.bias
    return norm


def own_norms(model: nn.Module) -> dict[str, int]:
    """Kind -> number of the layers of a module that `adopt` replaces."""
    kinds = [type(layer).__name__ for layer in model.modules() if type(layer) in _EXACT]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def adopt(model: nn.Module) -> nn.Module:
    """Replace torch's batch, instance and layer norms in a module by these layers, keeping parameters and names.

    A norm in eval mode with running statistics (a pretrained body) keeps these statistics; a norm in training mode
    uses the statistics of the current batch from then on.

    Raises:
        ValueError: a subclass of one of these norms, or one with forward hooks: what it adds would be lost.
    """
    new: dict[nn.Module, nn.Module | None] = {}  # one per old layer, so that a layer shared by two parents stays shared
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child not in new:
                new[child] = _replacement(child)
            layer = new.get(child) if child is not None else None
            if layer is not None:
                setattr(parent, name, layer)
    return _replacement(model) or model


def prepare(model: nn.Module, native: bool) -> None:
    """Use native kernels (an eager loop over tasks) or elementary operations (vmap, a compiled graph) in the model.

    Applies to every layer with an attribute `native`: the norms here and the layers of `metaexp.models.layers`.
    """
    for layer in model.modules():
        if hasattr(layer, "native"):
            layer.native = native  # type: ignore[assignment]


def depends_on_batch(model: nn.Module) -> bool:
    """Whether a prediction depends on the other examples of its batch."""
    return any(isinstance(layer, Norm) and layer.over_batch for layer in model.modules())


@contextmanager
def statistics_from(model: nn.Module, rows: int) -> Iterator[None]:
    """Inside this context, batch statistics come from only the first `rows` rows of a batch."""
    layers = [layer for layer in model.modules() if isinstance(layer, Norm)]
    for layer in layers:
        layer.rows = rows
    try:
        yield
    finally:
        for layer in layers:
            layer.rows = None


def single_at_once(model: nn.Module, function: Callable[[Tensor], Tensor], support: Tensor, x: Tensor) -> Tensor:
    """The mode "single" of `in_mode` without vmap: one batch of len(x) groups, each the support set and one query.

    The same values where nothing but the norms of this module looks at other rows; any number of queries can be traced.
    """
    n, m = len(support), x.shape[0]
    every = torch.cat((support.unsqueeze(0).expand(m, *support.shape), x.unsqueeze(1)), 1)  # [m, n + 1, *x_shape]
    layers = [layer for layer in model.modules() if isinstance(layer, Norm)]
    for layer in layers:
        layer.group = n + 1
    try:
        made = function(every.flatten(0, 1))
    finally:
        for layer in layers:
            layer.group = None
    return made.unflatten(0, (-1, n + 1))[:, -1]


def in_mode(mode: str, model: nn.Module, function: Callable[[Tensor], Tensor], support: Tensor, x: Tensor) -> Tensor:
    """function(inputs [m, *x_shape]) -> [m, ...] on the queries x; the mode sets the batch statistics of `model`.

    "queries": all queries in one batch; "single": support inputs [n, *x_shape] plus one query at a time; "support":
    statistics of the support inputs only.
    """
    if mode == "queries" or x.shape[0] == 0:
        return function(x)
    if mode == "support":
        with statistics_from(model, len(support)):
            return function(torch.cat((support, x)))[len(support) :]

    def single(query: Tensor) -> Tensor:
        return function(torch.cat((support, query[None])))[-1]

    if model not in _ONE_BY_ONE:
        try:
            return vmap(single)(x)
        except Exception:  # a network that vmap cannot take
            _ONE_BY_ONE.add(model)
    return torch.stack([single(query) for query in x])


_ONE_BY_ONE: "WeakSet[nn.Module]" = WeakSet()  # networks that take one query after the other in the mode "single"


@contextmanager
def one_by_one(model: nn.Module) -> Iterator[None]:
    """Inside this context, the mode "single" takes one query after the other, without vmap."""
    known = model in _ONE_BY_ONE
    _ONE_BY_ONE.add(model)
    try:
        yield
    finally:
        if not known:
            _ONE_BY_ONE.discard(model)
