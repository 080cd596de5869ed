"""Networks with a second input, a context vector that says which task it is: (x, context) -> prediction."""

import torch
from torch import Tensor, nn


class InputContext(nn.Module):
    """The context stands behind the flattened input; `network` takes [n, inputs + size]."""

    def __init__(self, network: nn.Module, size: int):
        super().__init__()
        self.network, self.size = network, size

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[n, *x_shape], [size] -> [n, out]."""
        x = x.flatten(1)
        out: Tensor = self.network(torch.cat((x, context.expand(len(x), -1)), 1))
        return out


class ChannelContext(nn.Module):
    """Each number of the context is a channel of the picture, the same in every pixel; `network` takes
    [n, channels + size, height, width]."""

    def __init__(self, network: nn.Module, size: int):
        super().__init__()
        self.network, self.size = network, size

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[n, channels, height, width], [size] -> [n, out]."""
        planes = context.view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])
        out: Tensor = self.network(torch.cat((x, planes), 1))
        return out


class FiLM(nn.Module):
    """The context scales and shifts the channels of one block's maps: h -> gamma h + beta, linear in the context.

    "FiLM: Visual Reasoning with a General Conditioning Layer", Perez, Strub, de Vries, Dumoulin, Courville, 2018. gamma
    starts at 1 and beta at 0 for a context of zeros.

    Args:
        network: has `channels`, the channels of each block, and takes `forward(x, modulate)`: modulate(block, h) is
            called on the maps of every block before the activation (as `metaexp.models.cnn4.CNN4`).
        size: length of the context vector.
        block: which block, from 0.
    """

    def __init__(self, network: nn.Module, size: int, block: int):
        super().__init__()
        self.network, self.size, self.block = network, size, block
        channels: int = network.channels[block]  # type: ignore[index, assignment]
        self.film = nn.Linear(size, 2 * channels)
        nn.init.kaiming_uniform_(self.film.weight, nonlinearity="linear")
        with torch.no_grad():
            self.film.bias.copy_(torch.cat((torch.ones(channels), torch.zeros(channels))))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[n, channels, height, width], [size] -> [n, out]."""
        gamma, beta = self.film(context).view(2, 1, -1, 1, 1)  # [1, channels, 1, 1] each

        def modulate(block: int, h: Tensor) -> Tensor:
            return gamma * h + beta if block == self.block else h

        out: Tensor = self.network(x, modulate)
        return out
