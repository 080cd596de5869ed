"""What the encoders of pictures share: bytes -> a frozen network's features."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaexp.encoders.base import Encoder, Kind
from metaexp.encoders.weights import digest_code, digest_module
from metaexp.errors import DataError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of the channels


class Vision(Encoder):
    """A frozen network on pictures in [0, 1], scaled to the size and the units that it was trained with.

    Args:
        size: pixels per side of the network's input; None: as the pictures are.
        mean, std: of its channels; grey pictures are repeated where it takes three.
        batch: pictures per forward pass.
    """

    kind: ClassVar[Kind] = "pictures"

    def __init__(self, size: int | None, mean: Sequence[float], std: Sequence[float], batch: int):
        self.size, self.batch = size, batch
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self._network: nn.Module | None = None

    @abstractmethod
    def build(self) -> nn.Module:
        """The network: pictures [n, channels, size, size] -> features [n, ...]."""

    @property
    def network(self) -> nn.Module:
        """The network, built at its first use, in evaluation mode and without gradients."""
        if self._network is None:
            self._network = self.build().eval().requires_grad_(False)
        return self._network

    def settings(self) -> dict[str, Any]:
        """See Encoder.settings."""
        return {
            "weights": digest_module(self.network),
            "network": str(self.network),
            "code": digest_code(self.network),
            "size": self.size,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "torch": torch.__version__,
        }

    def encode(self, examples: np.ndarray) -> np.ndarray:
        """Bytes [n, channels, height, width] -> float32 [n, d], averaged over places where there are any."""
        parts = []
        with torch.no_grad():
            for part in torch.from_numpy(np.ascontiguousarray(examples)).split(self.batch):
                parts.append(self._features(part))
        return torch.cat(parts).numpy()

    def _features(self, pixels: Tensor) -> Tensor:
        x = pixels.float() / 255
        if x.shape[1] == 1 and len(self.mean) == 3:
            x = x.expand(-1, 3, -1, -1)
        if self.size is not None and x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        x = (x - self.mean.view(1, -1, 1, 1)) / self.std.view(1, -1, 1, 1)
        try:
            z = self.network(x)
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:150]
            raise DataError(f"encoder: the network does not take pictures {list(x.shape[1:])}: {reason}") from error
        if not isinstance(z, Tensor) or z.shape[:1] != x.shape[:1]:
            raise DataError(f"encoder: the network gives {type(z).__name__}; it must give one vector per picture")
        return z.float().flatten(2).mean(2) if z.dim() > 2 else z.float().reshape(len(z), -1)
