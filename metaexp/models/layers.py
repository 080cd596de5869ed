"""Convolution and pooling in two equivalent forms: native kernels and elementary operations.

Native kernels are fastest in an eager loop over tasks; elementary operations can be fused by a compiler and mapped by
vmap. `metaexp.models.norms.prepare` switches all layers of a model.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 4  # with at most this many input channels, a convolution is computed as a matrix product with its patches


class Convolution(nn.Conv2d):
    """`nn.Conv2d`, zero-padded, with faster forms on the CPU.

    There, the native form returns its result in channels-last memory format, and the other one, for the compiled graph,
    writes a convolution with few input channels (the first layer of a network) as a matrix product.
    """

    native = False

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, height, width] -> [n, filters, height, width] of the output."""
        if self.native and x.is_cpu:
            # Later layers keep the channels-last format, in which norm and pooling kernels are 4 and 12 times faster.
            return super().forward(x.movedim(1, -1).contiguous().movedim(-1, 1))
        if self.native or self.in_channels > FEW or self.groups > 1 or not x.is_cpu or isinstance(self.padding, str):
            return super().forward(x)
        n, height, width = (
            x.shape[0],
            *(
                (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
                for size, pad, dilation, kernel, stride in zip(
                    x.shape[2:], self.padding, self.dilation, self.kernel_size, self.stride, strict=True
                )
            ),
        )
        columns = F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)  # [n, patch, positions]
        columns = columns.transpose(1, 2).reshape(n * height * width, -1)
        # Contiguous, so that its gradient is computed as columns^T g: four times faster in MKL than g^T columns.
        y = columns @ self.weight.flatten(1).t().contiguous()
        y = y if self.bias is None else y + self.bias
        return y.view(n, height, width, -1).permute(0, 3, 1, 2)


class MaxPool(nn.Module):
    """Maximum of every 2 x 2 pixels, without an odd last row or column. Among equal pixels the first one is taken."""

    native = False

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, height, width] -> [n, channels, height // 2, width // 2]."""
        if self.native or not x.is_cpu:
            return F.max_pool2d(x, 2)
        n, channels, height, width = x.shape
        x = x[:, :, : height // 2 * 2, : width // 2 * 2].permute(0, 2, 3, 1)  # channels last, as in memory
        pooled: Tensor = _Largest.apply(x.reshape(n, height // 2, 2, width // 2, 2, channels))[0]
        return pooled.permute(0, 3, 1, 2)


class _Largest(torch.autograd.Function):
    """x [n, height, 2, width, 2, channels] -> the largest of each 2 x 2 pixels and its place 0, ..., 3 in them, both
    [n, height, width, channels].

    The gradient of stacking four comparisons cannot be vectorised by the compiler; comparing one place with 0, ..., 3
    can. Both directions are linear in what they move and are each other's derivative, to any order.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        (a, b), (c, d) = (row.unbind(3) for row in x.unbind(2))
        above, below = torch.where(a >= b, a, b), torch.where(c >= d, c, d)
        one = torch.ones_like(a)
        left, right = torch.where(a >= b, 0 * one, one), torch.where(c >= d, 2 * one, 3 * one)
        first = above >= below
        return torch.where(first, above, below), torch.where(first, left, right)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Any) -> Tensor:
        (place,) = ctx.saved_tensors
        spread: Tensor = _Spread.apply(g, place)
        return spread


class _Spread(torch.autograd.Function):
    """g, place [n, height, width, channels] -> [n, height, 2, width, 2, channels]: g at its place, 0 elsewhere."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, place: Tensor) -> Tensor:
        return torch.where(_at(place), g[:, :, None, :, None], 0.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        return _Gather.apply(g, place), None


class _Gather(torch.autograd.Function):
    """The transpose of `_Spread`: x [n, height, 2, width, 2, channels] at the place -> [n, height, width, channels]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, place: Tensor) -> Tensor:
        (a, b), (c, d) = (row.unbind(3) for row in x.unbind(2))
        upper, lower = torch.where(place == 0, a, b), torch.where(place == 2, c, d)
        return torch.where(place < 2, upper, lower)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        return _Spread.apply(g, place), None


def _at(place: Tensor) -> Tensor:
    """bool [n, height, 2, width, 2, channels]: whether the pixel is the one at the place."""
    two = torch.arange(2, device=place.device, dtype=place.dtype)
    return place[:, :, None, :, None] == 2 * two.view(2, 1, 1, 1) + two.view(2, 1)
