"""All checks of a learner on a family, one after the other."""

from collections.abc import Callable, Collection
from functools import cache, partial
from typing import Any, NamedTuple

import torch

from metaexp.algos.base import MetaLearner
from metaexp.audit import data, gradients, leaks, repeats, runs
from metaexp.audit.subject import Subject
from metaexp.audit.table import Audit, Finding, Row
from metaexp.audit.trial import parts_of, small
from metaexp.config.settings import load
from metaexp.errors import ConfigError, DataError, MetaexpError
from metaexp.tasks.base import TaskFamily


class Check(NamedTuple):
    """One line of the table."""

    name: str
    run: Callable[..., Finding]  # of the subject, and of what makes the parts of a run if it is one of RUNS


WORKS = Check("it learns, adapts and predicts: not finite", gradients.works)
RUNS = {
    "a resumed run is the straight run, 3 steps": runs.resumes,
    "weights are chosen without test tasks": runs.chooses,
}
CHECKS = [
    Check("the meta-gradient is not zero", gradients.reaches),
    Check("meta-gradient and finite differences agree", gradients.differences),
    Check("any mapping of tasks and the loop agree", gradients.against_loop),
    Check("tasks of a meta-batch do not mix", gradients.mixes),
    Check("the same episode twice gives the same bits", repeats.same_bits),
    Check("no draws from global random generators", repeats.global_generators),
    Check("a task depends on seed, split, index alone", repeats.task_of_index),
    *(Check(name, run) for name, run in RUNS.items()),
    Check("adapt and predict leave the weights alone", repeats.weights_stay),
    Check("predictions do not see query targets", leaks.query_targets),
    Check("predictions do not see other queries", leaks.other_queries),
    Check("predictions do not see the order of queries", leaks.query_order),
    Check("predictions do not see info", leaks.info),
    Check("predictions do not see the support's order", leaks.support_order),
    Check("predictions do not see the classes' order", leaks.class_order),
    Check("predictions do see the support targets", leaks.uses_support),
    Check("shuffled support targets tell nothing", leaks.shuffled_targets),
    Check("no training class in validation or test", data.classes_apart),
    Check("no training example in validation or test", data.rows_apart),
    Check("no validation example in test", data.validation_apart),
    Check("a class gets its label anew in every task", data.labels_anew),
]


def audit(
    learner: MetaLearner | Callable[[TaskFamily], MetaLearner],
    family: TaskFamily | None = None,
    *,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    only: Collection[str] | None = None,
    tick: Callable[[Row], None] = lambda row: None,
) -> Audit:
    """Check whether the numbers of a learner on a family can be trusted; changes neither of them.

    Copies are checked in float64 on the CPU: the meta-gradient, repeatability, resuming, leaks of all kinds, and the
    separation of the splits.

    Args:
        learner: a learner, trained or not, or a function that makes one for a family.
        family: small sizes make it fast; None: the learner's own.
        optimizer: makes the outer optimiser of the resumed run from a list of parameters; None: Adam.
        only: names of checks (`CHECKS`); the others are left out. None: all.
        tick: called with every row as soon as it is known.

    Returns:
        The rows; `.ok` says whether all is well, `str` is the table. A learner that is refused, or that cannot learn,
        adapt and predict at all, has one row with the reason.
    """

    def make(subject: Subject, of: TaskFamily) -> Any:
        return parts_of(subject.fresh(of), small(_defaults(), _bucket(of)), optimizer)

    return audit_with(lambda: Subject(learner, family), make, tick, only)


@cache
def _defaults() -> dict[str, Any]:
    return load(["device=cpu"])


def _bucket(family: TaskFamily) -> int | None:
    varying = family.varying("train")
    return varying.bucket if varying else None


def audit_with(
    begin: Callable[[], Subject],
    make: Callable[[Subject, TaskFamily], Any],
    tick: Callable[[Row], None] = lambda row: None,
    only: Collection[str] | None = None,
) -> Audit:
    """As `audit`.

    Args:
        begin: makes what is audited; what it refuses with a ValueError is the only row.
        make: the parts of a small run with a fresh learner on a family.
        tick, only: as for `audit`.
    """
    result = Audit()

    def add(name: str, find: Callable[[], Finding]) -> Row:
        result.rows.append(_row(name, find, begins=name == WORKS.name))
        tick(result.rows[-1])
        return result.rows[-1]

    subjects: list[Subject] = []

    def first() -> Finding:
        subjects.append(begin())
        return WORKS.run(subjects[0])

    if add(WORKS.name, first).number is None:
        return result
    subject = subjects[0]
    for name, run in CHECKS:
        if only is None or name in only:
            add(name, partial(run, subject, partial(make, subject)) if name in RUNS else partial(run, subject))
    return result


def _row(name: str, find: Callable[[], Finding], begins: bool = False) -> Row:
    """The check's row; what it raises becomes a failed row with one line.

    Where it `begins`, a wrong setting or missing data are raised: there is nothing to audit.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            return Row(name, *find())
    except MetaexpError as error:
        if isinstance(error, ConfigError | DataError) and begins:
            raise
        return Row(name, None, "", False, str(error))
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        plain = isinstance(error, ValueError) and text
        return Row(name, None, "", False, text if plain else f"{type(error).__name__}: {text}")
