"""What methods share that learn features across tasks and a small predictor on them for each task."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaexp.algos.base import MetaLearner
from metaexp.models.functional import check_output
from metaexp.models.norms import depends_on_batch, in_mode
from metaexp.models.running_norms import absorb_statistics, batch_statistics, keep_running, keeps_running
from metaexp.types import Episode, Examples


class FeatureLearner(MetaLearner):
    """A method writes `fit` and `read` on features [n, d]; they are computed once per task.

    `normalise` decides where batch norms take their statistics from. "running": in training support and query examples
    pass the body in one batch, and running averages (0.1, as in torch; the mean over the tasks of a meta-batch) are
    used at validation and test. "batch": support and queries pass it apart and the statistics are those of the batch
    at hand, at test in every mode of `test.normalise`. Where nothing depends on the batch the two are one.

    `stand_beside_means` adds a learned factor times the cosine between a query's features and each class mean to the
    logits, for methods that would otherwise have to learn first what the features say already.
    """

    beside_means = False  # whether cosines to class means are added to the logits

    def keep(self, normalise: str) -> None:
        """Set up the norms; raises ValueError for an unknown word."""
        if normalise not in ("running", "batch"):
            raise ValueError(f"normalise={normalise}: must be running or batch")
        if normalise == "running":
            self.model = keep_running(self.model)

    def fit(self, z: Tensor, y: Tensor, key: Tensor) -> Any:
        """The predictor learned from support features z [n, d] and targets y [n, y_dim]: any tree of tensors."""
        raise NotImplementedError

    def read(self, adapted: Any, z: Tensor) -> Tensor:
        """[m, d] -> [m, out] with what `fit` returned."""
        raise NotImplementedError

    def stand_beside_means(self, factor: float, last: nn.Linear) -> None:
        """Add `factor` (learned from there) times the cosines to class means; `last`, the method's last layer, starts
        at 0, so that they are all there is before training."""
        if factor:
            if not self.family.classification:
                raise ValueError(f"means={factor}: there are no class means in regression; leave it 0")
            self.beside_means, self.log_factor = True, nn.Parameter(torch.tensor(math.log(factor)))
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def _learned(self, z: Tensor, y: Tensor, key: Tensor) -> Any:
        """What `fit` returns, with the class means where they are wanted."""
        adapted = self.fit(z, y, key)
        return {"fit": adapted, "means": class_means(z, y)} if self.beside_means else adapted

    def _answered(self, adapted: Any, z: Tensor) -> Tensor:
        """What `read` returns, with the cosines where they are wanted."""
        if not self.beside_means:
            return self.read(adapted, z)
        cosines = F.normalize(z, dim=-1) @ F.normalize(adapted["means"], dim=-1).T
        return self.read(adapted["fit"], z) + self.log_factor.exp() * cosines

    def features(self, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, d]."""
        z: Tensor = self.model.features(x)  # type: ignore[operator]
        check_output(z, x, "features")
        return z

    def adapt(self, support: Examples, key: Tensor) -> Any:
        """What `fit` makes of the support set."""
        return self._learned(self.features(support.x), support.y, key)

    def predict(self, adapted: Any, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, out]."""
        return self._answered(adapted, self.features(x))

    def meta_loss(self, episode: Episode) -> tuple[Tensor, dict[str, Any]]:
        """The query loss []; support and queries pass the network in one batch unless `normalise` is "batch"."""
        support, query = episode.support, episode.query
        with batch_statistics(self.model) as seen:
            if depends_on_batch(self.model):
                z, z_query = self.features(support.x), self.features(query.x)
            else:
                z, z_query = self.features(torch.cat((support.x, query.x))).split((len(support.x), len(query.x)))
        prediction = self._answered(self._learned(z, support.y, episode.key), z_query)
        loss, metrics = self.loss_and_metrics(prediction, query.y)
        return loss, metrics | ({"statistics": seen} if seen else {})

    def absorb(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Take the batch statistics into the running averages."""
        absorb_statistics(self.model, logs.get("statistics", {}))
        return {name: value for name, value in logs.items() if name != "statistics"}

    def modes(self, wanted: list[str]) -> dict[str, str]:
        """One figure, "running", where there are running averages."""
        return {"": "running"} if keeps_running(self.model) else super().modes(wanted)

    def predict_as(self, mode: str, adapted: Any, support: Examples, x: Tensor) -> Tensor:
        """See MetaLearner.predict_as; with running averages `predict` is all there is."""
        return self.predict(adapted, x) if mode == "running" else super().predict_as(mode, adapted, support, x)

    def reads_batch(self) -> bool:
        """Whether `read` depends on the other examples of its batch; `features` may in any case."""
        return False

    def reader(self, mode: str, support: Examples, x: Tensor) -> Callable[[Any], Tensor]:
        """See MetaLearner.reader: the features of the queries are computed once, however long the path, where `read`
        looks at one example at a time."""
        if mode != "running" and self.reads_batch():
            return super().reader(mode, support, x)
        z = self.features(x) if mode == "running" else in_mode(mode, self.model, self.features, support.x, x)
        return lambda adapted: self._answered(adapted, z)


def class_means(z: Tensor, y: Tensor) -> Tensor:
    """The mean features of each class, [n, d] and one-hot [n, ways] -> [ways, d]; of no examples 0."""
    count = y.sum(0).unsqueeze(-1)  # [ways, 1]
    return y.T @ z / torch.where(count > 0, count, 1.0)


@contextmanager
def full_precision(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """The tensors, in float32 where they came in half precision, and no half precision for what is made of them.

    For the small linear algebra on features, which is cheap, loses its digits in half precision, or does not know it.
    """
    with torch.autocast(tensors[0].device.type, enabled=False):
        yield [t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in tensors]


def check_head(model: nn.Module, method: str) -> None:
    """Refuse a network that is not known to be head(features(x)), in one line."""
    if not callable(getattr(model, "features", None)) or not isinstance(getattr(model, "head", None), nn.Module):
        raise ValueError(f"model: {method} needs a network with a layer named head and a method features(x) before it")


def remove_head(model: nn.Module, method: str) -> None:
    """Leave the features alone: `model(x)` is then `model.features(x)`, and no unused parameter stays behind."""
    check_head(model, method)
    model.head = nn.Identity()


def feature_size(model: nn.Module, x_shape: tuple[int, ...]) -> int:
    """The d of features [n, d] for inputs of this shape, from one pass of zeros."""
    first = next(model.parameters(), torch.zeros(()))
    with torch.no_grad():
        z: Tensor = model.features(torch.zeros(1, *x_shape, dtype=first.dtype, device=first.device))  # type: ignore[operator]
    return z.shape[-1]
