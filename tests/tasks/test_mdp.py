"""Random tabular MDPs: draws, value iteration against enumeration, returns against exact expectations."""

from itertools import product

import torch
from torch import Tensor

from metaexp.random import dirichlet, task_keys
from metaexp.tasks.mdp import MDP
from metaexp.tasks.world import play

F64 = torch.float64


def evaluated(policy: Tensor, mean: Tensor, transition: Tensor) -> Tensor:
    """The expected return [] of an episode from state 0: policy [horizon, states, actions], probabilities."""
    where = torch.eye(len(mean), dtype=F64)[0]
    total = torch.zeros((), dtype=F64)
    for row in policy.unbind(0):
        both = where[:, None] * row  # [states, actions]
        total = total + (both * mean).sum()
        where = torch.einsum("sa,sat->t", both, transition)
    return total


def test_value_iteration_finds_the_best_of_all_policies() -> None:
    world = MDP(states=3, actions=2, horizon=3).to("cpu", F64)
    assert isinstance(world, MDP)
    task = world.draw(task_keys(0, "test", torch.arange(6)))
    policies = torch.tensor(list(product(range(2), repeat=9))).view(-1, 3, 3)  # [2^9, horizon, states]
    probabilities = torch.nn.functional.one_hot(policies, 2).to(F64)
    found, value = world.solve(task["mean"], task["transition"])
    for i in range(6):
        mean, transition = task["mean"][i], task["transition"][i]
        values = torch.vmap(lambda p, m=mean, q=transition: evaluated(p, m, q))(probabilities)
        torch.testing.assert_close(value[i, 0], values.max(), rtol=0, atol=1e-12)
        own = torch.nn.functional.one_hot(found[i], 2).to(F64)
        torch.testing.assert_close(evaluated(own, mean, transition), values.max(), rtol=0, atol=1e-12)


def test_value_iteration_of_one_task_is_a_row_of_the_batch() -> None:
    world = MDP().to("cpu", F64)
    task = world.draw(task_keys(0, "val", torch.arange(5)))
    policy, value = world.solve(task["mean"], task["transition"])
    one, its = torch.vmap(lambda t: world.solve(t["mean"], t["transition"]))(task)
    assert torch.equal(policy, one)
    torch.testing.assert_close(value, its, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.vmap(world.best)(task), 10 * value[:, 0], rtol=0, atol=1e-12)


def test_simulated_returns_have_the_exact_expectation() -> None:
    """20,000 trials in ONE MDP, of a random policy and of the best one, whose expectations are known."""
    world = MDP(states=4, actions=3, horizon=5, episodes=2).to("cpu", F64)
    task = {name: value[0] for name, value in world.draw(task_keys(3, "test", torch.arange(1))).items()}
    n = 20_000
    keys = task_keys(1, "train", torch.arange(n))
    plan, _ = world.plan(task)

    def uniform_policy(memory: Tensor, seen: object, key: Tensor) -> tuple[Tensor, Tensor, tuple[()]]:
        return (torch.remainder(key, 3)), memory, ()

    def best_policy(t: Tensor, seen: object, key: Tensor) -> tuple[Tensor, Tensor, tuple[()]]:
        return world.informed(task, plan, (), seen, t % 5)[0], t + 1, ()  # type: ignore[arg-type]

    uniform = torch.full((5, 4, 3), 1 / 3, dtype=F64)
    expected = {"uniform": 2 * evaluated(uniform, task["mean"], task["transition"]), "best": world.best(task)}
    for name, act in (("uniform", uniform_policy), ("best", best_policy)):
        start = torch.zeros((), dtype=torch.int64)
        returns = torch.vmap(lambda k, act=act, start=start: play(world, task, k, act, start).reward.sum())(keys)
        assert abs(returns.mean() - expected[name]) < 4 * returns.std() / n**0.5, name


def test_tasks_are_drawn_as_the_paper_says() -> None:
    world = MDP().to("cpu", F64)
    task = world.draw(task_keys(0, "test", torch.arange(2000)))
    mean, transition = task["mean"], task["transition"]
    assert mean.shape == (2000, 10, 5)
    assert abs(mean.mean() - 1) < 4 / mean.numel() ** 0.5
    assert abs(mean.std() - 1) < 4 / (2 * mean.numel()) ** 0.5
    torch.testing.assert_close(transition.sum(-1), torch.ones(2000, 10, 5, dtype=F64))
    # One coordinate of Dirichlet(1, ..., 1) of 10 is Beta(1, 9): mean 1/10, variance 9/1100.
    p = transition[..., 0].flatten()
    assert abs(p.mean() - 0.1) < 4 * (9 / 1100 / len(p)) ** 0.5
    assert abs(p.var() / (9 / 1100) - 1) < 0.03


def test_dirichlet_draws_are_uniform_on_the_simplex() -> None:
    """Of three coordinates the largest is above x with probability 3 (1 - x)^2 where x is at least 1/2."""
    n = 100_000
    drawn = dirichlet(task_keys(5, "test", torch.arange(n)), 0, (3,), dtype=F64)
    for x in (0.5, 0.7, 0.9):
        p = 3 * (1 - x) ** 2
        assert abs((drawn.max(-1).values > x).double().mean() - p) < 4 * (p * (1 - p) / n) ** 0.5


def test_worlds_of_the_paper_are_worth_what_others_found() -> None:
    """About 99.3 +- 1.6 at random and 219.3 +- 2.0 for one who knows the MDP, found by other code on 600 MDPs."""
    world = MDP().to("cpu", F64)
    task = world.draw(task_keys(0, "test", torch.arange(4000)))
    best = torch.vmap(world.best)(task)
    assert abs(best.mean() - 219.3) < 2.0 + 1.96 * best.std() / 4000**0.5
    uniform = torch.full((10, 10, 5), 1 / 5, dtype=F64)
    random = torch.vmap(lambda t: 10 * evaluated(uniform, t["mean"], t["transition"]))(task)
    assert abs(random.mean() - 99.3) < 1.6 + 1.96 * random.std() / 4000**0.5
