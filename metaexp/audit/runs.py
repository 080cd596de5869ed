"""Checks of training: a resumed run is the straight run, and weights are chosen without the test tasks."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from metaexp.audit.measures import relative_difference
from metaexp.audit.subject import Subject
from metaexp.audit.table import Finding, at_most, not_applicable
from metaexp.audit.trial import STEPS, chosen, outcome, train
from metaexp.random import fold
from metaexp.tasks.base import TaskFamily

MakeParts = Callable[[TaskFamily], Any]  # family -> fresh parts of a small run


def resumes(subject: Subject, make: MakeParts) -> Finding:
    """Stopped after the second of three steps and resumed, a run has the bits of one that was never stopped.

    The learner that is looked at afterwards is the one that was trained.
    """
    if not subject.learner.trains:
        return not_applicable("it trains nothing")
    with tempfile.TemporaryDirectory() as folder:
        straight = make(subject.fresh_family())
        train(straight, Path(folder) / "straight")
        stopped = Path(folder) / "stopped"
        train(make(subject.fresh_family()), stopped, stop_after=STEPS - 1)
        resumed = make(subject.fresh_family())
        train(resumed, stopped, resume=True)
    subject.learner, subject.family = straight.learner, straight.learner.family
    found, wanted = outcome(resumed), outcome(straight)
    missing = set(wanted["slots"]) ^ set(found["slots"])
    apart = float("inf") if missing else relative_difference(found, wanted)
    wrong = [part for part in wanted if (missing and part == "slots") or _differs(found[part], wanted[part])]
    return at_most(apart, 0, f"a resumed run differs from the straight one in its {', '.join(wrong)}: something that "
                   "training changes is in no checkpoint")  # fmt: skip


def _differs(a: Any, b: Any) -> bool:
    try:
        return relative_difference(a, b) != 0
    except (ValueError, RuntimeError):
        return True


def chooses(subject: Subject, make: MakeParts) -> Finding:
    """Training, the choice of the best weights and `finish` do not look at test tasks: how often these are drawn.

    With other test tasks, the weights to be tested are the same; where a run makes its learner, also the initial ones.
    """
    weights, asked = [], []
    with tempfile.TemporaryDirectory() as folder:
        for place, shift in enumerate((0, 1)):
            family = subject.fresh_family()
            count = _watched(family, shift)
            parts = make(family)
            count["test"] = 0  # a run draws one to see whether the tasks fit in the memory
            asked.append(count)
            checkpoints = train(parts, Path(folder) / str(place)) if parts.learner.trains else None
            weights.append(chosen(parts, checkpoints))
    apart = relative_difference(*weights)
    if draws := asked[0]["test"]:
        return at_most(
            draws, 0, "test tasks are drawn before the test: in training, for choosing weights, or in finish"
        )
    return at_most(apart, 0, "with other test tasks, other weights are chosen")


def _watched(family: TaskFamily, shift: int) -> dict[str, int]:
    """Counts how often test tasks are drawn, and gives the family other ones if `shift` is not 0."""
    count = {"test": 0}

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def draw(split: str, *args: Any, **kwargs: Any) -> Any:
            count["test"] += split == "test"
            return function(split, *args, **kwargs)

        return draw

    keys = family.keys

    def shifted(split: str, indices: Tensor) -> Tensor:
        own = keys(split, indices)
        return fold(own, shift) if split == "test" and shift else own

    vars(family).update(sample=counted(family.sample), pool=counted(family.pool), keys=shifted)
    return count
