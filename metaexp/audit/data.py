"""Checks of the tasks themselves: what training has seen is not in validation or test."""

import hashlib
import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from metaexp.audit.subject import Subject
from metaexp.audit.table import Finding, at_most, not_applicable
from metaexp.evaluation.scores import chunks
from metaexp.tasks.arrays import Arrays
from metaexp.tasks.classes import Classes

TASKS = 100  # of each split that are drawn and compared
LABELS = 30  # fewest examples that must come up in two tasks


def classes_apart(subject: Subject) -> Finding:
    """No training class (or, of data with a column of tasks, no training task) is in validation or test."""
    found = {split: _classes(subject, split) for split in ("train", "val", "test")}
    if any(numbers is None for numbers in found.values()):
        return not_applicable("the tasks of this family have no numbered classes (info['classes'])")
    shared = (found["val"] | found["test"]) & found["train"]  # type: ignore[operator]
    some = ", ".join(map(str, sorted(shared)[:5]))
    return at_most(len(shared), 0, f"training classes that are also in validation or test: {some} ...")


def _classes(subject: Subject, split: str) -> set[int] | None:
    """The numbers of a split's classes: of all that the family lists, and of those in the first tasks."""
    family, found = subject.family, set()
    members = getattr(family, "splits", None)
    listed = isinstance(members, dict) and split in members
    if listed:
        found |= {int(number) for number in members[split]}  # type: ignore[index]
    name = "task" if isinstance(family, Arrays) else "classes"
    drawn = [episode.info[name] for episode in _episodes(family, split) if name in episode.info]
    found |= {int(number) for numbers in drawn for number in numbers.flatten()}
    return found if listed or drawn else None


def rows_apart(subject: Subject) -> Finding:
    """No training example is in validation or test, by content."""
    train = _rows(subject.family, "train")
    other = {split: _rows(subject.family, split) & train for split in ("val", "test")}
    count = len(other["val"] | other["test"])
    where = " and ".join(split for split, shared in other.items() if shared)
    return at_most(count, 0, f"examples of training that are also in {where}, equal to the byte")


def validation_apart(subject: Subject) -> Finding:
    """No validation example is in test: weights and rates are chosen on validation tasks."""
    members = getattr(subject.family, "splits", {})
    if isinstance(members, dict) and _same(members.get("val"), members.get("test")):
        return not_applicable("the data have one split for both, as the family warns: weights are chosen on test tasks")
    count = len(_rows(subject.family, "val") & _rows(subject.family, "test"))
    return at_most(count, 0, "validation examples that are also in test, equal to the byte")


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)


def labels_anew(subject: Subject) -> Finding:
    """A class gets another label in another task: the share of repeated examples whose label is the same."""
    family = subject.family
    if not family.classification:
        return not_applicable("there are no classes")
    labels: dict[bytes, list[int]] = {}
    for episode in _episodes(family, "train"):
        for x, y in zip(*(t.flatten(0, 1) for t in episode.support), strict=True):
            labels.setdefault(_digest(x), []).append(int(y.argmax()))
    pairs = [a == b for found in labels.values() for a, b in pairwise(found)]
    if len(pairs) < LABELS:
        return not_applicable(f"no example comes up again in the first {TASKS} tasks")
    chance = 1 / int(family.sizes["train"]["ways"] or 1)
    return at_most(
        sum(pairs) / len(pairs), chance + 5 * math.sqrt(chance * (1 - chance) / len(pairs)),
        f"share of {len(pairs)} repeated examples with the label that they had before: the input alone tells the "
        "label, and nothing need be learned from a support set",
    )  # fmt: skip


def _episodes(family: Any, split: str) -> Iterable[Any]:
    return (family.sample(split, indices) for indices in chunks(family, split, TASKS, 50))


def _rows(family: Any, split: str) -> set[bytes]:
    """Digests of the examples of a split: of the whole table where there is one, and of the first tasks.

    An example is its input where there are classes, whose labels are drawn anew, else input and target.
    """
    if isinstance(family, Classes):
        starts, counts = family.starts.tolist(), family.counts.tolist()
        found = {
            _digest(x.to(family.dtype) / 255 if x.dtype == torch.uint8 else x.to(family.dtype))
            for c in family.splits[split].tolist()
            for x in family.data[starts[c] : starts[c] + counts[c]]
        }
    elif isinstance(family, Arrays):
        place = family.rows[split]
        found = {_digest(x, y) for x, y in zip(family.x[place], family.y[place], strict=True)}
    else:
        found = set()
    for episode in _episodes(family, split):
        for part in (episode.support, episode.query):
            x, y = (t.flatten(0, 1) for t in part)
            found |= {_digest(a) if family.classification else _digest(a, b) for a, b in zip(x, y, strict=True)}
    return found


def _digest(*values: Tensor) -> bytes:
    made = hashlib.blake2b(digest_size=16)
    for value in values:
        made.update(value.contiguous().numpy().tobytes())
    return made.digest()
