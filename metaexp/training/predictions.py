"""`test.predictions=true`: the file predictions.csv of a run, one line for each query of each test task."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from metaexp.evaluation.predictions import Predicted, predictions
from metaexp.evaluation.scores import Chunk
from metaexp.storage.run_folder import RunFolder

FILE = "predictions.csv"


def write_predictions(
    learner: Any,
    kept: Sequence[Chunk],
    modes: list[str],
    folder: RunFolder,
    tick: Callable[[int], None],
    tell: Callable[[str], Any],
) -> None:
    """Writes every prediction that the test has kept; the file is there whole or not at all.

    Columns: `task`; `part` and `name` where there are some; `query`, its place in the task's query set; `mode`, how
    batch statistics are taken, where that matters; for regression `y` and `prediction` (numbered if there are several
    targets) and `std` if predictions are Gaussian, in the target's own units; for classification `true`, `predicted`,
    and for each of the task's classes its name, `class_0`, and its probability, `p_0`. In worlds: `task`, `step` of the
    trial from 1 on, and its `reward`.

    Raises SpaceError; whatever `tick` raises.
    """
    several = len(learner.modes(modes)) > 1

    def fill(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer, head = csv.writer(text, lineterminator="\n"), None
        for done, task in enumerate(predictions(learner, kept, modes)):
            for columns in steps(task) if learner.acts else rows(task, several):
                if head is None:
                    head = list(columns)
                    writer.writerow(head)
                writer.writerow(columns.values())
            tick(done + 1)
        text.flush()
        text.detach()

    tell(f"writing {FILE} of {sum(len(chunk.indices) for chunk in kept)} tasks ...")
    folder.write(FILE, fill)


def steps(task: Predicted) -> Iterator[dict[str, Any]]:
    """The lines of a trial in a world, whose prediction is its rewards."""
    for rewards in task.values.values():
        for step, reward in enumerate(rewards[:, 0]):
            yield {"task": task.task, "step": step + 1, "reward": f"{reward:.9g}"}


def rows(task: Predicted, several: bool) -> Iterator[dict[str, Any]]:
    """The lines of one task."""
    for mode, values in task.values.items():
        for query in range(len(task.true)):
            line: dict[str, Any] = {"task": task.task}
            if task.part is not None:
                line["part"] = task.part
            if task.name is not None:
                line["name"] = task.name
            line["query"] = query
            if several:
                line["mode"] = mode
            yield line | (_classes(task, values, query) if task.classes is not None else _numbers(task, values, query))


def _classes(task: Predicted, values: Any, query: int) -> dict[str, Any]:
    assert task.classes is not None
    chance = values[query]
    line = {"true": task.classes[int(task.true[query])], "predicted": task.classes[int(chance.argmax())]}
    for place, (name, p) in enumerate(zip(task.classes, chance, strict=True)):
        line |= {f"class_{place}": name, f"p_{place}": f"{p:.9g}"}
    return line


def _numbers(task: Predicted, values: Any, query: int) -> dict[str, Any]:
    true, made = task.true[query], values[query]
    n = len(true)
    line: dict[str, Any] = {}
    for i in range(n):
        end = f"_{i}" if n > 1 else ""
        line |= {f"y{end}": f"{true[i]:.9g}", f"prediction{end}": f"{made[i]:.9g}"}
        if len(made) == 2 * n:
            line[f"std{end}"] = f"{made[n + i]:.9g}"
    return line
