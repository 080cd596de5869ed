"""No body: the inputs are the features."""

import math
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Head = Literal["random", "zero"]


class Identity(nn.Module):
    """A linear head on the inputs as they are: prototypes or ridge on given vectors.

    `protonet` on it has nothing to learn across tasks: it is then a baseline, nearest class means of given vectors.

    Args:
        x_shape, out: shape of one input and number of outputs, from the task family.
        length: scale every input to length sqrt(d), where a linear map with torch's initial weights expects it.
        head: initial weights of the head: torch's, or zero, with which the first gradient step on a support set gives
            nearest class means by inner products.
    """

    no_body = True

    def __init__(self, x_shape: Sequence[int], out: int, length: bool = False, head: Head = "random"):
        super().__init__()
        self.length, self.head = length, nn.Linear(math.prod(x_shape), out)
        begin(self.head, head)

    def features(self, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, inputs]."""
        return of_length(x.flatten(1)) if self.length else x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, out]."""
        return self.head(self.features(x))


def of_length(z: Tensor) -> Tensor:
    """[n, d] -> rows of length sqrt(d), so that the mean square of each is 1; a row of zeros stays so."""
    return math.sqrt(z.shape[1]) * F.normalize(z, dim=1)


def begin(head: nn.Linear, start: Head) -> None:
    """Set the initial weights of a head; "random" leaves torch's."""
    if start not in ("random", "zero"):
        raise ValueError(f"head={start}: must be random or zero")
    if start == "zero":
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
