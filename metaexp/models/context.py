"""Networks with a second input, a context vector that identifies the task: (x, context) -> prediction."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class InputContext(nn.Module):
    """Appends the context to the flattened input; `network` takes [n, inputs + size]."""

    def __init__(self, network: nn.Module, size: int):
        super().__init__()
        self.network, self.size = network, size

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[n, *x_shape], [size] -> [n, out]."""
        x = x.flatten(1)
        out: Tensor = self.network(torch.cat((x, context.expand(len(x), -1)), 1))
        return out


class ChannelContext(nn.Module):
    """Appends each number of the context as a channel with the same value in every pixel.

    `network` takes [n, channels + size, height, width].
    """

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
        network: has `channels`, the number of channels of each block, and `forward(x, modulate)`, which calls
            modulate(block, h) on the maps of every block before the activation (as in `metaexp.models.cnn4.CNN4`).
        size: length of the context vector.
        block: index of the block to modulate, from 0.
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


def with_context(
    model: Callable[[tuple[int, ...], int], nn.Module] | nn.Module,
    x_shape: tuple[int, ...],
    out: int,
    context: str | None,
    size: int | None,
    block: int,
) -> nn.Module:
    """A network that takes a context as its second input, built from `model`: a constructor or an existing module.

    Args:
        context: "input", "film", "channel", or None: "film" if the network can be modulated, else "input".
        size: length of the context; None: 5 with "input", else 100.
        block: the block that "film" modulates, from 0.

    Raises:
        ValueError: the network or the inputs cannot take the context in this way, or the network is linear, so that a
            context adds the same to every prediction.
    """

    def network(*shape: int) -> nn.Module:
        return model if isinstance(model, nn.Module) else model(shape, out)

    if context in (None, "film"):
        plain = network(*x_shape)
        channels = getattr(plain, "channels", None)
        if channels is not None:
            if not 0 <= block < len(channels):
                raise ValueError(f"film_block={block}: must be from 0 to {len(channels) - 1}")
            return FiLM(plain, size or 100, block)
        if context == "film":
            raise ValueError("context=film: needs a network with channels and forward(x, modulate), as cnn4; use input")
    if context == "channel":
        if len(x_shape) != 3:
            raise ValueError(f"context=channel: needs pictures (channels, height, width), not {x_shape}; use input")
        size = size or 100
        return ChannelContext(network(x_shape[0] + size, *x_shape[1:]), size)
    size = size or 5
    made = InputContext(network(math.prod(x_shape) + size), size)
    if _only_shifts(made, math.prod(x_shape)):
        raise ValueError(
            "model: the network is linear in its input, so a context would add the same number to every prediction; "
            "use model=mlp"
        )
    return made


def _only_shifts(network: InputContext, inputs: int) -> bool:
    """Whether f(x, context) = g(x) + h(context) on some points: nothing about x can then be adapted."""
    first = next(network.parameters(), torch.zeros(()))
    draw = torch.Generator().manual_seed(0)  # not the global one, which gives the initial weights
    x, contexts = (torch.randn(n, d, generator=draw) for n, d in ((8, inputs), (4, network.size)))
    with torch.no_grad():
        y = torch.stack([network(x.to(first), context.to(first)) for context in contexts])  # [contexts, points, out]
    together = y - y.mean(0, keepdim=True) - y.mean(1, keepdim=True) + y.mean((0, 1), keepdim=True)
    return not y.is_meta and bool(together.abs().max() <= 1e-5 * y.abs().max())
