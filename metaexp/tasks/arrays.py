"""Regression tasks from the user's own arrays."""

import hashlib
import logging
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from metaexp.constraints import Count, Natural, checked
from metaexp.random import SPLITS, ends, fold, integers, permutation
from metaexp.tasks.base import TaskFamily
from metaexp.tasks.data.npz import Task, read_tasks
from metaexp.tasks.data.splits import first_of, joined
from metaexp.types import Episode, Examples

log = logging.getLogger(__name__)


class Arrays(TaskFamily):
    """Tasks from npz files with x [n, *x_shape], y [n] or [n, y_dim] and optionally task [n] and split [n].

    An episode draws one task of the split and, without replacement, support and query rows of that task. `task` holds
    any integers or strings; `split` holds train, val or test (or 0, 1, 2), the same for all rows of a task. Without a
    task column, each file is one task: the first file is for training, further files are new tasks for testing. With
    only a split column, the rows of each split form one task. Tasks without a split are divided by fractions. If val
    or test has no task, it uses the other's tasks, with a warning. For class labels use `task=dataset`.

    Args:
        files: the npz files; a task may be in one file only.
        split: fractions of the tasks for train, val and test where no split is given; the assignment is drawn with
            `eval_seed`.
        standardise: none | x | xy: scale to mean 0 and standard deviation 1, computed on the rows of the training
            split. Losses and metrics are then in standardised units; `x_mean, x_std, y_mean, y_std` convert them back.

    Raises:
        ValueError: a setting is out of range, or shots and queries together exceed the rows of a task.
        DataError: a file is missing, damaged or inconsistent.
    """

    @checked
    def __init__(
        self,
        files: str | Sequence[str],
        shots: Count = 10,
        queries: Natural = 10,
        split: Sequence[float] = (0.6, 0.2, 0.2),
        standardise: Literal["none", "x", "xy"] = "none",
        test: dict[str, Natural | None] | None = None,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        super().__init__(shots, queries, None, test, seed, eval_seed)
        files = [files] if isinstance(files, str) else list(files)
        if not files:
            raise ValueError("files=[]: name at least one npz file, files=[base.npz,new.npz]")
        tasks = read_tasks(files, split, eval_seed)
        self._x, self._y = (torch.cat([torch.from_numpy(getattr(t, name)) for t in tasks]) for name in ("x", "y"))
        self.x_shape, self.y_dim = tuple(self._x.shape[1:]), self._y.shape[1]
        self.names = [task.name for task in tasks]
        counts = [len(task.x) for task in tasks]
        members = self._members(tasks, everything=list(split) == [0, 0, 1])
        each = [hashlib.sha256(task.x.tobytes() + task.y.tobytes()).digest() for task in tasks]
        self.trained_on, self._sha256 = joined(each[i] for i in members["train"]), joined(each)
        self._read = (files, split, eval_seed)
        self._units = standardise
        there = {split: part for split, part in members.items() if part}
        self._least = {split: min(part, key=counts.__getitem__) for split, part in there.items()}  # smallest task
        self._most = {split: max(counts[i] for i in part) for split, part in there.items()}
        self._counts, self.counts = counts, torch.tensor(counts)
        self.starts = self.counts.cumsum(0) - self.counts
        self.splits = {split: torch.tensor(part, dtype=torch.int64) for split, part in members.items()}
        place = torch.repeat_interleave(torch.arange(len(tasks)), self.counts)  # [rows] task of every row
        self.rows = {split: torch.isin(place, part).nonzero().flatten() for split, part in self.splits.items()}
        for name in there:
            self._check(name, self.size(name, "shots", None), self.size(name, "queries", None))
        self._fit(self._x, self._y)
        self.to("cpu")
        if members["val"] is members["test"]:
            log.warning("val and test use the same tasks: the weights chosen on val are chosen on the test tasks")

    def _members(self, tasks: list[Task], everything: bool) -> dict[str, list[int]]:
        splits = {split: [i for i, task in enumerate(tasks) if task.split == split] for split in SPLITS}
        if everything and not splits["train"] and not splits["val"] and splits["test"]:
            self.test_only = "split=[0, 0, 1]: no task is left for training"
            return splits
        files = f"files=[{','.join(dict.fromkeys(task.file for task in tasks))}]"
        if not splits["train"]:
            raise ValueError(f"{files}: none of the {len(tasks)} tasks is for training")
        if not splits["val"] and not splits["test"]:
            raise ValueError(
                f"{files}: no task is left to test on; name a further file with a new task, "
                "or give the rows a task or a split column"
            )
        for split, other in (("val", "test"), ("test", "val")):
            if not splits[split]:
                splits[split] = splits[other]
        return splits

    def _check(self, split: str, shots: int, queries: int) -> None:
        task = self._least[split]
        rows = self._counts[task]
        if shots + queries > rows:
            prefix = "" if split == "train" else "test."
            raise ValueError(
                f"{prefix}shots={shots} and {prefix}queries={queries}: together more than the {rows} rows of "
                f'{self.names[task]}, the smallest task of split "{split}"'
            )

    def restrict(self, most: int) -> None:
        """See TaskFamily.restrict; what is standardised is so by the rows of these tasks alone."""
        members = first_of(self.splits["train"].tolist(), most, self.seed, "training tasks")
        x = (self._x.double() * self.x_std.cpu() + self.x_mean.cpu()).to(self._x.dtype)
        y = (self._y.double() * self.y_std.cpu() + self.y_mean.cpu()).to(self._y.dtype)
        place = torch.repeat_interleave(torch.arange(len(self._counts)), torch.tensor(self._counts))
        self.splits["train"] = torch.tensor(members)
        self.rows["train"] = torch.isin(place, self.splits["train"]).nonzero().flatten()
        self._least["train"] = min(members, key=self._counts.__getitem__)
        self._most["train"] = max(self._counts[i] for i in members)
        self._fit(x, y)
        self.to(self.device, self.dtype)

    @property
    def train_count(self) -> int | None:
        """See TaskFamily.train_count."""
        return len(self.splits["train"])

    def _fit(self, x: Tensor, y: Tensor) -> None:
        """Keep these inputs and targets, in the units that are asked for."""
        wanted = "" if self.test_only else self._units
        self.x_mean, self.x_std, self._x = self._standardise(x, "x" in wanted)
        self.y_mean, self.y_std, self._y = self._standardise(y, "y" in wanted)

    def _standardise(self, data: Tensor, wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and standard deviation over the training rows (0 and 1 if not wanted), and the standardised data."""
        if not wanted:
            one = torch.ones(data.shape[1:], dtype=torch.float64)
            return 0 * one, one, data
        std, mean = torch.std_mean(data[self.rows["train"]].double(), dim=0, correction=0)
        std = torch.where(std > 0, std, torch.ones_like(std))  # a constant column stays constant
        return mean, std, ((data.double() - mean) / std).to(data.dtype)

    def content_sha256(self) -> str | None:
        """See TaskFamily.content_sha256: of the rows of every task, whatever its name."""
        return self._sha256

    def contents(self, split: str) -> dict[str, list[bytes]] | None:
        """See TaskFamily.contents: of the rows of each task as its file has them, by the value of the task column."""
        tasks = read_tasks(*self._read)
        members = {i: tasks[i] for i in self.splits[split].tolist()}
        return {
            str(task.name if task.value is None else task.value): [
                hashlib.blake2b(x.tobytes() + y.tobytes(), digest_size=16).digest()
                for x, y in zip(task.x, task.y, strict=True)
            ]
            for task in members.values()
        }

    def prepare_as(self, own: TaskFamily) -> None:
        """Scales inputs and targets by the run's own units, not by those of these rows."""
        for part in ("x", "y"):
            mean, std = (getattr(own, f"{part}_{name}", None) for name in ("mean", "std"))
            if mean is None or std is None or mean.shape != getattr(self, f"{part}_mean").shape:
                continue
            old_mean, old_std = getattr(self, f"{part}_mean"), getattr(self, f"{part}_std")
            data = getattr(self, f"_{part}")
            raw = data.double() * old_std.cpu() + old_mean.cpu()
            setattr(self, f"_{part}", ((raw - mean.cpu().double()) / std.cpu().double()).to(data.dtype))
            setattr(self, f"{part}_mean", mean)
            setattr(self, f"{part}_std", std)
        self.to(self.device, self.dtype)

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "Arrays":
        """See TaskFamily.to."""
        super().to(device, dtype)
        self.x, self.y = self._x.to(device, dtype), self._y.to(device, dtype)
        self.starts, self.counts = self.starts.to(device), self.counts.to(device)
        self.splits = {split: members.to(device) for split, members in self.splits.items()}
        self.rows = {split: rows.to(device) for split, rows in self.rows.items()}
        return self

    def sample(
        self,
        split: str,
        indices: Tensor,
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """See TaskFamily.sample; info holds task [tasks] (an index into `names`) and rows [tasks, shots + queries].

        Raises ValueError if the split's smallest task does not have that many rows.
        """
        shots, queries = self.size(split, "shots", shots), self.size(split, "queries", queries)
        self._check(split, shots, queries)
        key = self.keys(split, indices)
        task = self.splits[split][integers(key, 0, (), len(self.splits[split]))]  # [tasks]
        first, last = ends(key, 1, self._most[split], shots, queries, self.counts[task])
        start = self.starts[task].unsqueeze(-1)
        support, query = (Examples(self.x[start + rows], self.y[start + rows]) for rows in (first, last))
        return Episode(support, query, key, {"task": task, "rows": torch.cat([first, last], -1)})

    def pool(self, split: str, indices: Tensor, n: int) -> Examples:
        """Minibatches of all the split's rows in epochs: x [batches, n, *x_shape], y [batches, n, y_dim].

        The rows form an endless sequence, one random permutation of all of them per epoch; batch i consists of elements
        i n ... i n + n - 1. For example, 10 epochs of 1,000 rows in batches of 32 are batches 0 ... 312 (the last one
        begins the next epoch). A call costs a sort of the rows for each epoch that its batches touch.
        """
        count = len(self.rows[split])
        key = fold(self.keys(split, torch.zeros_like(indices[:1])), 2)  # [1], one key for all batches
        position = indices.unsqueeze(-1) * n + torch.arange(n, device=indices.device)  # [batches, n]
        touched, epoch = torch.unique(position // count, return_inverse=True)
        order = permutation(fold(key, touched), 0, count)  # [epochs touched, count]
        rows = self.rows[split][order[epoch, position % count]]
        return Examples(self.x[rows], self.y[rows])
