"""What every meta-learner shares: a method writes `adapt` and `predict` for ONE task, the rest is here."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from metaexp.algos import trial
from metaexp.algos.views import View
from metaexp.mapping import Mapping, choose, map_tasks, mean_gradient
from metaexp.metric_names import SUFFIXES
from metaexp.metrics import Metric, declared, without_support
from metaexp.models.attention import plain_attention
from metaexp.models.dropping import Dropping, dropping, dropping_layers
from metaexp.models.functional import check_module, check_state, functional_call
from metaexp.models.norms import adopt, depends_on_batch, in_mode, own_norms, prepare
from metaexp.models.weight_norm import adopt_weight_norms
from metaexp.tasks.base import TaskFamily
from metaexp.types import Episode, Examples

log = logging.getLogger(__name__)
ModelFactory = Callable[[tuple[int, ...], int], nn.Module]
Validate = Callable[[int], float]  # validation tasks -> mean of the first metric after the last inner step
MODES = ("queries", "single", "support")  # where batch statistics come from at test


class MetaLearner(nn.Module):
    """A meta-learner turns a support set into a predictor; its parameters ARE the meta-parameters.

    Methods see ONE task unless they say otherwise; this class maps them over the tasks of a meta-batch. Parameters that
    do not require a gradient (a frozen body) are no meta-parameters. What a method

    - must write: `adapt`, `predict`.
    - may write: `path` with `test_steps` (inner steps), `meta_loss` (another outer loss), `train_batch` (other training
      data), `absorb` (what one outer step hands to the next), `finish` (a last choice before the test), `outputs` (of
      the network), `metrics` (another kind of prediction), `diagnostics` and `views` (what the boards show), and the
      attributes below.
    - rarely writes: `test_path` (of a method that knows more than examples), `steps_at_test` (steps that depend on the
      support set), `variants` (several predictors to be scored), `modes`, `predict_as`, `reader` (where batch
      statistics come from at test).

    Args:
        family: the task family; sizes come from it.
        model: makes the network from (x_shape, out), or is a ready module.
        loss: (prediction [n, out], target [n, y_dim]) -> []; None takes the family's.
        mapping: how tasks are mapped: "auto", "vmap", "loop" or a number of tasks (`metaexp.mapping`).

    Raises:
        ValueError: an argument out of range; the message starts with its name.
    """

    trains = True  # False: nothing to meta-train
    acts = False  # learns by acting in a world, not from examples: `metaexp.algos.acting`
    permutation_invariant = True  # adapt does not depend on the order of the support examples
    classes_alike = False  # renaming the classes of a task renames the predictions, and nothing else
    exact_gradient = True  # the meta-gradient is that of the meta-loss, as finite differences show
    any_ways = False  # whether the number of classes may differ between training and test
    reads_info = False  # whether `test_path` looks at `episode.info`, which then is there at test
    reads_queries = True  # whether training looks at the queries of a task
    fixed_network = False  # training needs the same function of weights and inputs at every pass: no dropout
    view_tasks = 8  # of which `views` is drawn
    chunk = 100  # tasks drawn and tested at once under vmap; no result depends on it
    compiles = True  # whether `compile=auto` may compile a long training
    test_steps = 0  # points of the adaptation curve after the first
    mapping_reason: str | None = None  # why the loop over tasks replaces the mapping chosen by default
    _drops: list[Dropping] | None = None  # the layers that drop features in training, once they are known
    unreached: Sequence[str] = ()  # meta-parameters that no gradient reaches, once `check_connected` has looked

    def __init__(
        self,
        family: TaskFamily,
        model: ModelFactory | nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        mapping: Mapping = "auto",
    ):
        super().__init__()
        self.family = family
        if self.acts != getattr(family, "acts", False):
            needs = "learns by acting, and has no use for examples" if self.acts else "learns from examples"
            raise ValueError(
                f"family: {type(self).__name__} {needs}; {type(family).__name__} "
                f"{'gives examples' if self.acts else 'answers to actions'}"
            )
        ways, test_ways = family.sizes["train"]["ways"], family.sizes["test"]["ways"]
        if ways != test_ways and not self.any_ways:
            raise ValueError(
                f"task.test.ways={test_ways}: {type(self).__name__} has one output per class, so task.ways={ways} too"
            )
        made = model if isinstance(model, nn.Module) else model(family.x_shape, self.outputs(family))
        check_module(made, family.x_shape)
        self.adopted = own_norms(made)  # layers of torch that are replaced: kind -> number
        if number := adopt_weight_norms(made):
            self.adopted["weight_norm"] = number
        self.model = adopt(made)
        check_state(self.model, family.x_shape)
        if self.fixed_network and (drops := dropping_layers(self.model)):
            name = type(self).__name__
            raise ValueError(f"model: {drops[0]} draws anew at every pass, and {name} needs one function")
        self.loss = loss or family.loss
        self.register_buffer("meta_step", torch.zeros((), dtype=torch.int64))  # the only clock
        self._connected = False
        self.set_mapping(mapping, family.device)

    def set_mapping(self, mapping: Mapping, device: torch.device | str, tried: bool = False) -> None:
        """Decide how tasks are mapped on this device and set the norms accordingly.

        `tried`: this mapping is known to be right, so that `settle` need not find out.
        """
        before = getattr(self, "mapping", None)
        self.mapping = choose(mapping, self.model, device)
        self._tried = tried or (getattr(self, "_tried", False) and self.mapping == before)
        self._asked = mapping
        prepare(self.model, native=self.mapping == "loop")

    def settle(self, episode: Episode | None = None) -> None:
        """Try once, on two tasks, whether vmap can take this learner; the loop over tasks replaces it where it cannot.

        Called before the first use. Changes nothing but the mapping; `mapping_reason` then says why.

        Raises:
            ValueError: it fails, or fails under the mapping that was asked for; the message says what to do.
        """
        if self._tried:
            return
        self._tried = True
        try:
            mapping, self.mapping_reason = trial.fitting_mapping(self, self._asked, episode)
        except BaseException:
            self._tried = False
            raise
        if self.mapping_reason:
            self.mapping = mapping
            prepare(self.model, native=True)
            log.warning("mapping=%s: %s; going on with mapping=loop", self._asked, self.mapping_reason)

    def check_connected(self, episode: Callable[[], Episode]) -> None:
        """Once, before the first step of training: refuse a network that no gradient reaches; name parameters that none
        does.

        Args:
            episode: returns the first meta-batch, or as much of it as there is.

        Raises:
            NothingLearnedError: the meta-gradient is exactly zero.
        """
        if self._connected or not self.trains:
            return
        self._connected = True
        if bool(self.meta_step) or trial.known(self):
            return
        self.unreached = trial.check_connected(self, episode())
        if self.unreached:
            log.warning("model: no gradient reaches %s; it keeps its initial value", ", ".join(self.unreached))

    @property
    def metrics(self) -> dict[str, Metric]:
        """Metrics of one task by name, of what `predict` gives; the first selects the best checkpoint.

        The family's; a method whose predictions are more than the family's targets (a mean and a deviation) defines
        here how to read them.
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
        return self.loss_and_metrics(prediction, episode.query.y)

    def task_loss(self, episode: Episode) -> tuple[Tensor, dict[str, Any]]:
        """`meta_loss` of one task in training: layers that drop features do so here, and nowhere else."""
        if self._drops is None:
            self._drops = dropping_layers(self)
        if not self._drops:
            return self.meta_loss(episode)
        with dropping(self._drops, episode.key, self.meta_step):  # type: ignore[arg-type]
            return self.meta_loss(episode)

    def loss_and_metrics(self, prediction: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Loss [] and metrics [] of a prediction [n, out] for the targets y [n, y_dim]."""
        metrics = {name: metric(prediction, y) for name, metric in without_support(self.metrics).items()}
        return self.loss(prediction, y), metrics

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

    def finish(self, validate: Validate) -> dict[str, Any]:
        """After training and before the test: set buffers that need a pass over the family; returns what to record."""
        return {}

    # -- mapped over tasks -------------------------------------------------------------------------------------------

    def forward(self, episode: Episode) -> tuple[Tensor, dict[str, Any]]:
        """Mean outer loss [] and logs over the tasks of a meta-batch; differentiable by plain `backward()`."""
        self.settle(episode)
        if torch.is_grad_enabled():
            self.check_connected(lambda: episode)
        with plain_attention():
            losses, logs = map_tasks(self.task_loss, episode, self.mapping)
        return losses.mean(), {name: value.mean(0) for name, value in logs.items() if isinstance(value, Tensor)}

    def meta_parameters(self) -> dict[str, nn.Parameter]:
        """What the outer loop learns, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def meta_gradient(
        self, params: dict[str, Tensor], episode: Episode, buffers: dict[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], Tensor, Any]:
        """(gradient by name, mean outer loss [], mean logs) of a meta-batch at the given meta-parameters.

        `buffers` are used instead of the learner's own where given (a compiled graph takes them as inputs).
        """
        self.settle(episode)
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
        return in_mode(mode, self.model, partial(self.predict, adapted), support.x, x)

    def reader(self, mode: str, support: Examples, x: Tensor) -> Callable[[Any], Tensor]:
        """adapted -> its predictions of x: `predict_as`, with whatever no adapted value changes done once."""
        return lambda adapted: self.predict_as(mode, adapted, support, x)

    def test_path(self, episode: Episode) -> list[Any]:
        """The adapted values after 0, 1, ..., test_steps steps on an episode's support set; see `reads_info`."""
        return self.path(episode.support, episode.key, self.steps_at_test(len(episode.support.x)))

    def steps_at_test(self, examples: int) -> int:
        """Inner steps at test on a support set of so many examples."""
        return self.test_steps

    def variants(self, adapted: Any) -> dict[str, Any]:
        """Prefix of the metrics' names -> adapted values: what is scored at test; "" is the method itself."""
        return {"": adapted}


class _MetaLoss(nn.Module):
    # functional_call calls forward; this makes forward the loss of ONE task.
    def __init__(self, learner: MetaLearner):
        super().__init__()
        self.learner = learner

    def forward(self, task: Episode) -> tuple[Tensor, Any]:
        return self.learner.task_loss(task)
