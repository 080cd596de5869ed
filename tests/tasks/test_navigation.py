"""MAML's point in the plane: its rules, and the best return."""

import math
from typing import Any, Literal

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils._pytree import tree_map

from metaexp.tasks.navigation import Navigation
from metaexp.tasks.world import Trajectory, play


def walk(world: Navigation, goal: list[float], actions: list[list[float]]) -> list[tuple[list[float], float, bool]]:
    """(position, reward, done) of every step."""
    task = {"goal": torch.tensor(goal, dtype=world.dtype)}
    key = torch.tensor(0)
    state, seen = world.reset(task, key)
    assert seen.tolist() == [0, 0]
    rows = []
    for action in actions:
        state, seen, reward, done = world.step(task, state, torch.tensor(action, dtype=world.dtype), key)
        rows.append((seen.tolist(), float(reward), bool(done)))
    return rows


def informed(world: Navigation, tasks: int) -> tuple[dict[str, Tensor], Trajectory]:
    """The trials of one who knows the goals."""
    keys = world.keys("test", torch.arange(tasks))
    task = world.draw(keys)

    def one(goal: dict[str, Tensor], key: Tensor) -> Trajectory:
        plan, memory = world.plan(goal)
        return play(
            world, goal, key, lambda m, seen, _: (*world.informed(goal, plan, m, seen, torch.tensor(0)), ()), memory
        )

    return task, torch.vmap(one)(task, keys)


def test_rules() -> None:
    """Velocities are clipped along each axis; the reward is minus the distance after the step."""
    world = Navigation().to("cpu", torch.float64)
    rows = walk(world, [0.3, -0.4], [[0.5, -7.0], [9.0, -1.0], [1.5, -1.0]])
    assert rows[0][0] == pytest.approx([0.05, -0.1])
    assert rows[0][1] == pytest.approx(-math.hypot(0.25, 0.3))
    assert rows[2][0] == pytest.approx([0.25, -0.3])
    assert not any(done for *_, done in rows)


@pytest.mark.parametrize(("away", "done"), [((0.009, 0.0099), True), ((0.0101, 0.0), False), ((0.0, -0.0101), False)])
def test_end(away: tuple[float, float], done: bool) -> None:
    """An episode ends where both coordinates are within 0.01."""
    rows = walk(Navigation().to("cpu", torch.float64), [0.1 - away[0], 0.1 - away[1]], [[1.0, 1.0]])
    assert rows[0][2] is done


def test_rewards() -> None:
    """Squared distances; and 1 inside the radius, without an end."""
    squared = walk(Navigation("squared").to("cpu", torch.float64), [0.3, 0.4], [[0.0, 0.0]])
    assert squared[0][1] == pytest.approx(-0.25)
    sparse = walk(Navigation("sparse", radius=0.25).to("cpu", torch.float64), [0.3, 0.0], [[0.4, 0], [0.2, 0], [2, 0]])
    assert [row[1:] for row in sparse] == [(0.0, False), (1.0, False), (1.0, False)]


@pytest.mark.parametrize("reward", ["dense", "squared", "sparse"])
def test_best(reward: Literal["dense", "squared", "sparse"]) -> None:
    """Who knows the goal gets `best`, in two episodes twice that of one."""
    world = Navigation(reward, episodes=2, horizon=20).to("cpu", torch.float64)
    task, trial = informed(world, 300)
    best = torch.vmap(world.best)(task)
    assert torch.allclose(trial.reward.sum(-1), best, atol=1e-12, rtol=0)
    if reward == "sparse":
        assert 30 < best.mean() < 40
    else:
        arrival = trial.alive[:, :20].sum(-1)
        worst = task["goal"].abs().amax(-1)
        assert torch.equal(arrival, torch.ceil((worst - 0.01) / 0.1).clamp(min=1).to(torch.int64))
        # The distances of the first step, by hand.
        left = (task["goal"].abs() - 0.1).clamp(min=0)
        first = left.norm(dim=-1) if reward == "dense" else (left**2).sum(-1)
        assert torch.allclose(-trial.reward[:, 0], first, atol=1e-12)


def test_best_is_above_everybody() -> None:
    """No random walk, however it is, gets more than `best`."""
    world = Navigation("squared", horizon=8).to("cpu", torch.float64)
    keys = world.keys("test", torch.arange(2000))
    task = world.draw(keys)
    directed = task["goal"] / task["goal"].norm(dim=-1, keepdim=True)

    def one(goal: dict[str, Tensor], key: Tensor, toward: Tensor) -> Tensor:
        def act(memory: Tensor, seen: object, k: Tensor) -> tuple[Tensor, Tensor, tuple[()]]:
            return toward + 0.3 * torch.sin(k.double() + torch.arange(2)), memory, ()

        return play(world, goal, key, act, torch.zeros(())).reward.sum()

    got = torch.vmap(one)(task, keys, directed)
    assert (got <= torch.vmap(world.best)(task) + 1e-12).all()


def test_goals() -> None:
    """Uniform in the square: mean 0, variance of 1/12 along each axis, uncorrelated."""
    goal = Navigation().draw(torch.arange(40000))["goal"]
    assert goal.abs().max() < 0.5
    assert goal.mean(0).abs().max() < 4 * math.sqrt(1 / 12 / 40000)
    assert torch.allclose(torch.cov(goal.T), torch.eye(2) / 12, atol=0.002)


def test_sketch() -> None:
    """The way of each episode starts at the origin and ends, after its last step, at the goal."""
    world = Navigation(episodes=2, horizon=30).to("cpu", torch.float64)
    task, trials = informed(world, 1)
    axes: Any = Figure().subplots()
    world.sketch(axes, {"goal": task["goal"][0]}, tree_map(lambda t: t[0], trials))
    steps = int(trials.alive[0, :30].sum())
    ways = [line for line in axes.lines if len(line.get_xdata()) == steps + 1]
    assert len(ways) == 2
    for way in ways:
        x, y = way.get_data()
        assert (float(x[0]), float(y[0])) == (0, 0)
        assert torch.allclose(torch.tensor([x[-1], y[-1]], dtype=torch.float64), task["goal"][0], atol=0.01)
