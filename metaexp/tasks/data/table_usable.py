"""Which tasks of a table can be used: the others are named, never dropped silently."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from metaexp.random import SPLITS
from metaexp.tasks.data.table_content import Content
from metaexp.tasks.data.table_sizes import Wanted

NAMED = 8  # tasks that are left out and listed on the screen; result.json lists all


class Usable(NamedTuple):
    """The tasks of each split."""

    able: dict[str, list[int]]  # split -> task numbers
    left_out: dict[str, dict[str, str]]  # split -> name of a task -> why

    def record(self, content: Content) -> dict[str, Any]:
        """What result.json says of the table, with the names of all tasks that were left out."""
        return {
            "rows": {split: sum(content.counts[task] for task in tasks) for split, tasks in self.able.items()},
            "kind": content.target["kind"],
            "features": content.inputs.features,
            "classes": content.inputs.classes,
            **({"constant": same} if (same := content.inputs.constant) else {}),
            "left_out": self.left_out,
        }

    def protocol(
        self, asked: Mapping[str, Any], order: str | None, horizon: int | None, by: str, target: str
    ) -> dict[str, Any]:
        """What must be equal for numbers to be comparable; `asked`: the settings shots and queries of the test."""
        return {
            **asked,
            "order": order,
            **({"horizon": horizon, "queries": horizon} if horizon else {}),
            "by": by,
            "target": target,
            "tasks": {split: len(tasks) for split, tasks in self.able.items()},
            "left_out": {split: len(out) for split, out in self.left_out.items()},
        }

    def lines(self, content: Content) -> list[str]:
        """What is said of the kind of task, of those that are left out, and of a split that stands for two."""
        target, shared = content.target, content.splits["val"] is content.splits["test"]
        kind = f"task.target={target['name']}: {target['kind']} ({content.why}); task.kind= says otherwise"
        said = [kind] if content.why else []
        if same := content.inputs.constant:
            said.append(f"the same in every training row, so the learner is given 0 instead: {', '.join(same)}")
        for split, out in self.left_out.items():
            if out and not (split == "val" and shared):
                named = ", ".join(f"{name} ({why})" for name, why in list(out.items())[:NAMED])
                more = f" and {len(out) - NAMED} more, listed in result.json" if len(out) > NAMED else ""
                said.append(f"{split}: {len(out)} of {len(content.splits[split])} tasks left out: {named}{more}")
        if shared:
            said.append("val and test use the same tasks: the weights chosen on val are chosen on the test tasks")
        return said


def usable(content: Content, wanted: Mapping[str, Wanted], min_rows: int, several: bool) -> Usable:
    """The tasks with enough rows for what is asked for; tests of classes with `several` need more than one class."""
    found = Usable({}, {})
    for split in SPLITS:
        out = found.left_out[split] = {}
        able = found.able[split] = []
        for task in content.splits[split]:
            rows = content.counts[task]
            if rows < min_rows or not wanted[split].enough(rows, split != "train"):
                out[content.names[task]] = f"{rows} row{'s' * (rows != 1)}"
            elif (
                several and split != "train" and content.target["kind"] == "classification" and content.one_class(task)
            ):
                out[content.names[task]] = "one class"
            else:
                able.append(task)
    return found


def require(split: str, found: Usable, asked: Mapping[str, Any], typed: set[str]) -> None:
    """Refuse, with a ValueError, a split of which no task can be used.

    Args:
        asked: the settings shots and queries of the split; typed: those that differ at the test.
    """
    if found.able[split]:
        return
    told = ", ".join(f"{'test.' * (split != 'train' and name in typed)}{name}={n}" for name, n in asked.items())
    out = found.left_out[split]
    some = ", ".join(f"{name} ({why})" for name, why in list(out.items())[:3]) + ", ..." * (len(out) > 3)
    fix = "take task.one_class=keep" if set(out.values()) == {"one class"} else "ask for fewer rows"
    raise ValueError(f'{told}: no task of split "{split}" can be used: {some}; {fix}')
