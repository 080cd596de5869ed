"""Random changes of training pictures, drawn from keys: the same picture in any batch, rank or resumed run."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from metaexp.random import fold, integers, uniform

Change = Literal["crop", "flip", "colour"]
_FLIP, _CROP, _COLOUR = 1, 2, 3


def augment(x: Tensor, key: Tensor, changes: tuple[Change, ...]) -> Tensor:
    """Pictures [n, channels, H, W] in [0, 1], changed at random by their keys [n].

    crop: moved by up to an eighth of the size in each direction, edges reflected. flip: mirrored left to right with
    probability 1/2. colour: brightness, contrast and (with 3 channels) saturation times a factor from [0.6, 1.4].
    """
    if "crop" in changes:
        x = _cropped(x, fold(key, _CROP))
    if "flip" in changes:
        mirrored = integers(key, _FLIP, (), 2).view(-1, 1, 1, 1) == 1
        x = torch.where(mirrored, x.flip(-1), x)
    if "colour" in changes:
        x = _coloured(x, fold(key, _COLOUR))
    return x


def _cropped(x: Tensor, key: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    pad = max(1, min(height, width) // 8)
    if pad >= min(height, width):  # too small to reflect
        return x
    padded = F.pad(x, (pad, pad, pad, pad), mode="reflect")
    down, right = (integers(key, stream, (), 2 * pad + 1) for stream in (0, 1))
    rows = (down.view(-1, 1) + torch.arange(height, device=x.device)).view(n, 1, height, 1)
    columns = (right.view(-1, 1) + torch.arange(width, device=x.device)).view(n, 1, 1, width)
    padded = padded.gather(2, rows.expand(n, channels, height, padded.shape[-1]))
    return padded.gather(3, columns.expand(n, channels, height, width))


def _coloured(x: Tensor, key: Tensor) -> Tensor:
    factors = uniform(key, 0, (3,), 0.6, 1.4, dtype=x.dtype)  # [n, 3]
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in factors.unbind(-1))
    x = (x * brightness).clamp(0, 1)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (mean + (x - mean) * contrast).clamp(0, 1)
    if x.shape[1] == 3:
        grey = x.mean(1, keepdim=True)
        x = (grey + (x - grey) * saturation).clamp(0, 1)
    return x
