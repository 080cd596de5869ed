"""R2D2: ridge regression as a differentiable base learner."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metaexp.algos.base import ModelFactory
from metaexp.algos.features import FeatureLearner, full_precision, remove_head
from metaexp.constraints import Positive
from metaexp.inner import Tree
from metaexp.models.functional import check_output
from metaexp.types import Episode


class R2D2(FeatureLearner):
    """Learn features in which the closed-form ridge regression on the support set does well.

    "Meta-learning with differentiable closed-form solvers", Bertinetto, Henriques, Torr, Vedaldi, 2019, equations 4 to
    8: W = X^T (X X^T + lambda I)^-1 Y, the Woodbury form where there are fewer examples than features, else
    W = (X^T X + lambda I)^-1 X^T Y; the prediction is a (q W) + b with learned a, b and lambda. X and Y are divided by
    sqrt(n), as in the authors' code, so that lambda does not depend on the number of examples n. For classes a
    column of ones stands in X (as there); for regression X and Y are centred instead, so that the mean is not
    shrunk. Differs from their released configuration in that lambda is learned (as in the paper), and in that a and
    lambda are learned by their logarithms: with steps in a itself lambda falls in a's place, and the features of
    Omniglot are worse for it.

    Args:
        strength: lambda at the start; None: 50 for classes (the authors'), 0.1 for regression.
        scale: a at the start, above 0; None: 10 for classes (the authors' on Omniglot), 1 for regression.
        learn_strength: whether lambda is learned.
        normalise: "running" or "batch", see `FeatureLearner`.

    Raises:
        ValueError: a setting out of range, or a network without `features` and `head`.
    """

    any_ways = classes_alike = True

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        strength: Positive | None = None,
        scale: Positive | None = None,
        learn_strength: bool = True,
        normalise: Literal["running", "batch"] = "running",
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, model, loss, mapping)
        self.centred = not family.classification
        strength = (0.1 if self.centred else 50.0) if strength is None else strength
        scale = (1.0 if self.centred else 10.0) if scale is None else scale
        if not strength > 0:
            raise ValueError(f"strength={strength}: must be above 0")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale={scale}: must be a number above 0")
        remove_head(self.model, "R2D2")
        self.keep(normalise)
        self.log_strength = nn.Parameter(torch.tensor(math.log(strength)), requires_grad=learn_strength)
        self.log_scale, self.shift = nn.Parameter(torch.tensor(math.log(scale))), nn.Parameter(torch.zeros(()))

    @property
    def scale(self) -> Tensor:
        """a, []."""
        return self.log_scale.exp()

    def features(self, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, d]: the network without its head."""
        z: Tensor = self.model(x)
        check_output(z, x)
        return z

    def fit(self, z: Tensor, y: Tensor, key: Tensor) -> Tree:
        """The ridge solution with scale and shift worked in: weight [d, y_dim] and bias [y_dim] of a linear map."""
        d = z.shape[1]
        if self.centred:
            mean_z, mean_y = (t.sum(0) / max(len(t), 1) for t in (z, y))  # 0 of an empty support set
            w = ridge(z - mean_z, y - mean_y, self.log_strength.exp())
            return {"weight": self.scale * w, "bias": self.shift + mean_y - self.scale * (mean_z @ w)}
        w = ridge(torch.cat((z, torch.ones_like(z[:, :1])), 1), y, self.log_strength.exp())
        return {"weight": self.scale * w[:d], "bias": self.shift + self.scale * w[d]}

    def read(self, adapted: Tree, z: Tensor) -> Tensor:
        """[m, d] -> [m, y_dim]."""
        return z @ adapted["weight"] + adapted["bias"]

    def diagnostics(self, episode: Episode) -> dict[str, Tensor]:
        """`strength` (lambda) and `scale`."""
        return {"strength": self.log_strength.detach().exp(), "scale": self.scale.detach()}


def ridge(x: Tensor, y: Tensor, strength: Tensor) -> Tensor:
    """The w [d, k] that minimises |x w - y|^2 / n + strength |w|^2 for x [n, d], y [n, k]; differentiable.

    Solves the smaller of the two systems, n x n or d x d. Where the strength is lost in rounding beside x, as much as
    the rounding is added to it, so that the system stays regular in float32.
    """
    n, d = x.shape
    root = math.sqrt(max(n, 1))
    with full_precision(x, y) as (x, y):
        x, y = x / root, y / root
        gram = x @ x.T if n <= d else x.T @ x
        rounding = torch.finfo(x.dtype).eps * gram.diagonal().sum().detach()
        system = gram + (strength + rounding) * torch.eye(len(gram), dtype=x.dtype, device=x.device)
        return x.T @ torch.linalg.solve(system, y) if n <= d else torch.linalg.solve(system, x.T @ y)
