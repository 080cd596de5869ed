"""Checks that the same question gets the same answer: learner, family and random numbers."""

import random
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map

from metaexp.audit.measures import largest, parameters, relative_difference, state
from metaexp.audit.subject import Subject, predictions, seen
from metaexp.audit.table import Finding, at_most
from metaexp.types import Episode

SPLITS = ("train", "val", "test")
TASKS = 12  # of each split that are drawn in two ways


def _answers(subject: Subject) -> Any:
    """Loss, meta-gradient and predictions on the first few tasks."""
    learner = subject.learner
    found: list[Any] = [predictions(learner, seen(learner, subject.episodes()))]
    if learner.trains:
        found.append(learner.meta_gradient(parameters(learner), subject.batch())[:2])
    return found


def same_bits(subject: Subject) -> Finding:
    """The same episodes twice give the same loss, meta-gradient and predictions, to the bit."""
    return at_most(
        relative_difference(_answers(subject), _answers(subject)), 0,
        "a second call gives another result: it draws random numbers without the task's key, or remembers calls",
    )  # fmt: skip


def global_generators(subject: Subject) -> Finding:
    """Nothing draws from a global generator, whose state no task's key and no resumed run controls: how many do."""
    before = _generators()
    _answers(subject)
    subject.family.sample("train", torch.arange(subject.tasks))
    moved = [name for name, state_before in before.items() if state_before != _generators()[name]]
    return at_most(len(moved), 0, f"draws from the global generator of {' and '.join(moved)}; draw from the task's key")


def _generators() -> dict[str, bytes]:
    _, words, *place = np.random.get_state()  # noqa: NPY002
    numpy = np.asarray(words).tobytes() + repr(place).encode()
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": numpy,
        "random": repr(random.getstate()).encode(),
    }


def weights_stay(subject: Subject) -> Finding:
    """Adapting, predicting and computing a meta-gradient change no weight and no buffer."""
    learner = subject.learner
    before = state(learner)
    with torch.no_grad():
        one = seen(learner, subject.episodes())
        if not learner.reads_info:
            learner.adapt(tree_map(lambda t: t[0], one.support), one.key[0])
    _answers(subject)
    after = state(learner)
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    return at_most(
        relative_difference(after, before) if changed else 0.0,
        0,
        f"changed by adapt, predict or meta_loss: {changed[:3]}",
    )


def task_of_index(subject: Subject) -> Finding:
    """A task is a function of (seed, split, index): drawn again, in another order and in other company it is equal."""
    found, wrong = [], []
    for split in SPLITS:
        size = subject.family.varying(split)
        index = torch.arange(min(TASKS, size.bucket) if size else TASKS)
        sizes = subject.family.common(split, index)
        whole = subject.family.sample(split, index, **sizes)
        for part in (index[-1:], index[1::3].flip(0), index):
            again = subject.family.sample(split, part, **sizes)
            found.append(_apart(tree_map(lambda t, p=part: t[p], whole), again))
            wrong += [split] if found[-1] != 0 else []
    drawn = subject.learner.train_batch(torch.arange(subject.tasks)) if subject.learner.trains else None
    if drawn is not None:
        found.append(_apart(drawn, subject.learner.train_batch(torch.arange(subject.tasks))))
        if len(drawn.key) == subject.tasks:  # one task per index
            last = tree_map(lambda t: t[-1:], drawn)
            found.append(_apart(last, subject.learner.train_batch(torch.tensor([subject.tasks - 1]))))
        wrong += ["train_batch"] if max(found[-2:]) != 0 else []
    return at_most(
        largest(found), 0, f"the same task has other values when it is drawn again: {', '.join(dict.fromkeys(wrong))}"
    )


def _apart(a: Episode, b: Episode) -> float:
    if [t.shape for t in tree_leaves(a)] != [t.shape for t in tree_leaves(b)]:
        return float("inf")
    return relative_difference(a, b)
