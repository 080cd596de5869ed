"""Posterior sampling in tabular MDPs: the posterior's formulas, and what is learned from a trial."""

import pytest
import torch
from torch import Tensor

from metaexp.algos.psrl import PSRL
from metaexp.random import task_keys
from metaexp.tasks.mdp import MDP
from metaexp.tasks.sine import Sine
from metaexp.tasks.world import TimeStep

F64 = torch.float64


def small(noise: float = 0.5, episodes: int = 3) -> MDP:
    world = MDP(states=3, actions=2, horizon=4, episodes=episodes, noise=noise)
    world.to("cpu", F64)
    return world


def step(state: int, action: int, reward: float, first: bool) -> TimeStep:
    one_hot = torch.nn.functional.one_hot(torch.tensor(state), 3).to(F64)
    return TimeStep(one_hot, torch.tensor(action), torch.tensor(reward, dtype=F64), torch.tensor(first))


def test_the_memory_holds_the_moves_and_rewards_that_were_seen() -> None:
    world = small()
    learner = PSRL(world)
    memory = learner.begin(None)
    key = task_keys(0, "test", torch.arange(1))[0]
    # States 0, 2, 1, then another episode from state 0: the state after the last action of the first is not seen.
    for seen in (step(0, 0, 0.0, True), step(2, 1, 1.5, False), step(1, 0, -1.0, False), step(0, 1, 4.0, True)):
        _, memory, _ = learner.act(None, memory, seen, key)
    assert memory.total.view(3, 2).tolist() == [[0.0, 1.5], [0.0, 4.0], [-1.0, 0.0]]
    assert memory.number.view(3, 2).tolist() == [[0, 1], [0, 1], [1, 0]]
    assert memory.moves.tolist() == [(0 * 2 + 1) * 3 + 2, (2 * 2 + 0) * 3 + 1, *[-1] * 10]
    assert (int(memory.step), int(memory.t)) == (4, 1)


def test_the_posterior_is_that_of_the_conjugate_formulas() -> None:
    """Means and variances of 50,000 draws against N(m, v) and Dirichlet(1 + moves), and the means exactly."""
    world = small()
    moves = torch.tensor([0, 0, 1, 5, -1, -1, 17, 17, 17, -1, -1, -1])
    total = torch.tensor([3.0, -1.0, 0.0, 0.0, 0.0, 2.5], dtype=F64)
    count = torch.tensor([3.0, 1.0, 0.0, 0.0, 0.0, 3.0], dtype=F64)
    mean = (1 + total / 0.25) / (1 + count / 0.25)
    variance = 1 / (1 + count / 0.25)
    alpha = torch.ones(18, dtype=F64)
    for move in moves[moves >= 0].tolist():
        alpha[move] += 1
    alpha = alpha.view(3, 2, 3)
    whole = alpha.sum(-1, keepdim=True)
    n = 50_000
    keys = task_keys(0, "test", torch.arange(n))
    expected, transition = PSRL(world, planned="mean").planned_for(moves, total, count, keys[0])
    torch.testing.assert_close(expected.flatten(), mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(transition, alpha / whole, rtol=1e-14, atol=0)
    means, transitions = torch.vmap(lambda k: PSRL.planned_for(PSRL(world), moves, total, count, k))(keys)
    z = (means.view(n, 6) - mean) * variance.rsqrt()
    assert z.mean(0).abs().max() < 4.5 / n**0.5
    assert (z.var(0) - 1).abs().max() < 4.5 * (2 / n) ** 0.5
    p = alpha / whole
    spread = p * (1 - p) / (whole + 1)
    assert ((transitions.mean(0) - p) / (spread / n).sqrt()).abs().max() < 4.5
    torch.testing.assert_close(transitions.var(0), spread, rtol=0.05, atol=0)


def returns(learner: PSRL, tasks: int) -> Tensor:
    episode = learner.family.sample("test", torch.arange(tasks))
    with torch.no_grad():
        made: Tensor = torch.vmap(lambda e: learner.trial(None, e.info, e.key).reward.sum())(episode)
    return made


@pytest.mark.parametrize(("planned", "found", "its"), [("sample", 134.3, 2.1), ("mean", 149.7, 2.0)])
def test_on_the_papers_worlds_it_gets_what_other_code_got(planned: str, found: float, its: float) -> None:
    made = returns(PSRL(MDP(), planned=planned), 150)  # type: ignore[arg-type]
    assert abs(made.mean() - found) < its + 1.96 * made.std() / 150**0.5


def test_other_families_are_refused() -> None:
    with pytest.raises(ValueError, match="Sine gives examples"):
        PSRL(Sine())
