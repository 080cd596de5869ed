"""Joint training on the pooled data of all tasks: the transfer baseline."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from metaexp.algos.base import ModelFactory
from metaexp.algos.finetune import FineTuner, new_head
from metaexp.constraints import Count, Natural, Positive
from metaexp.inner import SGD, InnerOptimiser, Tree
from metaexp.models.functional import predicted
from metaexp.types import Episode, Examples


class Joint(FineTuner):
    """Train one network on the pooled data of all tasks, then fine-tune it on each test task's support set.

    The "pretrained" baseline of Finn, Abbeel, Levine 2017 (section 5.1); for classification a classifier over all
    training classes whose head (the attribute `head` of the network, an `nn.Linear`) is drawn anew for every test task,
    as in "A Closer Look at Few-shot Classification", Chen et al. 2019. Their baseline trains the new head alone, on
    frozen features (tune="head"); here the whole network is fine-tuned, its batch norms with the statistics of the
    batch at hand.

    Args:
        batch: pooled examples per outer step and task of the meta-batch (with meta_batch=1: the batch size).
        test_lr, test_epochs, test_batch, inner: of the fine-tuning, see `FineTuner`.
        tune: what is fine-tuned: "all" of the network, or the "head" alone; a new head then starts at zero, from where
            the first step leads to class means by inner products.

    Raises:
        ValueError: a setting out of range, or a network without `head` where a new one is needed.
    """

    reads_queries = False

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        batch: Count = 64,
        test_lr: Positive | Sequence[Positive] = 0.01,
        test_epochs: Natural = 10,
        test_batch: Count | None = None,
        inner: InnerOptimiser = SGD(),
        loss: Any = None,
        mapping: str | int = "auto",
        tune: Literal["all", "head"] = "all",
    ):
        super().__init__(family, model, test_lr, test_epochs, test_batch, inner, loss, mapping)
        if batch < 1:
            raise ValueError(f"batch={batch}: must be at least 1")
        if tune not in ("all", "head"):
            raise ValueError(f"tune={tune}: must be all or head")
        self.batch, self.tune = batch, tune
        self.new_head = family.classification and not family.fixed_classes
        if self.new_head and not isinstance(getattr(self.model, "head", None), nn.Linear):
            raise ValueError("model: joint training needs a network with a linear layer named head for new classes")
        if tune == "head" and not hasattr(self.model, "head"):
            raise ValueError("tune=head: the network has no layer named head")

    def outputs(self, family: Any) -> int:
        """All training classes, or y_dim."""
        return family.pool_dim

    def train_batch(self, indices: Tensor) -> Episode:
        """Pooled minibatches, one per index, as support-less episodes."""
        pooled = self.family.pooled(indices, self.batch)
        empty = Examples(pooled.x[:, :0], pooled.y[:, :0])
        return Episode(empty, pooled, self.family.keys("train", indices), {})

    def meta_loss(self, episode: Episode) -> tuple[Tensor, dict[str, Any]]:
        """The plain loss of one pooled minibatch."""
        return self.loss_and_metrics(predicted(self.model, {}, episode.query.x), episode.query.y)

    def initial(self, support: Examples, key: Tensor) -> Tree:
        """The trained parameters; for classes, with a new head."""
        start = super().initial(support, key)
        if self.tune == "head":
            start = {name: p for name, p in start.items() if name.startswith("head.")}
        if not self.new_head:
            return start
        new = new_head(self.model.get_submodule("head"), support.y.shape[-1], key)
        return start | ({name: 0 * p for name, p in new.items()} if self.tune == "head" else new)
