"""The upper bound: what one would predict who knows the task family."""

from typing import Any

import torch
from torch import Tensor, nn

from metaexp.algos.base import MetaLearner
from metaexp.algos.views import Bars, View
from metaexp.mapping import map_tasks
from metaexp.metrics import Metric, gaussian_metrics
from metaexp.types import Episode, Examples


class Oracle(MetaLearner):
    """The family's own best prediction, `TaskFamily.oracle`; it may know the function itself, or the prior over tasks.

    On noisy targets its error is that of the noise. With `gaussian_oracle` predictions are means and standard
    deviations, and the metrics those of a Gaussian predictor. No network, nothing to meta-train.

    Raises:
        ValueError: a family that has no oracle.
    """

    trains, any_ways, reads_info = False, True, True
    view_tasks = 200

    def __init__(self, family: Any, model: Any = None, loss: Any = None, mapping: str | int = "auto"):
        if not self.is_floor_of(family):
            raise ValueError(
                f"family: nobody knows the best prediction for {type(family).__name__}; use mean or neighbour"
            )
        super().__init__(family, nn.Identity(), loss, mapping)

    @staticmethod
    def is_floor_of(family: Any) -> bool:
        """Whether the family has an oracle: where there is none, nor is this upper bound."""
        return family.oracle is not None

    @property
    def metrics(self) -> dict[str, Metric]:
        """The family's, or those of Gaussian predictions."""
        return gaussian_metrics(super().metrics) if self.family.gaussian_oracle else super().metrics

    def adapt(self, support: Examples, key: Tensor) -> Any:
        """Refused: examples alone do not say what an oracle knows."""
        raise ValueError("algo=oracle: knows tasks by their family, it cannot adapt to examples from elsewhere")

    def test_path(self, episode: Episode) -> list[Episode]:
        """The whole episode, with what the family knows about the task."""
        return [episode]

    def views(self, episode: Episode) -> dict[str, View]:
        """Where the family says how far its oracle is to be trusted: the median of each number, per kind of task."""
        if self.family.oracle_diagnostics is None:
            return {}
        found = map_tasks(self.family.oracle_diagnostics, episode, 50)
        kind = episode.info.get("kind", torch.zeros_like(episode.key))
        kinds = sorted(set(kind.tolist()))
        names = self.family.kind_names
        labels = [names[k] if k < len(names) else str(k) for k in kinds]
        return {
            name: Bars(
                torch.stack([value[kind == k].median() for k in kinds]), labels, f"{name}, median over tasks", name
            )
            for name, value in found.items()
        }

    def predict(self, adapted: Episode, x: Tensor) -> Tensor:
        """[m, *x_shape] -> [m, y_dim], or [m, 2 y_dim]: means, then standard deviations."""
        assert self.family.oracle is not None
        return self.family.oracle(adapted, x)
