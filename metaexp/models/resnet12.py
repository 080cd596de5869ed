"""The residual network with 12 layers of the few-shot literature."""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from metaexp.constraints import Count, Natural, Share, checked
from metaexp.models.cnn4 import NORMS, Modulate
from metaexp.models.dropping import DropBlock, Dropout, Dropping
from metaexp.models.layers import Convolution, MaxPool

SLOPE = 0.1  # of the leaky ReLUs below 0


class _Block(nn.Module):
    """Three 3x3 convolutions with norms; a 1x1 convolution with a norm beside them; leaky ReLU of the sum; pooling."""

    def __init__(self, inputs: int, outputs: int, norm: str, drop: Dropping | None):
        super().__init__()
        widths = [inputs, outputs, outputs]
        self.convolutions = nn.ModuleList(Convolution(i, outputs, 3, padding=1, bias=False) for i in widths)
        self.norms = nn.ModuleList(NORMS[norm](outputs) for _ in widths)
        self.shortcut, self.shortcut_norm = Convolution(inputs, outputs, 1, bias=False), NORMS[norm](outputs)
        self.pool, self.drop = MaxPool(), drop

    def forward(self, x: Tensor, modulate: Modulate | None, block: int) -> Tensor:
        """[n, inputs, height, width] -> [n, outputs, height // 2, width // 2]."""
        h = x
        for place, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            h = norm(convolution(h if place == 0 else F.leaky_relu(h, SLOPE)))
        h = h + self.shortcut_norm(self.shortcut(x))
        h = self.pool(F.leaky_relu(modulate(block, h) if modulate else h, SLOPE))
        return self.drop(h) if self.drop else h


class ResNet12(nn.Module):
    """Four residual blocks, each with three 3x3 convolutions and a 1x1 convolution beside them, and a linear head.

    "TADAM: Task dependent adaptive metric for improved few-shot learning", Oreshkin, Rodriguez, Lacoste, 2018, in the
    form of "Meta-Learning with Differentiable Convex Optimization", Lee, Maji, Ravichandran, Soatto, 2019: 64, 160, 320
    and 640 channels, a norm after every convolution, leaky ReLUs of slope 0.1, max-pooling after each block. A norm
    uses the statistics of the current batch (theirs has running averages at test; `normalise` chooses, see the
    methods).

    With `drop_rate`, training drops features as the code of Lee and others does: after the first two blocks one by one
    (dropout), after the last two in squares (`DropBlock`: Ghiasi, Lin, Le 2018), whose share rises over `drop_steps`
    outer steps. Theirs is drop_rate=0.1, drop_size=5, drop_steps=40000; it counts passes through the network instead of
    outer steps. Every pass of a task in training has masks of its own, in an inner loop too, drawn from the task's key.

    Args:
        x_shape, out: (channels, height, width) of one input, at least 16 x 16, and number of outputs, from the family.
        channels: of the four blocks; 64, 128, 256, 512 is TADAM's.
        readout: "mean" over the last maps (TADAM's, 640 features), or "flatten" (16,000 of 84 x 84 pixels).
        norm: "batch" (statistics of the current batch), "instance", "layer" or "none".
        drop_rate: share of the features that training drops after each block; 0: none.
        drop_size: side of the squares in pixels of the pooled maps, at most the whole map.
        drop_steps: outer steps over which the share of the squares rises linearly from 0; 0: constant.

    Raises:
        ValueError: the input is not an image or is too small, the channels are not four numbers, or a word is not one
            of those listed.
    """

    @checked
    def __init__(
        self,
        x_shape: Sequence[int],
        out: int,
        channels: Sequence[Count] = (64, 160, 320, 640),
        readout: Literal["mean", "flatten"] = "mean",
        norm: Literal["batch", "instance", "layer", "none"] = "batch",
        drop_rate: Share = 0.0,
        drop_size: Count = 5,
        drop_steps: Natural = 0,
    ):
        super().__init__()
        if len(x_shape) != 3:
            raise ValueError(f"x_shape={tuple(x_shape)}: resnet12 needs pictures (channels, height, width)")
        if len(channels) != 4:
            raise ValueError(f"channels={list(channels)}: must be four numbers, one per block")
        if min(x_shape[1:]) < 16:
            raise ValueError(f"x_shape={tuple(x_shape)}: too small for four halvings; at least 16 x 16, or model=cnn4")
        height, width = (side // 16 for side in x_shape[1:])
        self.readout, self.channels = readout, list(channels)
        inputs = [x_shape[0], *channels[:3]]
        drops: list[Dropping | None] = [None] * 4
        if drop_rate:
            drops = [Dropout(drop_rate), Dropout(drop_rate)]
            drops += [DropBlock(drop_rate, drop_size, drop_steps) for _ in range(2)]
        self.blocks = nn.ModuleList(_Block(i, o, norm, d) for i, o, d in zip(inputs, channels, drops, strict=True))
        for layer in self.modules():
            if isinstance(layer, Convolution):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="leaky_relu")
        self.head = nn.Linear(channels[3] * (height * width if readout == "flatten" else 1), out)

    def features(self, x: Tensor, modulate: Modulate | None = None) -> Tensor:
        """[n, channels, height, width] -> [n, features]; `modulate` changes every block's sum before its last ReLU."""
        for number, block in enumerate(self.blocks):
            x = block(x, modulate, number)
        return x.mean((2, 3)) if self.readout == "mean" else x.flatten(1)

    def forward(self, x: Tensor, modulate: Modulate | None = None) -> Tensor:
        """[n, channels, height, width] -> [n, out]."""
        return self.head(self.features(x, modulate))
