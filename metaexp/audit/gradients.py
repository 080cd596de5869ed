"""Checks of the meta-gradient, in float64."""

import time

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from metaexp.audit.measures import finite_differences, largest, parameters, relative_difference, tasks_of
from metaexp.audit.subject import Subject, predictions, seen
from metaexp.audit.table import Finding, above, at_most, not_applicable

DIRECTIONS = 4
STEPS = (1e-5, 1e-6, 1e-4, 1e-7)
FINITE_DIFFERENCES = 1e-4  # of a wrong gradient the error is that of a second derivative, 1e-2 and more
ROUNDING = 1e-9
SECONDS = 5.0  # for a mean over tasks


def works(subject: Subject) -> Finding:
    """The learner learns, adapts and predicts: the number of results that are not finite.

    Tried before everything else: a learner that raises here is not looked at further.
    """
    subject.settle()
    try:
        found = _results(subject)
    except Exception as error:
        if subject.refused is None:
            raise
        raise ValueError(subject.refused) from error
    count = sum(int((~value.isfinite()).sum()) for value in found)
    return at_most(count, 0, "the loss, the meta-gradient or a prediction is inf or NaN on the first few tasks")


def _results(subject: Subject) -> list[Tensor]:
    """Loss, meta-gradient and predictions; the time that these take decides how many tasks are looked at later."""
    learner, found = subject.learner, []
    if learner.trains:
        gradient, loss, _ = learner.meta_gradient(parameters(learner), subject.batch())
        found += [loss, *gradient.values()]
    started = time.monotonic()
    found += predictions(learner, seen(learner, subject.episodes())).values()
    subject.many = max(40, min(subject.many, int(SECONDS * subject.tasks / (time.monotonic() - started))))
    return found


def differences(subject: Subject) -> Finding:
    """The meta-gradient is the derivative of the meta-loss, along random directions."""
    learner = subject.learner
    if not learner.trains:
        return not_applicable("it trains nothing")
    if not learner.exact_gradient:
        return not_applicable("it says that its meta-gradient is an approximation (exact_gradient)")
    learner, draw = subject.fresh(), torch.Generator().manual_seed(1)
    with torch.no_grad():  # away from the kinks at which networks are made: zero biases, channels that are constant
        for p in learner.meta_parameters().values():
            p.add_(0.02 * torch.randn(p.shape, generator=draw, dtype=p.dtype) * (p.abs().mean() + 0.1))
    error = finite_differences(learner, subject.batch(), DIRECTIONS, STEPS)
    return at_most(
        error, FINITE_DIFFERENCES,
        "the meta-gradient is not the derivative of the meta-loss: something is detached, first-order, or has a wrong "
        "second derivative; a method that means it so says exact_gradient = False",
    )  # fmt: skip


def against_loop(subject: Subject) -> Finding:
    """Loss and meta-gradient do not depend on how tasks are mapped: the learner's mapping against the loop.

    A mapping that the learner itself refuses fails in any case; one that it has replaced is named.
    """
    learner = subject.learner
    found = _against_loop(subject) if learner.trains else not_applicable("it trains nothing")
    if subject.refused is not None:
        failed = found if found.ok is False else Finding(None, "", False)  # wrong elsewhere: in predictions
        return failed._replace(reason=subject.refused)
    if found.ok and learner.mapping == "loop" and learner.mapping_reason:
        return found._replace(reason=f"mapping=auto takes the loop over tasks: {learner.mapping_reason}")
    return found


def _against_loop(subject: Subject) -> Finding:
    learner = subject.learner
    batch, start = subject.batch(), parameters(learner)
    mapped = learner.meta_gradient(start, batch)[:2]
    own = learner.mapping
    learner.set_mapping("loop", "cpu", tried=True)
    try:
        looped = learner.meta_gradient(start, batch)[:2]
    finally:
        subject.place(learner)
    return at_most(
        relative_difference(mapped, looped), ROUNDING, f"mapping={own} and the loop over tasks give different numbers"
    )


def reaches(subject: Subject) -> Finding:
    """The meta-gradient is not 0; names parameters that it does not reach."""
    learner = subject.learner
    if not learner.trains:
        return not_applicable("it trains nothing")
    gradient = learner.meta_gradient(parameters(learner), subject.batch())[0]
    norm = float(torch.cat([g.flatten() for g in gradient.values()]).norm())
    return above(norm, 0, "nothing is connected to what is learned")


def mixes(subject: Subject) -> Finding:
    """What a task contributes and gets does not depend on the tasks beside it.

    If meta-gradients are means over tasks, exchanging tasks between two meta-batches leaves their sum as it is.
    """
    learner, n = subject.learner, subject.tasks
    if n < 2:
        return not_applicable("the sizes of the tasks allow one task at a time only")
    found = []
    if learner.trains:
        start = parameters(learner)
        first, second = subject.batch(), subject.batch(n)
        if len(first.key) == n and first.support.x.shape == second.support.x.shape:
            both = tree_map(lambda a, b: torch.cat((a, b)), first, second)
            ways = []
            for order in (range(2 * n), [0, *range(n + 1, 2 * n), n, *range(1, n)]):
                halves = [tasks_of(both, list(order)[:n]), tasks_of(both, list(order)[n:])]
                parts = [learner.meta_gradient(start, half)[:2] for half in halves]
                ways.append(tree_map(torch.add, *parts))
            found.append(relative_difference(*ways))
    test = seen(learner, subject.episodes())
    whole = predictions(learner, test)
    turned = predictions(learner, tasks_of(test, [0, *reversed(range(1, n))]))
    alone = [predictions(learner, tasks_of(test, [i])) for i in range(n)]
    found.append(relative_difference(whole, {name: torch.cat([part[name] for part in alone]) for name in whole}))
    found.append(relative_difference(whole, {k: v[[0, *reversed(range(1, n))]] for k, v in turned.items()}))
    return at_most(largest(found), ROUNDING, "the result of a task depends on the other tasks of its meta-batch")
