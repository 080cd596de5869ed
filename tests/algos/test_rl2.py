"""RL^2: what it is told, its advantages, PPO's loss, and the fast form of the update against the definition."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from metaexp.algos.rl2 import RL2, Trials
from metaexp.algos.rollouts import RolloutLearner
from metaexp.models.identity import Identity
from metaexp.models.mlp import MLP
from metaexp.outer.clip import Clip
from metaexp.outer.outer_step import FiniteCheck
from metaexp.outer.rollout_step import RolloutStep
from metaexp.random import normal, uniform
from metaexp.tasks.bandit import Bandit
from metaexp.tasks.mdp import MDP
from metaexp.tasks.world import State, Task, TimeStep, World

F64 = torch.float64


class Walk(World):
    """A continuous world whose episodes may end early: a step of an action vector, and the end with probability 1/4."""

    x_shape, action_dim = (2,), 2

    def draw(self, key: Tensor) -> Task:
        return {"goal": normal(key, 0, (2,), dtype=self.dtype)}

    def reset(self, task: Task, key: Tensor) -> tuple[State, Tensor]:
        start = torch.zeros(2, dtype=self.dtype)
        return start, start

    def step(self, task: Task, state: Tensor, action: Tensor, key: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        state = state + action.clamp(-1, 1)
        done = uniform(key, 0, (), dtype=self.dtype) < 0.25
        return state, state, -((state - task["goal"]) ** 2).sum(), done


def learner(world: World, model: Any = Identity, **settings: Any) -> RL2:
    torch.manual_seed(0)
    made = RL2(world.to("cpu", F64), model, hidden=6, **settings).to(F64)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return made


def worlds() -> list[tuple[World, Any]]:
    return [(MDP(3, 2, 4, 2), Identity), (Walk(5, 2), partial(MLP, hidden=[4]))]


def collected(made: RL2, tasks: int = 6) -> tuple[Trials, dict[str, Tensor]]:
    with torch.no_grad():
        return made.collect(made.train_batch(torch.arange(tasks))._replace(info={}))


@pytest.mark.parametrize(
    ("place", "keep", "values"),
    [(0, "trial", "total"), (1, "trial", "pace"), (0, "episode", "pace"), (1, "step", "total")],
)
def test_the_update_of_a_batch_is_the_mean_over_tasks_of_the_definition(place: int, keep: Any, values: Any) -> None:
    """Also after the weights have moved, where the clipping of ratios matters."""
    world, model = worlds()[place]
    made = learner(world, model, keep=keep, values=values)
    trials, _ = collected(made)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.4 * torch.randn_like(p))
    params = {name: p.detach() for name, p in made.meta_parameters().items()}
    fast, slow = (f(made, params, trials, {}) for f in (RL2.update_gradient, RolloutLearner.update_gradient))
    assert fast[2]["clipped"] > 0
    assert set(fast[0]) == set(slow[0]) == set(params)
    for a, b in zip(tree_leaves(fast), tree_leaves(slow), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_what_the_policy_is_told() -> None:
    made = learner(MDP(3, 2, 4, 2))
    seen = TimeStep(torch.tensor([0.0, 1.0, 0.0]), torch.tensor(1), torch.tensor(0.5), torch.tensor(True))
    assert made.inputs(seen).tolist() == [0, 1, 0, 0, 1, 0.5, 1]
    trials, _ = collected(made)
    first = trials.seen.first[0]
    assert first.tolist() == [True, False, False, False, True, False, False, False]
    assert torch.equal(trials.seen.action[:, 1:], trials.action[:, :-1])  # over the border of episodes, too
    assert trials.seen.reward[:, 4].abs().min() > 0


@pytest.mark.parametrize(("keep", "reaches"), [("trial", 10), ("episode", 5), ("step", 1)])
def test_how_far_back_an_action_depends_on_what_was_seen(keep: Any, reaches: int) -> None:
    """By gradients of the last value (of an episode of 5, the second of a trial) to the observations of the trial."""
    made = learner(Walk(5, 2), partial(MLP, hidden=[4]), keep=keep)
    trials, _ = collected(made, 1)
    trial = tree_map(lambda t: t[0], trials)
    seen = trial.seen.observation.detach().requires_grad_()
    memory = made.begin(None)
    for t in range(10):
        step = TimeStep(seen[t], *(part[t] for part in trial.seen[1:]))
        _, memory, (_, value) = made.act(None, memory, step, torch.tensor(t))
    (gradient,) = torch.autograd.grad(value, seen)
    told = gradient.abs().sum(1) > 0
    assert not told[: 10 - reaches].any()
    assert told[10 - reaches :].all()
    if keep == "step":
        other = TimeStep(seen[9], trial.seen.action[9] + 1, trial.seen.reward[9] + 1, trial.seen.first[9])
        assert torch.equal(made.act(None, memory, other, torch.tensor(9))[2][1], value)


def test_advantages_are_the_sums_of_the_paper_and_pass_over_idle_steps() -> None:
    """Equation 16 of Schulman et al. 2016 over the steps that are not idle, as if the others were not there."""
    made = learner(Walk(5, 2), partial(MLP, hidden=[4]), discount=0.9, smoothing=0.7)
    gen = torch.Generator().manual_seed(0)
    reward, value = (torch.randn(20, 10, dtype=F64, generator=gen) for _ in range(2))
    alive = torch.rand(20, 10, generator=gen) < 0.7
    found = made.advantages(reward, value, alive)
    assert (found[~alive] == 0).all()
    for i in range(20):
        r, v = reward[i, alive[i]], value[i, alive[i]]
        after = torch.cat((v[1:], v.new_zeros(1)))
        errors = r + 0.9 * after - v
        n = len(r)
        expected = [sum((0.9 * 0.7) ** (s - t) * errors[s] for s in range(t, n)) for t in range(n)]
        torch.testing.assert_close(found[i, alive[i]], torch.stack([torch.as_tensor(e) for e in expected]))


def test_collected_advantages_are_standardised_over_the_steps_that_count() -> None:
    made = learner(*worlds()[1])
    trials, seen = collected(made, 50)
    counted = trials.weight > 0
    assert 0 < counted.double().mean() < 1
    kept = trials.advantage[counted]
    torch.testing.assert_close(kept.mean(), torch.zeros((), dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(kept.var(correction=0), torch.ones((), dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(trials.weight.sum(1).mean(), torch.ones((), dtype=F64))
    assert seen["explained"] < 1


def test_before_any_update_the_gradient_is_the_policy_gradient() -> None:
    """Ratios are 1, so that the loss's gradient is that of -A log p, the entropy and the critic's error."""
    made = learner(MDP(3, 2, 4, 2), entropy=0.3, critic=0.7)
    trials, _ = collected(made)
    params = {name: p.detach() for name, p in made.meta_parameters().items()}
    grads, _, logs = made.update_gradient(params, trials, {})
    expected = torch.zeros((), dtype=F64)
    for i in range(6):
        memory = made.begin(None)
        for t in range(8):
            seen = tree_map(lambda leaf, i=i, t=t: leaf[i, t], trials.seen)
            memory = made.memory(made.inputs(seen), memory)
            chosen = torch.distributions.Categorical(logits=made.policy(memory))
            log_p, value = chosen.log_prob(trials.action[i, t]), made.value(memory)[0]
            error = (value - trials.target[i, t]) ** 2 / trials.unit[i]
            expected = expected - trials.advantage[i, t] * log_p - 0.3 * chosen.entropy() + 0.7 * error
    own = torch.autograd.grad(expected / 48, list(made.meta_parameters().values()))
    for a, b in zip(grads.values(), own, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert abs(logs["kl"]) < 1e-12
    assert logs["clipped"] == 0


def test_a_critic_of_the_pace_is_multiplied_by_the_steps_that_are_left() -> None:
    """With a critic that says the mean reward of every step whatever happens, its values are right about the time."""
    made = learner(MDP(3, 2, 4, 2), discount=0.9, smoothing=1.0, values="pace")
    with torch.no_grad():
        made.value.weight.zero_()
        made.value.bias.fill_(1.0)
    trials, _ = collected(made, 50)
    value = torch.tensor([sum(0.9**i for i in range(8 - t)) for t in range(8)], dtype=F64)
    torch.testing.assert_close(made.left(trials.target), value)
    # lambda = 1: what the critic should have said is the discounted sum of the rewards that came
    reward = torch.cat((trials.seen.reward[:, 1:], torch.zeros(50, 1, dtype=F64)), 1)
    sums = torch.stack([sum(0.9 ** (s - t) * reward[:, s] for s in range(t, 8)) for t in range(8)], 1)
    last = (trials.target - sums) / 0.9 ** (7 - torch.arange(8, dtype=F64))  # the last reward, which nothing shows
    torch.testing.assert_close(last, last[:, :1].expand(-1, 8))
    # and the loss compares means per step
    params = {name: p.detach() for name, p in made.meta_parameters().items()}
    logs = made.update_gradient(params, trials, {})[2]
    expected = ((1 - trials.target / value) ** 2).mean() / trials.unit[0]
    torch.testing.assert_close(logs["critic_error"], expected)


@pytest.mark.parametrize("values", ["total", "pace"])
def test_the_expected_update_is_the_gradient_of_the_expected_return(values: Any) -> None:
    """All trials of a bandit with two coins and three pulls, each with its probability: the policy's part of the loss,
    with lambda = 1, has the gradient of the expected return, whatever the critic says."""
    pays = torch.tensor([0.3, 0.8], dtype=F64)
    made = learner(Bandit(2, 3), entropy=0.0, critic=0.0, discount=1.0, smoothing=1.0, values=values)
    cases = torch.cartesian_prod(*[torch.arange(2)] * 6)
    action, won = cases[:, :3], cases[:, 3:].to(F64)
    start = torch.zeros(len(cases), 1, dtype=F64)
    first = torch.tensor([True, False, False]).expand(len(cases), 3)
    past = torch.cat((start.long(), action[:, :-1]), 1)
    seen = TimeStep(torch.zeros(len(cases), 3, 1, dtype=F64), past, torch.cat((start, won[:, :-1]), 1), first)
    inputs = made.inputs(tree_map(lambda t: t.transpose(0, 1), seen))
    memories = made.memory.sequence(inputs, torch.zeros(len(cases), 6, dtype=F64)).transpose(0, 1)
    log_p = torch.log_softmax(made.policy(memories), -1).gather(-1, action[..., None])[..., 0]
    luck = torch.where(won > 0, pays[action], 1 - pays[action]).prod(1)
    chance = luck * log_p.sum(1).exp()
    torch.testing.assert_close(chance.sum(), torch.ones((), dtype=F64))
    own = [p for name, p in made.named_parameters() if not name.startswith("value.")]
    expected = torch.autograd.grad((chance * won.sum(1)).sum(), own, retain_graph=True)
    told = made.value(memories)[..., 0].detach()
    advantage = made.advantages(won, told * made.left(told), torch.ones_like(won, dtype=torch.bool))
    one = torch.ones(len(cases), dtype=F64)
    trials = Trials(one, seen, action, log_p.detach(), advantage, advantage, torch.ones_like(won), one)
    loss, _ = made.objective(memories, trials)
    found = torch.autograd.grad((-chance.detach() * loss).sum(), own)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)
    assert max(g.abs().max() for g in found) > 0.01


def test_it_learns_which_arm_pays() -> None:
    """One state, two actions that pay N(1, 1) means without much noise: from 1 per step towards the larger mean."""
    torch.manual_seed(0)
    world = MDP(states=1, actions=2, horizon=6, episodes=1, noise=0.1)
    made = RL2(world, Identity, hidden=16, discount=1.0, epochs=3, minibatches=2)
    step = RolloutStep(made, torch.optim.Adam(made.parameters(), lr=0.02), Clip(norm=1.0), FiniteCheck(), 300)
    for index in range(60):
        step(index)
    episode = world.sample("val", torch.arange(3000))
    made_, best = (
        torch.vmap(lambda e: made.trial(None, e.info, e.key).reward.sum())(episode).mean(),
        torch.vmap(world.best)(episode.info).mean(),
    )
    assert best == pytest.approx(6 * (1 + 0.5642), abs=0.3)  # the mean of the larger of two N(1, 1)
    assert made_ > 6 + 0.7 * (best - 6), (made_, best)
