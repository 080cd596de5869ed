"""A file as tasks in numbers: read, divided, and encoded by what was fitted to the training tasks."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metaexp.errors import DataError
from metaexp.tasks.data.splits import digest
from metaexp.tasks.data.table import read_table
from metaexp.tasks.data.table_fit import Wishes, check_leak, fit_columns, fit_target, input_names, known_names
from metaexp.tasks.data.table_inputs import Spec, TableInputs, encoded
from metaexp.tasks.data.table_tasks import Division, divide, group


class Content(NamedTuple):
    """The tasks of a table: the rows of one task are together, in its order."""

    x: Tensor  # float64 [rows, d]
    y: Tensor  # float64 [rows, y_dim]
    counts: list[int]  # rows of each task
    names: list[str]  # of the tasks: the values of `by`
    splits: dict[str, list[int]]  # "train", "val", "test" -> task numbers
    inputs: TableInputs
    target: Spec
    why: str  # why it is regression or classification; "" if that was typed

    def digest(self) -> str:
        """SHA-256 of the training tasks."""
        starts = np.cumsum([0, *self.counts])
        pieces = [slice(starts[task], starts[task + 1]) for task in self.splits["train"]]
        return digest(self.x[one].numpy().tobytes() + self.y[one].numpy().tobytes() for one in pieces)

    def contents(self, tasks: Sequence[int]) -> dict[str, list[bytes]]:
        """The digests of the rows of each of these tasks, as numbers, by its name."""
        starts = np.cumsum([0, *self.counts])
        rows = torch.cat([self.x, self.y], 1).numpy()
        found = {task: rows[starts[task] : starts[task + 1]] for task in tasks}
        return {
            self.names[task]: [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in part]
            for task, part in found.items()
        }

    def units(self) -> Tensor:
        """Mean and deviation of a regression's target in training: float64 [2, 1]."""
        return torch.tensor([[self.target[key]] for key in ("mean", "std")], dtype=torch.float64)

    def one_class(self, task: int) -> bool:
        """Whether all rows of a task have the same target."""
        start = sum(self.counts[:task])
        own = self.y[start : start + self.counts[task]]
        return bool((own == own[:1]).all())


def read_content(
    file: str,
    by: str,
    target: str,
    kind: str,
    order: str | None,
    wishes: Wishes,
    division: Division,
    seed: int,
    fitted: TableInputs | None = None,
) -> Content:
    """See `Table` for the arguments. Raises DataError and ValueError, see there.

    With `fitted`, columns and target are those of another table, and become numbers as there.
    """
    frame = read_table(file, (("by", by), ("target", target)))
    if by == target:
        raise ValueError(f"target={target}: is task.by, too; the target must be another column")
    used = {by: "by", target: "target"} | ({order: "order"} if order else {})
    if division.column in frame.columns and division.column not in used:
        used[str(division.column)] = "split_column"
    else:
        division = division._replace(column=None)
    names = input_names(frame, wishes, used) if fitted is None else known_names(frame, fitted, target, kind, used)
    tasks, rows = group(frame, by, order, wishes.words)
    splits = divide(frame, tasks, rows, division, seed)
    others = [name for name in frame.columns if name not in names and name != target]
    if fitted is None:
        train = np.sort(np.concatenate([rows[task] for task in splits["train"]]))
        spec, why = fit_target(frame, target, kind, train, wishes.words)
        check_leak(frame, names, target)
        inputs = TableInputs(fit_columns(frame, names, train, wishes), spec, sorted(wishes.words), others)
    else:
        spec, why = fitted.target, ""
        inputs = TableInputs(fitted.columns, spec, sorted(fitted.missing), others)
    place = np.concatenate(rows)
    words = inputs.missing
    try:
        parts = [encoded(one, frame.columns[str(one["name"])], words) for one in inputs.columns]
    except ValueError as error:  # only a table whose columns were not looked at before it was fitted
        raise DataError(f"{frame.path}: {str(error).removeprefix('x: ')}") from error
    x = np.concatenate(parts, axis=1)[place]
    y = inputs.read_targets(frame.columns[target], f"target={target}: {frame.path}")[place]
    counts = [len(one) for one in rows]
    return Content(torch.from_numpy(x), torch.from_numpy(y), counts, tasks, splits, inputs, spec, why)
