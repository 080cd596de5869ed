"""A network of the user's own."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from metaexp.constraints import Count, checked
from metaexp.encoders.vision import Vision
from metaexp.encoders.weights import load_weights


class Module(Vision):
    """Any network on pictures [n, channels, size, size] in [0, 1], frozen; `features(x)` where it has one.

    Args:
        module: the network, e.g. `module: {_target_: mine.net.Net}` in a group file of yours.
        weights: a file with its state dict; None: as it is made.
        size: pixels per side of its input; None: as the pictures are.
        mean, std: numbers per channel that are subtracted and divided by.
        batch: pictures per forward pass.

    Raises:
        ValueError: there is no network.
        DataError: the file of weights is missing or does not fit.
    """

    @checked
    def __init__(
        self,
        module: Any = None,
        weights: str | None = None,
        size: Count | None = None,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        batch: Count = 32,
    ):
        if not isinstance(module, nn.Module):
            raise ValueError(
                "module=null: name your network, module: {_target_: mine.net.Net}, in a group file of yours"
            )
        if len(mean) != len(std) or any(not value > 0 for value in std):
            raise ValueError(f"std={list(std)}: must be numbers above 0, one for each of mean={list(mean)}")
        self.module, self.weights = module, weights
        super().__init__(size, mean, std, batch)

    def build(self) -> nn.Module:
        """See Vision.build."""
        if self.weights is not None:
            load_weights(self.module, self.weights)
        return _Features(self.module) if callable(getattr(self.module, "features", None)) else self.module


class _Features(nn.Module):
    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Any) -> Any:
        return self.module.features(x)  # type: ignore[operator]
