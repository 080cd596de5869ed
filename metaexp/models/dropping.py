"""Layers that drop features in training by numbers drawn from the task's key, and the context in which they do.

torch's own dropout draws from a global generator, which no task's seed reaches. Here the mask of a pass is a pure
function of (key of the task, place of the layer, number of the pass in the task): the same under vmap, in a loop and in
a compiled graph, in a resumed run, and in any chunk or process.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaexp.constraints import Count, Natural, Share, checked
from metaexp.random import fold, uniform

STREAM = 0xD80B  # what a task's key is folded with
LEAST = 2.0**-24  # of a share that is divided by: that of a draw


class Dropping(nn.Module):
    """What the layers share: outside of `dropping`, or in evaluation mode, a layer is the identity.

    Args:
        rate: share of the features that is dropped.
        steps: outer steps over which the rate rises linearly from 0 (`rate` / `steps` in the first); 0: constant.
    """

    def __init__(self, rate: float, steps: int = 0):
        super().__init__()
        self.rate, self.steps = rate, steps
        self.key: Tensor | None = None  # int64 [], inside `dropping`
        self.step: Tensor | None = None  # int64 [], the number of outer steps done
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        """The same shape, with some features 0 and the others larger for it."""
        if self.key is None or not self.training or not self.rate:
            return x
        key, self.passes = fold(self.key, self.passes), self.passes + 1
        return self.dropped(x, key)

    def dropped(self, x: Tensor, key: Tensor) -> Tensor:
        """x with a mask drawn from the key []."""
        raise NotImplementedError

    def rate_now(self) -> float | Tensor:
        """The rate of this outer step."""
        if not self.steps or self.step is None:
            return self.rate
        return self.rate * torch.clamp((self.step + 1) / self.steps, max=1)

    def extra_repr(self) -> str:
        """The settings."""
        return f"rate={self.rate}" + (f", steps={self.steps}" if self.steps else "")


class Dropout(Dropping):
    """Every feature is 0 with probability `rate`, else divided by 1 - `rate`.

    "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", Srivastava, Hinton, Krizhevsky, Sutskever,
    Salakhutdinov, 2014, in the form that leaves the test alone.

    Args:
        rate: from 0 to 1; at 1 everything is 0.
    """

    @checked
    def __init__(self, rate: Share, steps: Natural = 0):
        super().__init__(rate, steps)

    def dropped(self, x: Tensor, key: Tensor) -> Tensor:
        """x [n, ...] with a mask drawn from the key []."""
        rate = self.rate_now()
        kept = (uniform(key, 0, tuple(x.shape), dtype=torch.float32) >= rate).to(x.dtype)
        share = (1 - rate).clamp(min=LEAST) if isinstance(rate, Tensor) else max(1 - rate, LEAST)
        return x * (kept / share)


class DropBlock(Dropping):
    """Squares of neighbouring pixels are 0, drawn for each example and channel; the rest is multiplied by
    (all features) / (features kept), over the batch of one task.

    "DropBlock: A regularization method for convolutional networks", Ghiasi, Lin, Le, 2018, algorithm 1: a square of
    `size` x `size` begins at each place where it fits into the map, with probability
    gamma = rate / size^2 * (height * width) / ((height - size + 1) * (width - size + 1)). Squares may overlap, so the
    expected share of what is dropped is at most `rate`: a pixel that n places reach is kept with probability
    (1 - gamma)^n. Where everything is dropped the result is 0.

    Args:
        rate: from 0 to 1 (the paper's 1 - keep_prob).
        size: side of a square in pixels; the side of the map, where that is smaller.
        steps: see `Dropping`; the paper lets the rate rise over the whole training.
    """

    @checked
    def __init__(self, rate: Share, size: Count = 5, steps: Natural = 0):
        super().__init__(rate, steps)
        self.size = size

    def dropped(self, x: Tensor, key: Tensor) -> Tensor:
        """x [n, channels, height, width] with a mask drawn from the key []."""
        kept = self.mask(key, tuple(x.shape))
        return x * (kept * (kept.numel() / kept.sum().clamp(min=1))).to(x.dtype)

    def mask(self, key: Tensor, shape: tuple[int, ...]) -> Tensor:
        """1 where a feature is kept, else 0: float32 of the shape (n, channels, height, width)."""
        *outer, height, width = shape
        high, wide = min(self.size, height), min(self.size, width)
        places = (height - high + 1, width - wide + 1)
        gamma = self.rate_now() * (height * width / (high * wide * places[0] * places[1]))
        begins = (uniform(key, 0, (*outer, *places), dtype=torch.float32) < gamma).float()
        around = F.pad(begins, (wide - 1, wide - 1, high - 1, high - 1))
        return 1 - F.max_pool2d(around, (high, wide), stride=1)

    def extra_repr(self) -> str:
        """The settings."""
        return f"{super().extra_repr()}, size={self.size}"


def dropping_layers(module: nn.Module) -> list[Dropping]:
    """The layers of a module that drop features, each once."""
    return [part for part in module.modules() if isinstance(part, Dropping) and part.rate]


@contextmanager
def dropping(layers: Sequence[Dropping], key: Tensor, step: Tensor) -> Iterator[None]:
    """Inside this context, the layers drop features by masks of ONE task.

    Args:
        key: the task's key, int64 [].
        step: the number of outer steps done, int64 [].
    """
    own = fold(key, STREAM)
    for place, layer in enumerate(layers):
        layer.key, layer.step, layer.passes = fold(own, place), step, 0
    try:
        yield
    finally:
        for layer in layers:
            layer.key, layer.step, layer.passes = None, None, 0
