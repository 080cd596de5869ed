"""Tasks from the user's own table: every value of one column is a task."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypedDict

import torch
from torch import Tensor

from metaexp import metrics
from metaexp.constraints import Count, Limit, Natural, Ordered, checked
from metaexp.random import SPLITS, fold, integers, permutation, uniform
from metaexp.tasks.base import TaskFamily, Varying
from metaexp.tasks.data.splits import first_of
from metaexp.tasks.data.table_content import Content, read_content
from metaexp.tasks.data.table_draw import arranged, drawn_bin, first_forecast, following, stratified
from metaexp.tasks.data.table_fit import Wishes
from metaexp.tasks.data.table_inputs import TableInputs
from metaexp.tasks.data.table_metrics import table_metrics
from metaexp.tasks.data.table_sizes import Bin, Rest, Unit, Wanted, alike, test_units, train_bins, train_sizes
from metaexp.tasks.data.table_tasks import Division
from metaexp.tasks.data.table_usable import require, usable
from metaexp.types import Episode, Examples

logger = logging.getLogger(__name__)

Fraction = Annotated[float, Limit(above=0, below=1)]
Shots = Natural | Fraction | Annotated[tuple[Natural, Natural], Ordered()]
Queries = Count | Rest


class Sizes(TypedDict, total=False):
    """Settings that may differ at validation and test; None: as in training."""

    shots: Shots | None
    queries: Queries | None


class Table(TaskFamily):
    """Rows of a CSV, TSV or Parquet file; the rows with one value of the column `by` are one task.

    Numbers are standardised, categories become places of a vector, dates days, by scikit-learn's transformers fitted to
    the rows of the training tasks alone. Targets of regression are standardised likewise, and metrics are in the
    target's own unit. Classes are the same in every task, so that an output keeps its meaning.

    `shots` counts rows of a task, whatever their class. Support and query rows of an episode are disjoint. In training
    both are drawn anew; tasks too small for both give fewer queries, and tasks of like size share a meta-batch. At test
    every task is there once and whole: its first `shots` rows in a random order of its own, and all the rest, or the
    last `queries` of that order. A support set with fewer shots is part of one with more; the queries stay the same.
    Rows of classes are in stratified order: the first and the last hold one of every class, between them each stretch
    has the task's own shares. With `order` the rows of a task are in the order of that column instead: the beginning
    is known, what follows is asked for.

    Args:
        file: the table, with a header.
        by, target: columns: the task of a row, and what is to be predicted.
        kind: "regression" or "classification"; "auto": by the target's values, which is said once.
        inputs: columns to predict from; None: all others but those in `drop`.
        drop: columns that are left out.
        categorical: columns whose numbers are names of categories.
        log: columns of numbers above 0 of which the logarithm is taken.
        missing: further words that mean a missing value.
        most_categories: categories of one column with a place of their own, the most frequent ones.
        shots: known rows of a task: a number, a fraction of its rows, or the range (fewest, most) in which it varies.
        queries: rows that are asked for: a number, or "rest".
        order: column by which the rows of a task are ordered, a number or a date.
        horizon: rows that are forecast, from every origin: the `shots` rows before it are known, those from it on are
            asked for, instead of `queries`. A task's scores are the means over its origins.
        min_rows: tasks with fewer rows are left out.
        one_class: whether test tasks all of whose rows have one class are left out.
        class_weights: "balanced": in every loss a class counts in inverse proportion to its rows in training.
        metric: the first metric, which chooses the best weights; None: mse, or accuracy.
        split: fractions of the tasks for train, val and test, drawn with `eval_seed`, unless one of the next is given.
        split_column: column that says train, val or test, if the table has it.
        tasks: values of `by` of "train", "val" and "test".
        class_file, fold: a JSON file with these three lists, or several such splits by the name of a fold.
        bucket: consecutive training tasks that share one size if sizes vary, a multiple of the meta-batch.
        test: those of shots and queries that differ at validation and test.
        fitted: from Python: the `TableInputs` of a run, by which columns become numbers; nothing is fitted here.

    Raises:
        ValueError: a setting is out of range, or no task is large enough.
        DataError: the file is missing, damaged or does not fit the settings.
    """

    y_dim = 1
    least_shots = 0
    fixed_classes = True

    @checked
    def __init__(
        self,
        file: str | None = None,
        by: str | None = None,
        target: str | None = None,
        kind: Literal["auto", "regression", "classification"] = "auto",
        inputs: Sequence[str] | None = None,
        drop: Sequence[str] = (),
        categorical: Sequence[str] = (),
        log: Sequence[str] = (),
        missing: Sequence[str] = (),
        most_categories: Count = 30,
        shots: Shots = 5,
        queries: Queries = 10,
        order: str | None = None,
        horizon: Count | None = None,
        min_rows: Count = 2,
        one_class: Literal["leave_out", "keep"] = "leave_out",
        class_weights: Literal["none", "balanced"] = "none",
        metric: str | None = None,
        split: Sequence[float] = (0.6, 0.2, 0.2),
        split_column: str | None = "split",
        tasks: dict[str, Sequence[Any] | None] | None = None,
        class_file: str | None = None,
        fold: str | None = None,
        bucket: Count = 25,
        test: Sizes | None = None,
        seed: int = 0,
        eval_seed: int = 0,
        fitted: Any = None,
    ):
        for name, value, example in (("file", file, "table.csv"), ("by", by, "user"), ("target", target, "rating")):
            if not value:
                raise ValueError(f"{name}=null: must be given, e.g. task.{name}={example}")
        changed = {name: value for name, value in (test or {}).items() if value is not None}
        tested: dict[str, Any] = {"shots": shots, "queries": queries} | changed
        if horizon is not None and order is None:
            raise ValueError(f"horizon={horizon}: a forecast needs task.order, the column of time")
        self._wanted = {"train": Wanted.of(shots, queries, horizon)}
        self._wanted["val"] = self._wanted["test"] = Wanted.of(tested["shots"], tested["queries"], horizon)
        self._asked: dict[str, dict[str, Any]] = {
            "train": {"shots": shots, "queries": queries},
            "val": tested,
            "test": tested,
        }
        wishes = Wishes(inputs, drop, categorical, log, missing, most_categories)
        division = Division(split, split_column, tasks, class_file, fold)
        super().__init__(1, 1, None, None, seed, eval_seed)
        self._bucket, self.order, self.horizon = bucket, order, horizon
        self.ordered = order is not None
        named = (str(file), str(by), str(target), kind, order)
        self._read = partial(read_content, *named, wishes, seed=eval_seed, fitted=fitted)
        self._by, self._first_metric, self._balanced = str(by), metric, class_weights == "balanced"
        self._enough, self._typed = (min_rows, one_class == "leave_out"), set(changed)
        self._take(self._read(division=division))
        self.protocol = self._usable.protocol(self._asked["test"], order, horizon, self._by, str(target))
        for line in self._usable.lines(self.content):
            logger.warning(line)

    def _take(self, content: Content) -> None:
        """Everything that follows from the rows."""
        self.content, self.names, self._counts = content, content.names, content.counts
        self.x_shape, self.y_dim = tuple(content.x.shape[1:]), content.y.shape[1]
        self.classification = content.target["kind"] == "classification"
        if not self.classification:
            self.time, self.time_units = content.inputs.time(self.order)
            self.target_name = str(content.target["name"])
            self.y_mean, self.y_std = content.units()
        self.trained_on = content.digest()
        unit = None if self.classification else float(self.y_std)
        ordered = self.ordered and self._wanted["test"].most > 1
        self.kept_metrics = {"unit": unit, "ordered": ordered, "first": self._first_metric}
        self._metrics = table_metrics(**self.kept_metrics)
        self._usable = usable(content, self._wanted, *self._enough)
        self.able, self.left_out = self._usable
        if not content.splits["train"]:
            self.test_only = "split=[0, 0, 1]: no task is left for training"
        for name in ("val", "test") if self.test_only else SPLITS:
            require(name, self._usable, self._asked[name], self._typed)
        self._choose()
        if self._balanced and self.classification:
            count = content.y[self._rows_of(torch.tensor(self.able["train"]))].sum(0)  # [classes]
            self.class_weights = count.sum() / (len(count) * count.clamp(min=1))
        self.to(self.device, self.dtype)

    def restrict(self, most: int) -> None:
        """See TaskFamily.restrict; columns and target are fitted to the rows of these tasks alone.

        Raises DataError if there is nothing to fit in them.
        """
        parts = self.content.splits
        used = {"train": first_of(self.able["train"], most, self.seed, "training tasks"), "test": parts["test"]}
        used |= {} if parts["val"] is parts["test"] else {"val": parts["val"]}
        lists = {split: [self.names[task] for task in tasks] for split, tasks in used.items()}
        self._take(self._read(division=Division((1.0, 0.0, 0.0), lists=lists)))

    @property
    def train_count(self) -> int | None:
        """See TaskFamily.train_count."""
        return len(self.able["train"])

    # -- which tasks, of which sizes ---------------------------------------------------------------------------------

    def _choose(self) -> None:
        """The sizes of episodes, and which tasks are drawn together."""
        self._bins = train_bins(self.able["train"], self._counts, self._wanted["train"])
        self._units = {split: self._order_units(split, self.able[split]) for split in ("val", "test")}
        limits = [self._wanted["train"].limit(one.fewest, whole=False) for one in self._bins] or [1]
        self.sizes["train"] = self._size("train", max(limits), [max(limits) + 1])
        for split, units in self._units.items():
            self.sizes[split] = self._size(split, max(u.limit for u in units), [u.queries for u in units])

    def _size(self, split: str, shots: int, queries: list[int]) -> dict[str, int | None]:
        asked = self._wanted[split].queries
        return {"shots": shots, "queries": max(queries) if asked is None else asked, "ways": None}

    def _order_units(self, split: str, able: list[int]) -> list[Unit]:
        key = self.keys(split, torch.tensor([-1]))[0]  # a key that no task has

        def turn(task: int) -> float:
            return float(uniform(fold(key, task), 0, (), dtype=torch.float64))

        order = permutation(key, 0, len(able)).tolist()
        return test_units([able[i] for i in order], self._counts, self._wanted[split], turn)

    def _rows_of(self, tasks: Tensor) -> Tensor:
        place = torch.repeat_interleave(torch.arange(len(self._counts)), torch.tensor(self._counts))
        return torch.isin(place, tasks).nonzero().flatten()

    # -- what the family is ------------------------------------------------------------------------------------------

    @property
    def metrics(self) -> dict[str, metrics.Metric]:
        """See `table_metrics`."""
        return self._metrics

    def contents(self, split: str) -> dict[str, list[bytes]]:
        """See TaskFamily.contents: of the rows of each task, as numbers."""
        return self.content.contents(self.able[split])

    def raw_inputs(self) -> TableInputs:
        """Rows of a table -> inputs, for a new task; see `metaexp.tasks.data.table_inputs`."""
        return self.content.inputs

    def record(self) -> dict[str, Any]:
        """What the table held, with the names of all tasks that were left out."""
        return self._usable.record(self.content)

    def varying(self, split: str) -> Varying | None:
        """See TaskFamily.varying; in training also if only the queries vary."""
        if split == "train":
            limits = [self._wanted["train"].limit(one.fewest, whole=False) for one in self._bins]
            if len(self._bins) == 1 and not self._wanted["train"].varies:
                return None
            return Varying(min(self._wanted["train"].fewest, *limits), max(limits), self._bucket)
        shots = [unit.shots for unit in self._units[split]]
        return None if min(shots) == max(shots) else Varying(min(shots), max(shots), 1)

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "Table":
        """See TaskFamily.to."""
        super().to(device, dtype)
        self.x, self.y = self.content.x.to(device, dtype), self.content.y.to(device, dtype)
        counts = torch.tensor(self._counts)
        self.counts, self.starts = counts.to(device), (counts.cumsum(0) - counts).to(device)
        self.rows = self._rows_of(torch.tensor(self.able["train"])).to(device)
        return self

    # -- the tasks of a test -----------------------------------------------------------------------------------------

    def limit(self, split: str) -> int | None:
        """See TaskFamily.limit."""
        return None if split == "train" else len(self._units[split])

    def _shots(self, split: str, unit: Unit, shots: int | None) -> int:
        if shots is None:
            return unit.shots
        if shots <= unit.limit or self._wanted[split].varies:
            return min(shots, unit.limit)
        raise ValueError(
            f"shots={shots}: {self.names[unit.task]} has {unit.rows} rows, and its queries begin after {unit.limit}"
        )

    def runs(self, split: str, tasks: int, shots: int | None = None) -> Sequence[Tensor]:
        """See TaskFamily.runs: tasks with as many support and query rows, in the order of their first one."""
        if split == "train":
            return super().runs(split, tasks, shots)
        sizes = [(self._shots(split, unit, shots), unit.queries) for unit in self._units[split][:tasks]]
        found = alike(self._units[split], sizes, self._wanted[split])
        return [torch.tensor(run, device=self.device) for run in found]

    def common(self, split: str, indices: Tensor) -> dict[str, int]:
        """See TaskFamily.common."""
        if split == "train":
            return {}
        units = [self._units[split][place % len(self._units[split])] for place in indices.tolist()]
        sizes = {(unit.shots, unit.queries) for unit in units}
        return {} if len(sizes) == 1 else {"shots": min(s for s, _ in sizes), "queries": min(q for _, q in sizes)}

    def short(self, split: str, tasks: int, shots: int) -> int:
        """See TaskFamily.short."""
        return sum(unit.limit < shots for unit in self._units[split][:tasks])

    # -- drawing -----------------------------------------------------------------------------------------------------

    def sample(
        self,
        split: str,
        indices: Tensor,
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """See TaskFamily.sample; info holds task [tasks] (an index into `names`) and rows [tasks, shots + queries],
        numbered within the task.

        An index at or above the number of test tasks is one of them again, with other rows drawn.

        Raises ValueError if tasks differ in size or have too few rows.
        """
        key, train = self.keys(split, indices), split == "train"
        drawn = (
            self._train_tasks(indices, key, shots, queries)
            if train
            else self._test_tasks(split, indices, shots, queries)
        )
        task, given, asked, width = drawn
        counts, begin = self.counts[task], self.starts[task].unsqueeze(-1)
        if self.order is not None:
            rows = torch.arange(width, device=key.device).expand(len(task), width)
        else:
            rows = arranged(key, counts, width)
            if self.classification:
                rows = stratified(rows, counts, self.y[(begin + rows).clamp(max=len(self.y) - 1)])
        first = rows[:, :given]
        if self.horizon is not None:
            again = None if train else indices // len(self._units[split])
            origin = first_forecast(key, counts, self._wanted[split].most, self._wanted[split].queries or 1, again)
            first, last = (origin + torch.arange(a, b, device=key.device) for a, b in ((-given, 0), (0, asked)))
        elif train and self.order is not None:
            last = following(key, counts, width, given, asked)
        else:
            last = rows.gather(1, (counts - asked).unsqueeze(-1) + torch.arange(asked, device=key.device))
        support, query = (Examples(self.x[begin + part], self.y[begin + part]) for part in (first, last))
        return Episode(support, query, key, {"task": task, "rows": torch.cat([first, last], -1)})

    def merged(self, split: str, indices: Tensor) -> Tensor | None:
        """See TaskFamily.merged: all origins of a task."""
        return None if self.horizon is None else indices % len(self._units[split])

    def _train_tasks(
        self, indices: Tensor, key: Tensor, shots: int | None, queries: int | None
    ) -> tuple[Tensor, int, int, int]:
        """Task numbers [tasks], shots, queries and the rows of the largest task."""
        wanted = self._wanted["train"]
        if shots is None and queries is None:
            chosen, turn = self._bin(indices)
            given, asked = train_sizes(chosen, wanted, turn)
            members, most = chosen.members, chosen.most
        else:
            given = (self.sizes["train"]["shots"] or 0) if shots is None else shots
            asked = (wanted.queries or 1) if queries is None else queries
            if not (able := [task for task in self.able["train"] if self._counts[task] >= given + asked]):
                raise ValueError(f"shots={given} and queries={asked}: no training task has so many rows")
            members, most = torch.tensor(able), max(self._counts[task] for task in able)
        return members.to(key.device)[integers(key, 0, (), len(members))], given, asked, most

    def _bin(self, indices: Tensor) -> tuple[Bin, float]:
        """The bin of these tasks, and a number in [0, 1) for their shots, which they share."""
        if self.varying("train") is None:
            return self._bins[0], 0.0
        first, last = int(indices.min()), int(indices.max())
        place = first // self._bucket
        if place != last // self._bucket:
            raise ValueError(
                f"bucket={self._bucket}: training tasks {first} to {last} differ in size; draw at most {self._bucket} "
                "at once, of one bucket, or pass shots and queries"
            )
        return drawn_bin(self._bins, fold(self.keys("train", torch.tensor([-1])), place)[0])  # -1: no task has this key

    def _test_tasks(
        self, split: str, indices: Tensor, shots: int | None, queries: int | None
    ) -> tuple[Tensor, int, int, int]:
        """Task numbers [tasks], shots, queries and the rows of the largest task."""
        units = [self._units[split][place % len(self._units[split])] for place in indices.tolist()]
        sizes = {(self._shots(split, unit, shots), unit.queries if queries is None else queries) for unit in units}
        if len(sizes) > 1:
            raise ValueError(
                f"tasks of split {split} differ in size: draw those of one of `runs` at once, or pass `common` sizes"
            )
        ((given, asked),) = sizes
        for unit in units:
            if asked > unit.rows - given or (queries is not None and asked > unit.rows - unit.limit):
                raise ValueError(
                    f"shots={given} and queries={asked}: together more than the {unit.rows} rows of "
                    f"{self.names[unit.task]}"
                )
        task = torch.tensor([unit.task for unit in units], device=indices.device)
        return task, given, asked, max(unit.rows for unit in units)

    def pool(self, split: str, indices: Tensor, n: int) -> Examples:
        """See TaskFamily.pool: n rows of the training tasks, each drawn from all of them; `split` must be train."""
        rows = self.rows if split == "train" else self._rows_of(torch.tensor(self.able[split])).to(self.device)
        drawn = rows[integers(fold(self.keys(split, indices), 2), 0, (n,), len(rows))]  # [batches, n]
        return Examples(self.x[drawn], self.y[drawn])
