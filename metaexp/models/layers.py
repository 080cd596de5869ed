"""Convolution and pooling in two equivalent forms: native kernels and elementary operations.

Native kernels are fastest in an eager loop over tasks; elementary operations can be fused by a compiler and mapped by
vmap. `metaexp.models.norms.prepare` switches all layers of a model.
"""

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
        height, width = x.shape[2] // 2, x.shape[3] // 2
        parts = x[:, :, : 2 * height, : 2 * width].unflatten(3, (width, 2)).unflatten(2, (height, 2))
        (a, b), (c, d) = (row.unbind(-1) for row in parts.unbind(3))
        return _first_larger(_first_larger(a, b), _first_larger(c, d))


def _first_larger(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a >= b, a, b)
