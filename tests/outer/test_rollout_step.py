"""Several updates for each meta-batch of trials, against the same written out, and its faults."""

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

from metaexp.algos.rl2 import RL2
from metaexp.errors import NonFiniteError
from metaexp.models.identity import Identity
from metaexp.outer.clip import Clip
from metaexp.outer.meta_training import MetaTraining
from metaexp.outer.outer_step import FiniteCheck, as_step
from metaexp.outer.rollout_step import ORDER, RolloutStep
from metaexp.random import fold, permutation
from metaexp.tasks.mdp import MDP

F64 = torch.float64


def parts(**settings: Any) -> tuple[RL2, torch.optim.Adam]:
    torch.manual_seed(0)
    learner = RL2(MDP(2, 2, 3, 2).to("cpu", F64), Identity, hidden=5, epochs=2, minibatches=3, **settings).to(F64)
    return learner, torch.optim.Adam(learner.parameters(), lr=0.01)


def state(learner: RL2, optimizer: torch.optim.Adam) -> list[torch.Tensor]:
    slots = [slot for p in learner.parameters() for slot in optimizer.state.get(p, {}).values()]
    return [t.detach().clone() for t in (*learner.state_dict().values(), *slots)]


def test_an_outer_step_is_epochs_of_minibatches_of_tasks() -> None:
    """Two outer steps of 7 tasks against plain autograd, torch's clipping and torch's Adam."""
    learner, optimizer = parts()
    step = RolloutStep(learner, optimizer, Clip(norm=0.3), FiniteCheck(), 7)
    other, adam = parts()
    losses = []
    for index in range(2):
        step(index)
        with torch.no_grad():
            trials, seen = other.collect(other.train_batch(torch.arange(7 * index, 7 * index + 7)))
        key = fold(trials.key[0], ORDER)
        updates: list[float] = []
        for epoch in range(2):
            order = permutation(key, epoch, 7).tolist()
            assert sorted(order) == list(range(7))
            for rows in (order[:3], order[3:5], order[5:]):  # as equal as 7 tasks allow
                adam.zero_grad()
                loss = torch.stack(
                    [other.update_loss(tree_map(lambda t, row=row: t[row], trials))[0] for row in rows]
                ).mean()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(other.parameters(), 0.3)
                adam.step()
                updates.append(float(loss.detach()))
        losses.append(sum(updates) / 6)
        told = as_step(step.last, step.form)
        assert float(told.loss) == pytest.approx(losses[-1], abs=1e-12)
        assert float(told.logs["return"]) == pytest.approx(float(seen["return"]), abs=1e-12)
        for a, b in zip(learner.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert int(learner.meta_step) == step.count == 2
    assert float(as_step(step.sums, step.form).loss) == pytest.approx(sum(losses), abs=1e-12)


def spoil(learner: RL2, update: int) -> None:
    """From update number `update` on (from 1), the gradient is NaN."""
    original, calls = learner.update_gradient, [0]

    def spoiled(*args: Any) -> Any:
        calls[0] += 1
        grads, loss, logs = original(*args)
        return ({n: g * torch.nan for n, g in grads.items()} if calls[0] >= update else grads), loss, logs

    learner.update_gradient = spoiled  # type: ignore[method-assign]


@pytest.mark.parametrize("update", [1, 3, 9])  # at once, in the middle of the first outer step, of the second
def test_a_gradient_that_is_not_finite_undoes_its_outer_step(update: int) -> None:
    learner, optimizer = parts()
    spoil(learner, update)
    step = RolloutStep(learner, optimizer, Clip(), FiniteCheck(), 6)
    if update > 6:
        step(0)
    done = int(learner.meta_step)
    before = state(learner, optimizer)
    with pytest.raises(NonFiniteError, match=f"meta-gradient norm nan at outer step {done + 1} "):
        step(done)
    after = state(learner, optimizer)
    assert len(before) == len(after)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_skipped_step_changes_the_clock_alone() -> None:
    learner, optimizer = parts()
    spoil(learner, 2)
    finite = FiniteCheck(limit=1)
    step = RolloutStep(learner, optimizer, Clip(), finite, 6)
    before = state(learner, optimizer)
    step(0)
    after = state(learner, optimizer)
    assert (finite.skipped, step.count, int(learner.meta_step)) == (1, 0, 1)
    assert len(before) == len(after)
    for (name, _), a, b in zip(learner.state_dict().items(), before, after, strict=False):
        assert torch.equal(a, b) == (name != "meta_step"), name


def test_what_several_updates_cannot_do_is_refused() -> None:
    learner, optimizer = parts()
    for settings, message in (
        ({"accumulate": 2}, "accumulate=2: RL2 makes several updates for each meta-batch; set a larger meta_batch"),
        ({"world": 2, "meta_batch": 4}, "device: RL2 makes several updates for each meta-batch, in one process"),
        ({"meta_batch": 2}, "meta_batch=2: fewer tasks than algo.minibatches=3"),
    ):
        with pytest.raises(ValueError, match=message):
            MetaTraining(learner, optimizer, **{"meta_batch": 6, **settings})
    training = MetaTraining(learner, optimizer, meta_batch=6)
    training.step(0)
    assert isinstance(training._step, RolloutStep)
