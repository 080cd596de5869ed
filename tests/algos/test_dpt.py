"""DPT: its contexts and labels, the same tokens at test, and predictions that become the posterior."""

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from metaexp.algos.dpt import DPT
from metaexp.random import task_keys
from metaexp.tasks.bandit import Bandit
from metaexp.tasks.mdp import MDP
from metaexp.tasks.navigation import Navigation
from metaexp.tasks.world import TimeStep

F64 = torch.float64


def test_labels_are_the_optimal_actions_and_tokens_the_transitions() -> None:
    world = MDP(3, 2, 4, 2).to("cpu", F64)
    learner = DPT(world, width=8, layers=1, behaviour="uniform")
    batch = learner.train_batch(torch.arange(30))
    task = world.draw(batch.key)
    plan, _ = world.solve(task["mean"], task["transition"])
    before, action, state, reward, first, over = batch.query.x.split((3, 2, 3, 1, 1, 1), -1)
    assert batch.query.x.shape == (30, 8, 11)
    assert first[0, :, 0].tolist() == [1, 0, 0, 0, 1, 0, 0, 0]
    assert over[0, :, 0].tolist() == [0, 0.25, 0.5, 0.75] * 2
    assert torch.equal(before[:, 1:], state[:, :-1])
    assert (before[:, 0] == 0).all()
    assert (action[:, 0] == 0).all()
    assert (action[:, 1:].sum(-1) == 1).all()
    assert (reward[:, 0] == 0).all()
    for t in range(8):
        best = plan[:, t % 4].gather(1, state[:, t].argmax(-1, keepdim=True))[:, 0]
        assert torch.equal(batch.query.y[:, t].argmax(-1), best)


def test_acting_reads_the_same_tokens_as_training() -> None:
    """The context of a task, fed to `act` step by step, gives the predictions of the whole sequence."""
    torch.manual_seed(0)
    world = MDP(3, 2, 4, 2).to("cpu", F64)
    learner = DPT(world, width=8, heads=2, layers=2).to(F64)
    tokens = learner.train_batch(torch.arange(1)).query.x[0]
    expected = learner.answer(learner.transformer(learner.embed(tokens)))
    outs: list[Tensor] = []
    learner.answer.register_forward_hook(lambda module, args, out: outs.append(out))
    memory = learner.begin(None)
    _, action, state, reward, first, _ = tokens.split((3, 2, 3, 1, 1, 1), -1)
    for t in range(8):
        seen = TimeStep(state[t], action[t].argmax(), reward[t, 0], first[t, 0] == 1)
        _, memory, _ = learner.act(None, memory, seen, torch.tensor(t))
    torch.testing.assert_close(torch.stack(outs), expected, rtol=0, atol=1e-12)


def test_mixed_behaviour_prefers_an_action_in_some_tasks() -> None:
    """Its most frequent action has a mean probability of E max of the mixture, far above that of uniform actions."""
    learner = DPT(Bandit(arms=4, pulls=10), width=8, layers=1)
    chances = torch.softmax(torch.vmap(learner.chances)(task_keys(0, "train", torch.arange(20_000))), -1)
    torch.testing.assert_close(chances.sum(-1), torch.ones(20_000))
    torch.testing.assert_close(chances.mean(0), torch.full((4,), 0.25), rtol=0, atol=0.01)
    favoured = (chances.max(-1).values > 0.999).double().mean()
    assert abs(favoured - 1 / 11) < 0.01  # the share of the favourite is 1 in one of 11 cases


def test_predictions_become_the_posterior() -> None:
    """Two coins, two pulls: the predicted probability that the second is better, against the exact posterior."""
    torch.manual_seed(0)
    learner = DPT(Bandit(arms=2, pulls=3), width=16, heads=2, layers=2, behaviour="uniform")
    steps, batch = 350, 256
    contexts = learner.train_batch(torch.arange(steps * batch))
    optimizer = torch.optim.Adam(learner.parameters())
    for index in range(steps):
        optimizer.param_groups[0]["lr"] = 0.003 * (1 - index / steps)
        optimizer.zero_grad()
        rows = slice(batch * index, batch * (index + 1))
        learner(tree_map(lambda t, rows=rows: t[rows], contexts))[0].backward()
        optimizer.step()
    said: list[Tensor] = []
    learner.answer.register_forward_hook(lambda module, args, out: said.append(out.detach()))
    posterior = {(): 1 / 2, ((0, 1),): 1 / 3, ((0, 0),): 2 / 3, ((0, 1), (0, 1)): 1 / 4, ((0, 1), (1, 0)): 1 / 6,
                 ((1, 1), (1, 1)): 3 / 4, ((0, 1), (0, 0)): 1 / 2}  # fmt: skip
    for pulls, right in posterior.items():
        memory, action, reward = learner.begin(None), 0, 0
        for t, (arm, gain) in enumerate([*pulls, (0, 0)]):
            seen = TimeStep(torch.zeros(1), torch.tensor(action), torch.tensor(float(reward)), torch.tensor(t == 0))
            _, memory, _ = learner.act(None, memory, seen, torch.tensor(t))
            action, reward = arm, gain
        assert float(torch.softmax(said[-1], -1)[1]) == pytest.approx(right, abs=0.08), pulls


def test_worlds_without_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="Navigation has action vectors"):
        DPT(Navigation())
