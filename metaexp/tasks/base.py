"""The base class of task families: distributions over tasks from which a whole meta-batch is drawn at once."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from metaexp import losses, metrics
from metaexp.checks import whole
from metaexp.random import fold, integers, task_keys
from metaexp.tasks.data.raw import ArrayInputs, RawInputs
from metaexp.types import Episode, Examples

Digest = bytes  # of one example
MOST = 10**6  # tasks whose indices are listed at once


class Varying(NamedTuple):
    """A number of support examples that differs between tasks; `sizes["shots"]` is then the largest number."""

    fewest: int
    most: int
    bucket: int  # tasks 0 ... bucket - 1 share one number, the next `bucket` tasks another: a meta-batch has one shape


class _Runs(Sequence[Tensor]):
    """The indices of the first `tasks` tasks, `size` at a time, made when they are asked for."""

    def __init__(self, tasks: int, size: int, device: torch.device):
        self.tasks, self.size, self.device = tasks, size, device

    def __len__(self) -> int:
        return -(-self.tasks // self.size)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        first = place % len(self) * self.size
        return torch.arange(first, min(first + self.size, self.tasks), device=self.device)


class TaskFamily(ABC):
    """A family of tasks. A task is a pure function of (seed, split, index), independent of batch, chunk and rank.

    Args:
        shots: support examples per task (regression) or per class (classification).
        queries: query examples, per task or per class in the same way.
        ways: classes per episode; None for regression.
        test: those of shots, queries and ways that differ at validation and test.
        seed: seed of the training tasks.
        eval_seed: seed of the validation and test tasks.

    Raises:
        ValueError: a number is out of range; the message starts with the argument's name.
    """

    x_shape: tuple[int, ...]  # shape of one input
    y_dim: int  # length of a target vector at training; `ways` for classification
    classification: bool = False
    acts: ClassVar[bool] = False  # its tasks answer to actions: `metaexp.tasks.world`
    fixed_classes: ClassVar[bool] = False  # the classes are the same in every task: an output keeps its meaning
    class_weights: Tensor | None = None  # [ways] with which the examples of a class count in the default loss
    bytes: bool = False  # inputs are stored as bytes; 255 means 1
    white: int = 0  # the whole number that means 1 in pictures that were read; 0: as `bytes` says
    # For data from files: SHA-256 of the names or contents of the training data; None: the data cannot change.
    trained_on: str | None = None
    protocol: Mapping[str, Any] = {}  # what else must be equal for numbers to be comparable, for result.json
    # Why it has no training or validation tasks, as a message that starts with the setting; None: it has.
    test_only: str | None = None
    least_shots: ClassVar[int] = 1  # 0: a support set may be empty
    larger_is_better: bool | None = None  # the direction of the first metric, if that is a plain function
    # What makes own metrics again without the data (arguments of `table_metrics`); None: they need the family.
    kept_metrics: Mapping[str, Any] | None = None
    ordered: bool = False  # support and query examples are in the order of time
    target_name: str | None = None  # of rows of a table: the name of the target's column
    time: int | None = None  # which number of an input is the time, where examples are ordered
    _first: int | None = None  # of generated tasks: how many of them are for training; None: all
    queries_in_support: bool = False  # the queries are not separate examples but rows of the support set
    kind_names: ClassVar[tuple[str, ...]] = ()  # of a family of several kinds: names of the numbers in info["kind"]
    # The best prediction for ONE task given full knowledge of the family: oracle(episode with info, x [m, *x_shape]) ->
    # [m, y_dim]; with `gaussian_oracle` [m, 2 y_dim], means then standard deviations. None: not known.
    oracle: Callable[[Episode, Tensor], Tensor] | None = None
    gaussian_oracle: ClassVar[bool] = False
    # How far the oracle is to be trusted, for ONE task: (episode with info) -> numbers [] by name; None: it is exact.
    oracle_diagnostics: Callable[[Episode], dict[str, Tensor]] | None = None

    def __init__(
        self,
        shots: int,
        queries: int,
        ways: int | None = None,
        test: dict[str, int | None] | None = None,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        self.sizes: dict[str, dict[str, int | None]] = {"train": {"shots": shots, "queries": queries, "ways": ways}}
        changed: dict[str, int | None] = {name: value for name, value in (test or {}).items() if value is not None}
        self.sizes["test"] = self.sizes["val"] = self.sizes["train"] | changed
        for split, sizes in self.sizes.items():
            prefix = "" if split == "train" else "test."
            for name, least in (("shots", self.least_shots), ("queries", 0), ("ways", 2)):
                value = sizes[name]
                if value is not None:
                    whole(prefix + name, value, least)
        self.seed, self.eval_seed = seed, eval_seed
        self.device, self.dtype = torch.device("cpu"), torch.float32

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The default loss, (prediction [n, out], target [n, y_dim]) -> []."""
        if self.classification and self.class_weights is not None:
            return losses.weighted_cross_entropy(self.class_weights)
        return losses.cross_entropy if self.classification else losses.mse

    @property
    def metrics(self) -> Mapping[str, metrics.Metric | metrics.Function]:
        """Metrics of one task by name; the first one selects the best checkpoint.

        Each is a `metaexp.metrics.Metric`, with its direction; the first may be a plain function if the family
        declares `larger_is_better`.
        """
        return {"accuracy": metrics.accuracy} if self.classification else {"mse": metrics.mse}

    def content_sha256(self) -> str | None:
        """For data from files: SHA-256 of all of them, the same wherever they lie; None: generated, or not known."""
        return None

    def contents(self, split: str) -> dict[str, list[Digest]] | None:
        """For data from files: the digests of the examples of each class or task of a split, by its name; None: they
        are generated, or not known."""
        return None

    def prepare_as(self, own: "TaskFamily") -> None:
        """Called before a run that was trained on `own` (or its placeholder) is tested on this family: take over what
        was fitted on the training tasks, such as the units of standardised inputs."""
        return

    def varying(self, split: str) -> Varying | None:
        """How the number of support examples varies between the tasks of a split; None if it does not."""
        return None

    # -- fewer training tasks ------------------------------------------------------------------------------------------

    def restrict(self, most: int) -> None:
        """Use only `most` of the training tasks from now on: of classes drawn anew for each episode, so many classes.

        Which ones depends on `seed`; those of a smaller number are among those of a larger one. Generated tasks are the
        first ones, each with its own shots and queries, and no others are ever drawn. Called once, before training.

        Raises ValueError, with a message that starts with "train_tasks", if there are fewer.
        """
        self._first = most

    @property
    def limited_by_key(self) -> bool:
        """Whether only `keys` limits the number of training tasks."""
        return self._first is not None

    @property
    def train_count(self) -> int | None:
        """The number of different training tasks, or classes; None: there are always more."""
        return self._first

    def pooled(self, indices: Tensor, n: int) -> Examples:
        """`pool` of the training tasks; of generated ones that are restricted, examples of these alone."""
        if self._first is None:
            return self.pool("train", indices, n)
        tasks = torch.arange(self._first, device=indices.device)
        support, query, *_ = self.sample("train", tasks, shots=self.sizes["train"]["shots"])
        x, y = (torch.cat([a, b], 1) for a, b in zip(support, query, strict=True))  # [tasks, rows, ...]
        rows = x.shape[1]
        if self.classification:  # each task has classes of its own
            own = torch.eye(self._first, dtype=y.dtype, device=y.device)[:, None, :, None] * y[:, :, None, :]
            y = own.flatten(2)  # [tasks, rows, tasks * ways]
        key = task_keys(self.seed, "train", indices)
        drawn = integers(fold(key, 14), 0, (n,), self._first * rows)  # [batches, n]
        return Examples(x.flatten(0, 1)[drawn], y.flatten(0, 1)[drawn])

    # -- families with a given number of tasks, which may differ in size -----------------------------------------------

    def limit(self, split: str) -> int | None:
        """Number of different tasks of a split, of which a test takes each once; None: there are always more."""
        return None

    def runs(self, split: str, tasks: int, shots: int | None = None) -> Sequence[Tensor]:
        """Indices, int64 [n] each, that can be drawn at once: the first `tasks` tasks of a split."""
        varying = self.varying(split)
        return _Runs(tasks, varying.bucket if varying else MOST, self.device)

    def merged(self, split: str, indices: Tensor) -> Tensor | None:
        """Indices of a validation or test split -> the tasks they belong to, if some are the same task, seen again.

        Their scores are averaged to one score of the task, so that intervals count tasks. None: each is its own.
        """
        return None

    def common(self, split: str, indices: Tensor) -> dict[str, int]:
        """Arguments of `sample` with which these tasks have one size; none where they have it anyway."""
        return {}

    def short(self, split: str, tasks: int, shots: int) -> int:
        """How many of the first `tasks` tasks have fewer than `shots` support examples, and give all they have."""
        return 0

    def record(self) -> dict[str, Any]:
        """What result.json says of the family's data: names of tasks that were left out, for instance."""
        return {}

    @property
    def pool_dim(self) -> int:
        """Number of outputs of a network trained on the pooled data: the number of training classes, or y_dim."""
        return self.y_dim * (self._first or 1) if self.classification else self.y_dim

    def raw_inputs(self) -> RawInputs:
        """What turns a user's own examples of a new task into this family's inputs; a run keeps its settings."""
        return ArrayInputs(self.x_shape, *self.units())

    def units(self) -> tuple[int, Any, Any]:
        """The whole number that means 1 in pictures (0: no pictures), and `x_mean` and `x_std` where there are any."""
        return self.white or 255 * self.bytes, getattr(self, "x_mean", None), getattr(self, "x_std", None)

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Self:
        """Draw tasks on this device and in this floating-point type from now on, and move the data; returns self."""
        self.device, self.dtype = torch.device(device), dtype
        return self

    def keys(self, split: str, indices: Tensor) -> Tensor:
        """Task indices, int64 [tasks] -> the tasks' keys, int64 [tasks]."""
        if split != "train":
            return task_keys(self.eval_seed, split, indices)
        if self._first is not None:  # numbers below 0 are no tasks
            indices = torch.where(indices < 0, indices, indices % self._first)
        return task_keys(self.seed, split, indices)

    @abstractmethod
    def sample(
        self,
        split: str,
        indices: Tensor,  # int64 [tasks]
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """The tasks `indices` of a split ("train", "val", "test") as one meta-batch on the device.

        None means the family's setting for the split. A support set of k shots is the first k examples of one stream
        per task or class, and the queries come from another stream: the 1-shot set is part of the 5-shot set.
        """

    @abstractmethod
    def pool(self, split: str, indices: Tensor, n: int) -> Examples:
        """Minibatches of the pooled data of all tasks: x [batches, n, *x_shape], y [batches, n, pool_dim].

        Batch i is a pure function of (seed, split, indices[i]); each example comes from a different task, and classes
        are numbered over the whole split.
        """

    def size(self, split: str, name: str, value: int | None) -> int:
        """The given size, or the family's own setting for this split."""
        size = self.sizes[split][name] if value is None else value
        assert size is not None
        return size
