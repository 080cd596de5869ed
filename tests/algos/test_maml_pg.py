"""MAML for policies: its gradient in expectation, term by term, and what it learns."""

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks
from run_folders import only_run
from stopped_runs import MAML_PG, state, status
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._pytree import tree_leaves

from metaexp.algos.credit import RIDGE
from metaexp.algos.maml_pg import MAMLPG, Attempt
from metaexp.models.mlp import MLP
from metaexp.random import fold
from metaexp.tasks.grid import Grid
from metaexp.tasks.navigation import Navigation
from metaexp.tasks.world import TimeStep, Trajectory, World

ARMS = (0.3, 0.8)  # mean rewards
RATE = 0.7


class TwoArms(World):
    """Two arms with rewards of 0 or 1, or their means."""

    x_shape = (1,)
    actions = 2

    def draw(self, key: Tensor) -> dict[str, Tensor]:
        return {"p": torch.tensor(ARMS, dtype=self.dtype).expand(*key.shape, 2)}

    def reset(self, task: Any, key: Tensor) -> Any:
        one = torch.ones(1, dtype=self.dtype)
        return one, one

    def step(self, task: Any, state: Any, action: Tensor, key: Tensor) -> Any:
        return state, state, task["p"][action], torch.zeros((), dtype=torch.bool)


def learner(horizon: int, **settings: Any) -> MAMLPG:
    torch.manual_seed(3)
    world = TwoArms(horizon).to("cpu", torch.float64)
    settings = {"inner_lr": RATE, "discount": 1.0, "normalise": False} | settings
    return MAMLPG(world, partial(MLP, hidden=()), **settings).double()


def trials(action: Tensor, reward: Tensor) -> Trajectory:
    """[trials, horizon] each."""
    here = torch.ones_like(action, dtype=torch.bool)
    seen = TimeStep(torch.ones(*action.shape, 1, dtype=torch.float64), action, reward, here)
    return Trajectory(seen, action, reward, here, ())


def outcomes(pulls: int, bernoulli: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(actions, rewards [outcomes, pulls], probability of the rewards [outcomes])."""
    one = [(arm, reward) for arm in (0, 1) for reward in ((0.0, 1.0) if bernoulli else (ARMS[arm],))]
    rows = list(product(one, repeat=pulls))
    actions = torch.tensor([[arm for arm, _ in row] for row in rows])
    rewards = torch.tensor([[reward for _, reward in row] for row in rows], dtype=torch.float64)
    chance = torch.tensor(ARMS, dtype=torch.float64)[actions]
    likely = torch.where(rewards == 1, chance, 1 - chance).prod(-1) if bernoulli else torch.ones(len(rows))
    return actions, rewards, likely.double()


def policy(theta: Tensor) -> Tensor:
    """Weights and biases [2, 2] of one constant input -> log-probabilities [2]."""
    return torch.log_softmax(theta.sum(0), -1)


def updated(theta: Tensor, actions: Tensor, rewards: Tensor, baseline: str) -> Tensor:
    """One policy-gradient step in closed form on [trials, horizon]: the gradient of log pi(a) is e_a - pi."""
    gain = rewards.flip(-1).cumsum(-1).flip(-1)
    if baseline == "mean" and len(gain) > 1:
        gain = gain - (gain.sum(0) - gain) / (len(gain) - 1)
    elif baseline == "linear":
        gain = gain - fitted_to_others(gain)
    toward = torch.nn.functional.one_hot(actions, 2) - policy(theta).exp()
    return theta + RATE * (toward * gain[..., None]).sum((0, 1)) / actions.numel()


def fitted_to_others(gain: Tensor) -> Tensor:
    """Ridge regression on the features of a constant observation and the time, [trials, horizon], trial by trial."""
    n, horizon = gain.shape
    t = torch.arange(horizon, dtype=gain.dtype) / horizon
    rows = torch.stack([0 * t + 1, 0 * t + 1, 0 * t + 1, t, t**2, t**3], -1)  # [horizon, 6]
    ridge = RIDGE * max(1.0, n * float((rows**2).sum(0).mean())) * torch.eye(6, dtype=gain.dtype)
    made = []
    for i in range(n):
        others = torch.cat([gain[:i], gain[i + 1 :]])
        w = torch.linalg.solve(ridge + (n - 1) * rows.T @ rows, rows.T @ others.sum(0))
        made.append(rows @ w)
    return torch.stack(made)


def stacked(params: dict[str, Tensor]) -> Tensor:
    return torch.stack([params["model.head.weight"][:, 0], params["model.head.bias"]])


class Case:
    """A bandit whose inner batches and later trials are enumerated, all of them.

    Args:
        inner, outer: (trials, pulls of each).
    """

    def __init__(
        self, inner: tuple[int, int], outer: tuple[int, int], bernoulli: bool, steps: int = 1, **settings: Any
    ):
        self.learner = learner(inner[1], inner_steps=steps, trials=inner[0], outer_trials=outer[0], **settings)
        assert inner[1] == outer[1]
        self.steps, self.batches = steps, self.learner.batches
        before, after = (outcomes(n * pulls, bernoulli) for n, pulls in (inner, outer))
        self.before, self.after = ([t.unflatten(-1, s) for t in o[:2]] for o, s in ((before, inner), (after, outer)))
        one = torch.cartesian_prod(*[torch.arange(len(before[0]))] * steps, torch.arange(len(after[0])))
        each = torch.cartesian_prod(*[torch.arange(len(one))] * self.batches).view(-1, self.batches)
        self.rows = one[each]  # [outcomes, batches, steps + 1]
        self.rewards = before[2][self.rows[..., :-1]].prod(-1) * after[2][self.rows[..., -1]]  # [outcomes, batches]
        self.params = {name: p.detach() for name, p in self.learner.initial().items()}

    def attempt(self, params: dict[str, Tensor], row: Tensor) -> Attempt:
        def collect(_: Any, step: int) -> Trajectory:
            source = self.after if step < 0 else self.before
            return trials(*(t[row[step]] for t in source))

        return self.learner.attempt(params, collect)

    def log_likelihood(self, params: dict[str, Tensor], row: Tensor) -> Tensor:
        """Of the actions of one adaptation, by closed forms."""
        theta, total = stacked(params), torch.zeros((), dtype=torch.float64)
        for step in range(self.steps):
            actions, rewards = (t[row[step]] for t in self.before)
            total = total + policy(theta)[actions].sum()
            theta = updated(theta, actions, rewards, self.learner.baseline)
        return total + policy(theta)[self.after[0][row[-1]]].sum()

    def expected_gradient(self, without_after: bool = False) -> dict[str, Tensor]:
        """The estimator's expectation."""

        def estimate(params: dict[str, Tensor], rows: Tensor) -> Tensor:
            attempts = vmap(lambda row: self.attempt(params, row))(rows)
            if without_after:
                attempts = attempts._replace(after=attempts.after.detach())
            return self.learner.objective(attempts)

        logs = vmap(vmap(self.log_likelihood, (None, 0)), (None, 0))(self.params, self.rows)
        weight = logs.exp().mul(self.rewards).prod(-1)
        assert weight.sum().item() == pytest.approx(1, abs=1e-12)
        each = vmap(grad(estimate), (None, 0))(self.params, self.rows)
        return {name: torch.tensordot(weight, g, 1) for name, g in each.items()}

    def gradient(self) -> dict[str, Tensor]:
        """Autograd's of J, the sum over inner batches of their probability times the mean reward afterwards."""
        chance = torch.tensor(ARMS, dtype=torch.float64)
        every = torch.cartesian_prod(*[torch.arange(len(self.before[0]))] * self.steps).view(-1, self.steps)
        n = self.before[0][0].numel()
        likely = outcomes(n, len(self.before[0]) > 2**n)[2]

        def one(theta: Tensor, row: Tensor) -> Tensor:
            log = likely[row].log().sum()
            for step in range(self.steps):
                actions, rewards = (t[row[step]] for t in self.before)
                log = log + policy(theta)[actions].sum()
                theta = updated(theta, actions, rewards, self.learner.baseline)
            return log.exp() * (policy(theta).exp() * chance).sum() * self.learner.family.horizon

        def total(params: dict[str, Tensor]) -> Tensor:
            return vmap(one, (None, 0))(stacked(params), every).sum()

        return grad(total)(self.params)


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in other)


CASES = {
    "1 pull": ((1, 1), (1, 1), True, {"batches": 1}),
    "2 pulls": ((2, 1), (2, 1), True, {"batches": 1}),
    "3 pulls": ((3, 1), (2, 1), False, {"batches": 2}),
    "4 pulls": ((4, 1), (2, 1), True, {"batches": 1}),
    "4 pulls, twice": ((4, 1), (1, 1), False, {"batches": 2}),
    "2 pulls, twice": ((2, 1), (1, 1), True, {"batches": 2}),
    "2 trials of 2 pulls": ((2, 2), (1, 2), False, {"batches": 2}),
    "2 steps": ((2, 1), (2, 1), False, {"batches": 1, "steps": 2}),
}


@pytest.mark.parametrize("baseline", ["none", "mean", "linear"])
@pytest.mark.parametrize("name", CASES)
def test_expected_gradient(name: str, baseline: str) -> None:
    """Over all inner batches and later trials, it is the gradient of the expected return after the step."""
    inner, outer, bernoulli, settings = CASES[name]
    case = Case(inner, outer, bernoulli, baseline=baseline, **settings)
    right = case.gradient()
    # The ridge regression's matrix of six features, all constant with single pulls, has a condition number of 1e6.
    assert apart(case.expected_gradient(), right) < (1e-11 if baseline == "linear" else 1e-12)
    assert max(float(g.abs().max()) for g in right.values()) > 0.01
    scale = apart(right, {name: 0 * g for name, g in right.items()})
    assert apart(case.expected_gradient(without_after=True), right) > 0.1 * scale
    case.learner.score_before = False
    if baseline == "none" or inner[0] > 1:  # one trial alone, against its own mean, changes nothing
        assert apart(case.expected_gradient(), right) > 1e-3 * scale


def test_first_order() -> None:
    """The term after the update has the gradient of the later log-probabilities at the adapted parameters."""
    case = Case((3, 1), (2, 1), True, baseline="none", batches=1, first_order=True)
    row = torch.tensor([37, 9])

    def collect(_: Any, step: int) -> Trajectory:
        return trials(*(t[row[step]] for t in (case.after if step < 0 else case.before)))

    path, _ = case.learner.descent(case.params, collect, 1, RATE, first_order=False)
    later = collect(None, -1)
    credit = case.learner.credit(later, inner=False)
    right = grad(lambda p: (case.learner.log_prob(p, later) * credit).sum() / 2)(path[1])
    assert apart(grad(lambda p: case.attempt(p, row).after)(case.params), right) < 1e-14
    case.learner.first_order = False
    assert apart(grad(lambda p: case.attempt(p, row).after)(case.params), right) > 1e-3


@pytest.mark.parametrize("family", [Navigation(horizon=6), Grid(size=3, walls=2, horizon=6, episodes=2)])
def test_collected_trials_are_trials(family: World) -> None:
    """What is drawn for all steps at once is what a trial draws step by step, to the last bit."""
    torch.manual_seed(1)
    learner = MAMLPG(family, partial(MLP, hidden=(5,)))
    task = {name: value[0] for name, value in family.draw(torch.tensor([7])).items()}
    params = {name: p.detach() for name, p in learner.initial().items()}
    keys = fold(torch.tensor(9), torch.arange(4))
    together = learner.collect(params, task, torch.tensor(9), 4)
    one_by_one = vmap(lambda key: learner.trial(params, task, key))(keys)
    for a, b in zip(tree_leaves(together), tree_leaves(one_by_one), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(together.action[0], together.action[1])


def test_a_policy_that_becomes_nan(forks: Forks, tmp_path: Path) -> None:
    """Exit code 5 and one line; what is kept are the last finite weights."""
    ended = forks(*MAML_PG, "steps=50", "checkpoint.every=1", "optimizer=sgd", "optimizer.lr=1e30", cwd=tmp_path)
    assert ended.code == 5
    run = only_run(tmp_path)
    assert status(run)[1] == 5
    last = ended.err.strip().splitlines()[-1]
    assert "non-finite" in last
    assert "last finite checkpoint" in last
    assert "Traceback" not in ended.err
    kept = [value for value in state(run)["weights"].values() if value.is_floating_point()]
    assert all(bool(value.isfinite().all()) for value in kept)
    assert max(float(value.abs().max()) for value in kept) > 1e20, "the step before was kept"
