"""Prototypical networks."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaexp.algos.base import ModelFactory
from metaexp.algos.features import FeatureLearner, class_means, full_precision, remove_head
from metaexp.algos.views import Scatter, View
from metaexp.checks import whole
from metaexp.constraints import Count, Positive
from metaexp.models.functional import check_output
from metaexp.types import Episode, Examples


class ProtoNet(FeatureLearner):
    """Classify by the distance to class means in a learned space: c_k = mean f(x), logits = -d(f(q), c_k).

    "Prototypical Networks for Few-shot Learning", Snell, Swersky, Zemel, 2017, equations 1 and 2. d is the squared
    Euclidean distance, neither divided by the dimension nor scaled. As in the authors' code support and queries pass
    the network in one batch in training and running averages are used at test (`normalise`). Ways and shots may
    differ between training and test: one step is best one episode of many classes (60 in the paper).

    Args:
        distance: "euclidean" (squared) or "cosine" (1 - cosine; in the paper's comparison, without a scale).
        scale: factor on the logits; the paper's is 1. Cosines need a larger one: within [-2, 0] a softmax is flat.
        learn_scale: whether the outer loop learns the factor, by its logarithm ("Dynamic Few-Shot Visual Learning
            without Forgetting", Gidaris, Komodakis, 2018, learns that of cosines).
        embedding: dimensions of a linear map after the features, the network's head; None leaves it out.
        normalise: "running" or "batch", see `FeatureLearner`.

    Raises:
        ValueError: a family without classes, a setting out of range, a network without `features` and `head` or
            without parameters.
    """

    any_ways = classes_alike = True

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        distance: Literal["euclidean", "cosine"] = "euclidean",
        scale: Positive = 1.0,
        embedding: Count | None = None,
        normalise: Literal["running", "batch"] = "running",
        loss: Any = None,
        mapping: str | int = "auto",
        learn_scale: bool = False,
    ):
        if not family.classification:
            raise ValueError(f"family: ProtoNet needs classes, {type(family).__name__} is regression; use r2d2")
        if embedding is not None:
            whole("embedding", embedding, 1)
        self._width = embedding  # before the network is made
        super().__init__(family, model, loss, mapping)
        if distance not in ("euclidean", "cosine"):
            raise ValueError(f"distance={distance}: must be euclidean or cosine")
        if not scale > 0:
            raise ValueError(f"scale={scale}: must be above 0")
        if embedding is None:
            remove_head(self.model, "ProtoNet")
        elif (head := getattr(self.model, "head", None)) is not None and not any(p.any() for p in head.parameters()):
            raise ValueError(f"embedding={embedding}: the network's head is zero; set model.head=random")
        self.trains = any(p.requires_grad for p in self.model.parameters())
        if not self.trains and not getattr(self.model, "no_body", False):
            raise ValueError("embedding=None: the network has no parameter before its head; set embedding")
        self.keep(normalise)
        if learn_scale and self.trains:
            self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.distance, self.first_scale = distance, scale

    @property
    def scale(self) -> float | Tensor:
        """The factor on the logits."""
        return self.log_scale.exp() if hasattr(self, "log_scale") else self.first_scale

    def outputs(self, family: Any) -> int:
        """The dimensions of the embedding (any number where the head is left out)."""
        return self._width or 1

    def features(self, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, d]: the network without its head, or with it as the embedding."""
        z: Tensor = self.model(x)
        check_output(z, x)
        return z

    def fit(self, z: Tensor, y: Tensor, key: Tensor) -> Tensor:
        """Prototypes, [ways, d]: the mean of each class, as a product with the one-hot targets."""
        return class_means(z, y)

    def read(self, adapted: Tensor, z: Tensor) -> Tensor:
        """Minus the distance of z [m, d] to every prototype: [m, ways]."""
        if self.distance == "cosine":
            return self.scale * (F.normalize(z, dim=-1) @ F.normalize(adapted, dim=-1).T - 1)
        with full_precision(z, adapted) as (z, adapted):
            squares = (z * z).sum(-1, keepdim=True) + (adapted * adapted).sum(-1)  # [m, ways]
            return self.scale * (2 * z @ adapted.T - squares)

    def views(self, episode: Episode) -> dict[str, View]:
        """`space`: prototypes and queries of the first task; cosines see directions only, so there of length 1."""
        support, query, key, _ = episode
        prototypes = self.adapt(Examples(support.x[0], support.y[0]), key[0])
        z = torch.cat((prototypes, self.features(query.x[0])))  # [ways + m, d]
        points = F.normalize(z, dim=-1) if self.distance == "cosine" else z
        classes = torch.cat((torch.arange(len(prototypes), device=z.device), query.y[0].argmax(-1))) + 1
        kind = ["prototype"] * len(prototypes) + ["query"] * len(query.x[0])
        return {"space": Scatter(points, classes, kind, "prototypes and queries of one task", "class")}
