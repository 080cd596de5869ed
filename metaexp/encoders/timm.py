"""A backbone of the timm library."""

from typing import Any

from torch import nn

from metaexp.constraints import Count, checked
from metaexp.encoders.vision import IMAGENET, Vision
from metaexp.encoders.weights import load_weights, need
from metaexp.errors import ConfigError, DataError


class Timm(Vision):
    """Features of a network of timm, before its classifier, at the size and the units that timm states for it.

    Args:
        name: the network, e.g. resnet18 or vit_small_patch16_224.dino.
        pretrained: fetch its published weights from the hub (or its cache on disk).
        weights: a file with a state dict of the network without its classifier, instead.
        size: pixels per side; None: those that timm states.
        batch: pictures per forward pass.

    Raises:
        ConfigError: the package or the network is missing.
        DataError: its weights are not to be had.
    """

    @checked
    def __init__(
        self,
        name: str = "resnet18",
        pretrained: bool = True,
        weights: str | None = None,
        size: Count | None = None,
        batch: Count = 32,
    ):
        need("timm", "timm", "vision")
        import timm

        if not timm.is_model(name.split(".")[0]):
            raise ConfigError(f"encoder.name={name}: timm has no such network")
        self.name, self.pretrained, self.weights = name, pretrained and weights is None, weights
        about: Any = timm.get_pretrained_cfg(name) or timm.models.get_pretrained_cfg(name.split(".")[0])
        mean, std = (about.mean, about.std) if about else IMAGENET
        super().__init__(size or (about.input_size[-1] if about else 224), mean, std, batch)

    def build(self) -> nn.Module:
        """See Vision.build. Weights that are neither fetched nor given are random, from a fixed seed."""
        import timm
        import torch

        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network: nn.Module = timm.create_model(self.name, pretrained=self.pretrained, num_classes=0)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
            named = f"encoder.name={self.name}: its weights are not to be had"
            raise DataError(f"{named} ({reason}); give encoder.weights=FILE or encoder.pretrained=false") from error
        if self.weights is not None:
            load_weights(network, self.weights)
        return network
