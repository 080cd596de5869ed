"""The four-block convolutional network of the few-shot literature."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from metaexp.constraints import Count, checked
from metaexp.models.layers import Convolution, MaxPool
from metaexp.models.norms import Norm

Modulate = Callable[[int, Tensor], Tensor]  # (block, maps [n, channels, height, width]) -> maps of the same shape

NORMS = {
    "batch": lambda channels: Norm(channels, over_batch=True),
    "instance": lambda channels: Norm(channels, over_batch=False),
    "layer": lambda channels: Norm(channels, over_batch=False, over_channels=True),
    "none": lambda channels: nn.Identity(),
}


class CNN4(nn.Module):
    """Four blocks [3x3 convolution, norm, ReLU], each halving the image by stride or max-pooling, and a linear head.

    Stride 2 with the mean over the last maps is MAML's Omniglot network (Finn, Abbeel, Levine 2017, section 5.2);
    stride 2 with flattened maps is Reptile's; max-pooling with flattened maps is that of matching and prototypical
    networks (Vinyals et al. 2016; Snell, Swersky, Zemel 2017).

    Args:
        x_shape, out: (channels, height, width) of one input and number of outputs, from the task family.
        filters: channels of every block.
        down: "stride" or "pool".
        readout: "mean" over the last maps, or "flatten".
        norm: "batch" (statistics of the current batch), "instance", "layer" or "none".

    Raises:
        ValueError: the input is not an image or is too small, a word is not one of those listed, or an instance norm
            would apply to single pixels.
    """

    @checked
    def __init__(
        self,
        x_shape: Sequence[int],
        out: int,
        filters: Count = 64,
        down: Literal["stride", "pool"] = "stride",
        readout: Literal["mean", "flatten"] = "mean",
        norm: Literal["batch", "instance", "layer", "none"] = "batch",
    ):
        super().__init__()
        if len(x_shape) != 3:
            raise ValueError(f"x_shape={tuple(x_shape)}: cnn4 needs pictures (channels, height, width); use model=mlp")
        channels, height, width = x_shape
        for _ in range(4):
            height, width = (height // 2, width // 2) if down == "pool" else ((height + 1) // 2, (width + 1) // 2)
        if height < 1 or width < 1:
            raise ValueError(f"x_shape={tuple(x_shape)}: too small for four halvings; use down=stride or model=mlp")
        if norm == "instance" and down == "stride" and height == width == 1:
            # Normalising a single pixel leaves only the shift: the output would not depend on the input.
            raise ValueError(
                f"norm=instance: x_shape={tuple(x_shape)} ends in maps of one pixel; use down=pool or batch"
            )
        self.readout = readout
        self.channels = [filters] * 4  # of each block
        stride = 2 if down == "stride" else 1
        inputs = [channels, filters, filters, filters]
        self.convolutions = nn.ModuleList(Convolution(i, filters, 3, stride=stride, padding=1) for i in inputs)
        self.norms = nn.ModuleList(NORMS[norm](filters) for _ in range(4))
        self.pool = MaxPool() if down == "pool" else nn.Identity()
        self.head = nn.Linear(filters * (height * width if readout == "flatten" else 1), out)

    def features(self, x: Tensor, modulate: Modulate | None = None) -> Tensor:
        """[n, channels, height, width] -> [n, features]; `modulate` changes every block's maps before its ReLU."""
        for block, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            h = norm(convolution(x))
            x = self.pool(F.relu(modulate(block, h) if modulate else h))
        return x.mean((2, 3)) if self.readout == "mean" else x.flatten(1)

    def forward(self, x: Tensor, modulate: Modulate | None = None) -> Tensor:
        """[n, channels, height, width] -> [n, out]."""
        return self.head(self.features(x, modulate))
