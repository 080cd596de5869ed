"""The shell that every meta-learner shares: write `adapt` and `predict` for ONE task, the rest is here."""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from metaexp.algos.views import View
from metaexp.mapping import Mapping, choose, map_tasks, mean_gradient
from metaexp.metric_names import SUFFIXES, metric_name
from metaexp.metrics import Function, Metric, declared
from metaexp.models.norms import adopt, depends_on_batch, prepare, statistics_from
from metaexp.tasks.base import TaskFamily
from metaexp.types import Episode, Examples

ModelFactory = Callable[[tuple[int, ...], int], nn.Module]
MODES = ("queries", "single", "support")  # where batch statistics come from at test


class MetaLearner(L.LightningModule):
    """A meta-learner turns a support set into a predictor; its parameters ARE the meta-parameters.

    A method overrides `adapt` and `predict` (and, where it has them, `path`, `meta_loss`, `train_batch`, `finish`).
    All of them see ONE task; this class maps them over the tasks of a meta-batch. Parameters that do not require a
    gradient (a frozen body) are no meta-parameters.

    Args:
        family: the task family; sizes come from it.
        model: makes the network from (x_shape, out), or is a ready module.
        loss: (prediction [n, out], target [n, y_dim]) -> []; None takes the family's.
        mapping: how tasks are mapped: "auto", "vmap", "loop" or a number of tasks (`metaexp.mapping`).

    Raises:
        ValueError: an argument out of range; the message starts with its name.
    """

    trains = True  # False: nothing to meta-train
    permutation_invariant = True  # adapt does not depend on the order of the support examples
    any_ways = False  # whether the number of classes may differ between training and test
    reads_info = False  # whether `test_path` looks at `episode.info`, which then is there at test
    reads_queries = True  # whether training looks at the queries of a task
    view_tasks = 8  # of which `views` is drawn
    test_steps = 0  # points of the adaptation curve after the first

    def __init__(
        self,
        family: TaskFamily,
        model: ModelFactory | nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        mapping: Mapping = "auto",
    ):
        super().__init__()
        self.automatic_optimization = False
        self.family = family
        ways, test_ways = family.sizes["train"]["ways"], family.sizes["test"]["ways"]
        if ways != test_ways and not self.any_ways:
            raise ValueError(
                f"task.test.ways={test_ways}: {type(self).__name__} has one output per class, so task.ways={ways} too"
            )
        made = model if isinstance(model, nn.Module) else model(family.x_shape, self.outputs(family))
        self.model = adopt(made)
        for layer in self.model.modules():
            if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0 and layer.training:
                raise ValueError(
                    f"model: {layer} draws from torch's global generator, which no seed of a task reaches and no run "
                    "could continue; leave it out, or call .eval() on it"
                )
        self.loss = loss or family.loss
        self.register_buffer("meta_step", torch.zeros((), dtype=torch.int64))  # the only clock
        self.outer: Any = None  # set by the run: the outer loop that `training_step` drives
        self.set_mapping(mapping, family.device)

    def set_mapping(self, mapping: Mapping, device: torch.device | str) -> None:
        """Decide how tasks are mapped on this device and set the norms accordingly."""
        self.mapping = choose(mapping, self.model, device)
        prepare(self.model, native=self.mapping == "loop")

    @property
    def metrics(self) -> dict[str, Metric]:
        """Metrics of one task by name, of what `predict` gives; the first selects the best checkpoint.

        The family's; a method whose predictions are more than the family's targets (a mean and a deviation) says here
        how to read them.
        """
        return declared(self.family)

    def outputs(self, family: TaskFamily) -> int:
        """Number of outputs the network needs."""
        return family.y_dim

    # -- one task: what a method writes ------------------------------------------------------------------------------

    def adapt(self, support: Examples, key: Tensor) -> Any:
        """Learn one task from its support set, x [n, *x_shape]: any tree of tensors, differentiable."""
        raise NotImplementedError

    def predict(self, adapted: Any, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, out] with what `adapt` returned."""
        raise NotImplementedError

    def path(self, support: Examples, key: Tensor, steps: int) -> list[Any]:
        """The adapted values after 0, 1, ..., steps at test; a method without steps has one point."""
        return [self.adapt(support, key)]

    def meta_loss(self, episode: Episode) -> tuple[Tensor, dict[str, Any]]:
        """One task's outer loss [] and logs (a tree of tensors): the loss of the adapted predictor on the query set."""
        prediction = self.predict(self.adapt(episode.support, episode.key), episode.query.x)
        metrics = {name: metric(prediction, episode.query.y) for name, metric in self.metrics.items()}
        return self.loss(prediction, episode.query.y), metrics

    def diagnostics(self, episode: Episode) -> dict[str, Tensor]:
        """Further numbers of one task for the boards at validation, [] each."""
        return {}

    def views(self, episode: Episode) -> dict[str, View]:
        """Pictures of what the method made of a few tasks (leading dimension: tasks), by name; see `algos.views`."""
        return {}

    # -- around training ---------------------------------------------------------------------------------------------

    def train_batch(self, indices: Tensor) -> Episode:
        """The training meta-batch of the task indices, int64 [tasks]."""
        return self.family.sample("train", indices)

    def absorb(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Take out of a step's logs (means over tasks) what the learner carries to the next step; returns the rest."""
        return logs

    def finish(self) -> dict[str, Any]:
        """After training and before the test: set buffers that need a pass over the family; returns what to record."""
        return {}

    # -- mapped over tasks -------------------------------------------------------------------------------------------

    def forward(self, episode: Episode) -> tuple[Tensor, dict[str, Any]]:
        """Mean outer loss [] and logs over the tasks of a meta-batch; differentiable by plain `backward()`."""
        losses, logs = map_tasks(self.meta_loss, episode, self.mapping)
        return losses.mean(), {name: value.mean(0) for name, value in logs.items() if isinstance(value, Tensor)}

    def meta_parameters(self) -> dict[str, nn.Parameter]:
        """What the outer loop learns, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def meta_gradient(
        self, params: dict[str, Tensor], episode: Episode, buffers: dict[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], Tensor, Any]:
        """(gradient by name, mean outer loss [], mean logs) of a meta-batch at the given meta-parameters.

        `buffers` stand in for the learner's own where given (a compiled graph takes them as inputs).
        """
        shell = _MetaLoss(self)

        def one(p: dict[str, Tensor], task: Episode) -> tuple[Tensor, Any]:
            tensors = {f"learner.{name}": value for name, value in ((buffers or {}) | p).items()}
            return functional_call(shell, tensors, (task,))

        return mean_gradient(one, params, episode, self.mapping)

    # -- test --------------------------------------------------------------------------------------------------------

    def modes(self, wanted: list[str]) -> dict[str, str]:
        """Suffix of the metric's name -> normalisation mode; one mode where the model does not look at the batch.

        "queries": all queries in one batch (transductive); "single": support plus one query at a time; "support":
        statistics of the support set alone.
        """
        if not depends_on_batch(self.model):
            return {"": "queries"}
        return {SUFFIXES[mode]: mode for mode in MODES if mode in wanted}

    def predict_as(self, mode: str, adapted: Any, support: Examples, x: Tensor) -> Tensor:
        """`predict` for queries x [n, *x_shape] with batch statistics as the mode says -> [n, out]."""
        return self.in_mode(mode, partial(self.predict, adapted), support, x)

    def in_mode(self, mode: str, function: Callable[[Tensor], Tensor], support: Examples, x: Tensor) -> Tensor:
        """function(inputs [m, *x_shape]) -> [m, ...] of queries x, with batch statistics as the mode says."""
        if mode == "queries" or len(x) == 0:
            return function(x)
        if mode == "support":
            with statistics_from(self.model, len(support.x)):
                return function(torch.cat((support.x, x)))[len(support.x) :]
        return vmap(lambda query: function(torch.cat((support.x, query[None])))[-1])(x)

    def reader(self, mode: str, support: Examples, x: Tensor) -> Callable[[Any], Tensor]:
        """adapted -> its predictions of x: `predict_as`, with whatever no adapted value changes done once."""
        return lambda adapted: self.predict_as(mode, adapted, support, x)

    def test_path(self, episode: Episode) -> list[Any]:
        """The adapted values after 0, 1, ..., test_steps steps on an episode's support set; see `reads_info`."""
        return self.path(episode.support, episode.key, self.steps_at_test(len(episode.support.x)))

    def steps_at_test(self, examples: int) -> int:
        """Inner steps at test on a support set of so many examples."""
        return self.test_steps

    def score(
        self,
        episode: Episode,
        modes: dict[str, str],
        final: bool = False,
        tables: dict[str, Function] | None = None,
    ) -> dict[str, Tensor]:
        """Metrics of one task after 0, 1, ..., test_steps steps: [steps + 1] each; [1] of the last if `final`.

        `tables` are further functions of the last prediction and the targets, of any shape, returned under their name
        and the mode's suffix.
        """
        scores: dict[str, list[Tensor]] = {}
        last: dict[str, Tensor] = {}
        path = self.test_path(episode)
        readers = {suffix: self.reader(mode, episode.support, episode.query.x) for suffix, mode in modes.items()}
        for adapted in path[-1:] if final else path:
            for suffix, read in readers.items():
                last[suffix] = read(adapted)
                for name, metric in self.metrics.items():
                    scores.setdefault(metric_name(name, suffix), []).append(metric(last[suffix], episode.query.y))
        found = {name: torch.stack(values) for name, values in scores.items()}
        for name, table in (tables or {}).items():
            for suffix, prediction in last.items():
                found[metric_name(name, suffix)] = table(prediction, episode.query.y)
        return found

    # -- Lightning ---------------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """A span of outer steps; see `metaexp.outer`."""
        self.outer.run(batch)

    def configure_optimizers(self) -> Any:
        """The outer optimiser, for the checkpoint's sake; the outer loop steps it."""
        return self.outer.optimizer


class _MetaLoss(nn.Module):
    # functional_call calls forward; this makes forward the loss of ONE task.
    def __init__(self, learner: MetaLearner):
        super().__init__()
        self.learner = learner

    def forward(self, task: Episode) -> tuple[Tensor, Any]:
        return self.learner.meta_loss(task)
