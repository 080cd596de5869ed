"""Which form the outer step takes: one compiled graph, a compiled meta-gradient, eager operations, or rollouts."""

import logging
from typing import Any

from metaexp.mapping import piece_size
from metaexp.models.norms import prepare
from metaexp.outer.compiled_gradient import compile_pieces
from metaexp.outer.compiled_step import CompiledStep
from metaexp.outer.compiler import reason
from metaexp.outer.eager_step import EagerStep, first_task
from metaexp.outer.optimisers import flatten
from metaexp.outer.outer_step import OuterStep
from metaexp.outer.rollout_step import RolloutStep

log = logging.getLogger(__name__)


def choose_step(training: Any, index: int) -> OuterStep:
    """The compiled step if it is wanted and possible, otherwise the eager one; rollouts for a learner that collects.

    Any failure of the compiler is reported, and training continues with the eager step, which is just as correct;
    `training.compiled` is False then.

    Args:
        training: a `MetaTraining`, whose learner is on its device.
        index: number of the next outer step.
    """
    if hasattr(training.learner, "update_gradient"):
        return _rollouts(training, index)
    if not training.compiled:
        return _eager(training)
    log.info("compiling the outer step (once; 10-60 s, a few seconds when the compiler's cache is warm) ...")
    learner = training.learner
    prepare(learner.model, native=False)  # elementary operations are fused by the compiler
    try:
        return _compiled(training, index)
    except Exception as error:
        log.debug("compile failed", exc_info=True)
        _without(training, reason(error))
    finally:  # validation and test run uncompiled
        learner.set_mapping(learner.mapping, learner.family.device)
    return _eager(training)


def _without(training: Any, why: str) -> None:
    log.info(f"compile: not possible here ({why}); going on without")
    training.compiled, training.compile_reason = False, why


def _rollouts(t: Any, index: int) -> RolloutStep:
    """Trials and updates, compiled where that is wanted and possible."""
    step = RolloutStep(t.learner, t.optimizer, t.clip, t.finite, t.meta_batch)
    if not t.compiled:
        return step
    if t.learner.family.device.type != "cpu":
        _without(t, "trials are compiled on a CPU only")
        return step
    log.info("compiling a step of the trials and an update (once; 20-60 s, a few seconds from the cache) ...")
    prepare(t.learner.model, native=False)
    try:
        refused = step.compile(index)
    except Exception as error:
        log.debug("compile failed", exc_info=True)
        _without(t, reason(error))
        return RolloutStep(t.learner, t.optimizer, t.clip, t.finite, t.meta_batch)
    finally:
        t.learner.set_mapping(t.learner.mapping, t.learner.family.device)
    if refused:
        t.compile_reason = refused
        log.info(f"compile: updates only, not the trials ({refused})")
    return step


def _eager(t: Any) -> EagerStep:
    return EagerStep(t.learner, t.optimizer, t.clip, t.finite, t.meta_batch, t.accumulate, t.rank, t.world)


def _compiled(t: Any, index: int) -> OuterStep:
    """One graph for the whole step if all tasks are mapped at once, else one for the meta-gradient of a piece."""
    learner, params = t.learner, t.learner.meta_parameters()
    share = t.meta_batch // t.world
    size = piece_size(learner.mapping, share)
    cycles = getattr(t.schedule, "cycle_momentum", False)  # in the graph everything but the rate is constant
    if size == share and t.world == t.accumulate == 1 and not cycles:
        flat = flatten(t.optimizer, params)
        if flat is not None:
            first = first_task(t, index, 0) // share
            made = CompiledStep(learner, t.optimizer, flat, params, t.meta_batch, t.clip, t.finite, first)
            t.optimizer._opt_called = True  # otherwise torch's schedules warn
            return made
    step = _eager(t)
    step.gradient = compile_pieces(
        lambda p, b, piece: learner.meta_gradient(p, piece, b),
        params,
        dict(learner.named_buffers()),
        step.draw(index, 0),
        size if share % size == 0 else share,
    )
    return step
