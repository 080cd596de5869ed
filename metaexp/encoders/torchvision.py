"""A backbone of the torchvision library."""

from torch import nn

from metaexp.constraints import Count, checked
from metaexp.encoders.vision import IMAGENET, Vision
from metaexp.encoders.weights import load_weights, need
from metaexp.errors import ConfigError, DataError


class TorchVision(Vision):
    """Features of a classification network of torchvision, before its last linear layer.

    Args:
        name: the network, e.g. resnet18 or efficientnet_b0.
        pretrained: fetch its published weights (or take them from the cache on disk).
        weights: a file with a state dict of the whole network, instead.
        size: pixels per side.
        batch: pictures per forward pass.

    Raises:
        ConfigError: the package or the network is missing.
        DataError: its weights are not to be had, or its last layer is not linear.
    """

    @checked
    def __init__(
        self,
        name: str = "resnet18",
        pretrained: bool = True,
        weights: str | None = None,
        size: Count = 224,
        batch: Count = 32,
    ):
        need("torchvision", "torchvision", "vision")
        from torchvision import models

        if name not in models.list_models(module=models):
            raise ConfigError(f"encoder.name={name}: torchvision has no such classification network")
        self.name, self.pretrained, self.weights = name, pretrained and weights is None, weights
        super().__init__(size, *IMAGENET, batch)

    def build(self) -> nn.Module:
        """See Vision.build. Weights that are neither fetched nor given are random, from a fixed seed."""
        import torch
        from torchvision import models

        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network: nn.Module = models.get_model(self.name, weights="DEFAULT" if self.pretrained else None)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
            named = f"encoder.name={self.name}: its weights are not to be had"
            raise DataError(f"{named} ({reason}); give encoder.weights=FILE or encoder.pretrained=false") from error
        if self.weights is not None:
            load_weights(network, self.weights)
        last = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1:]
        if not last:
            raise DataError(f"encoder.name={self.name}: has no linear layer to take the features before")
        owner, _, attribute = last[0].rpartition(".")
        setattr(network.get_submodule(owner), attribute, nn.Identity())
        return network
