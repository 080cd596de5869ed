"""The grid worlds: their rules on a drawn map, that each can be solved, and the best return by breadth-first search."""

from collections import deque
from itertools import pairwise, permutations
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from metaexp.tasks.grid import Grid
from metaexp.tasks.world import Trajectory, play

MAP = """
S.#
.#G
K..
"""


def task_of(text: str) -> dict[str, Tensor]:
    cells = "".join(text.split())
    where = {kind: [i for i, c in enumerate(cells) if c == kind] for kind in "SKG"}
    wall = torch.tensor([c == "#" for c in cells])
    start, goal = (torch.tensor(where[kind][0]) for kind in "SG")
    return {"start": start, "goal": goal, "keys": torch.tensor(where["K"]), "wall": wall}


def walk(world: Grid, task: dict[str, Tensor], moves: str) -> list[tuple[int, list[bool], float, bool]]:
    """(cell, keys held, reward, done) after each of the moves u, d, l, r."""
    key = torch.tensor(0)
    state, _ = world.reset(task, key)
    rows = []
    for move in moves:
        state, _, reward, done = world.step(task, state, torch.tensor("udlr".index(move)), key)
        rows.append((int(state[0]), state[1].tolist(), round(float(reward), 6), bool(done)))
    return rows


def grid(**settings: Any) -> Grid:
    return Grid(**settings).to("cpu", torch.float64)


def test_rules() -> None:
    """Walls and the border hold; a key counts once; the goal opens with the key alone."""
    world = grid(size=3, walls=2)
    rows = walk(world, task_of(MAP), "ulrrddldudrru")
    assert [row[0] for row in rows] == [0, 0, 1, 1, 1, 1, 0, 3, 0, 3, 3, 3, 0]
    rows = walk(world, task_of(MAP), "ddudrru")
    assert [row[0] for row in rows] == [3, 6, 3, 6, 7, 8, 5]
    assert [row[2] for row in rows] == [-0.02, 0.18, -0.02, -0.02, -0.02, -0.02, 0.98]
    assert [row[3] for row in rows] == [False] * 6 + [True]
    locked = walk(world, task_of(MAP.replace("K", ".").replace("S.", "SK")), "ddrruurl")
    assert [row[3] for row in locked] == [False] * 8  # over the goal without the key


def test_positions() -> None:
    """One-hot cell, then keys."""
    world = grid(size=3, walls=2)
    task = task_of(MAP)
    state, seen = world.reset(task, torch.tensor(0))
    assert seen.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    for _ in range(2):
        state, seen, _, _ = world.step(task, state, torch.tensor(1), torch.tensor(0))
    assert seen.tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0, 1]


def test_local_view() -> None:
    """Walls with the border, keys that still lie there, and the goal, as 3 x 3 windows."""
    world = grid(size=3, walls=2, view="local")
    task = task_of(MAP)
    state, seen = world.reset(task, torch.tensor(0))
    state, seen, _, _ = world.step(task, state, torch.tensor(1), torch.tensor(0))  # to the left of the middle
    wall, keys, goal = seen[:27].view(3, 3, 3)
    assert wall.tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 0]]
    assert keys.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert not goal.any()
    state, seen, _, _ = world.step(task, state, torch.tensor(1), torch.tensor(0))
    assert not seen[9:18].any()
    assert seen[27] == 1
    _, seen, _, _ = world.step(task, state, torch.tensor(3), torch.tensor(0))
    assert seen[18:27].view(3, 3).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def distances(size: int, wall: list[bool], start: int) -> dict[int, int]:
    """Moves from one cell to all that can be reached, by breadth-first search."""
    found, waiting = {start: 0}, deque([start])
    while waiting:
        cell = waiting.popleft()
        row, column = divmod(cell, size)
        for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            there = r * size + c
            if 0 <= r < size and 0 <= c < size and not wall[there] and there not in found:
                found[there] = found[cell] + 1
                waiting.append(there)
    return found


def shortest(size: int, task: dict[str, Tensor]) -> int:
    """Moves of the shortest solution, over all orders of the keys."""
    wall, goal, keys = task["wall"].tolist(), int(task["goal"]), task["keys"].tolist()
    lengths = []
    for order in permutations(keys):
        stops = [int(task["start"]), *order, goal]
        lengths.append(sum(distances(size, wall, a)[b] for a, b in pairwise(stops)))
    return min(lengths)


@pytest.mark.parametrize(
    "settings",
    [{}, {"keys": 0, "walls": 20}, {"keys": 2, "size": 6, "walls": 30, "view": "local"}, {"keys": 1, "size": 3}],
)
def test_every_task_can_be_solved(settings: dict[str, Any]) -> None:
    """`best` is what breadth-first search over all orders of the keys finds, and `informed` gets it."""
    world = grid(horizon=40, episodes=2, **settings)
    keys = world.keys("test", torch.arange(60))
    task = world.draw(keys)
    best = torch.vmap(world.best)(task)

    def one(hidden: dict[str, Tensor], key: Tensor) -> Trajectory:
        plan, _ = world.plan(hidden)

        def act(t: Tensor, seen: Any, _: Tensor) -> tuple[Tensor, Tensor, tuple[()]]:
            t = torch.where(seen.first, 0, t)
            return world.informed(hidden, plan, (), seen, t)[0], t + 1, ()

        return play(world, hidden, key, act, torch.zeros((), dtype=torch.int64))

    got = torch.vmap(one)(task, keys).reward.sum(-1)
    assert torch.allclose(got, best, atol=1e-12, rtol=0)
    for i in range(60):
        hidden = {name: value[i] for name, value in task.items()}
        n = shortest(world.side, hidden)
        right = 2 * (1 + 0.2 * len(hidden["keys"]) - 0.02 * n)
        assert float(best[i]) == pytest.approx(right, abs=1e-12)


def test_sketch() -> None:
    """Every episode's way is drawn through the cells that it went through, beside the others."""
    world = grid(size=3, walls=2, horizon=8, episodes=2)
    task = task_of(MAP)
    moves = iter([1, 1, 3, 3, 0, 0, 0, 0, 3, 3, 1, 1, 2, 1, 3, 3])  # ddrru, then idle; r, a wall, ...

    def act(memory: Any, seen: Any, key: Tensor) -> tuple[Tensor, Any, Any]:
        return torch.tensor(next(moves)), (), ()

    axes: Any = Figure().subplots()
    world.sketch(axes, task, play(world, task, torch.tensor(0), act, ()))
    ways = [line for line in axes.lines if len(line.get_xdata()) > 2]
    found = [[3 * round(y) + round(x) for x, y in zip(*way.get_data(), strict=True)] for way in ways]
    assert found == [[0, 3, 6, 7, 8, 5], [0, 1, 1, 1, 1, 0, 3, 3, 3]]
    assert ways[0].get_alpha() < ways[1].get_alpha()
    assert len(axes.patches) == 2  # walls


def test_short_horizon() -> None:
    """Where the goal is too far, picking the key up is all that can be had."""
    world = grid(size=3, walls=2, horizon=4, episodes=1)
    assert float(world.best(task_of(MAP))) == pytest.approx(0.2 - 4 * 0.02)


def test_tasks_differ() -> None:
    """Start, key and goal are three cells, uniform; walls are never on them."""
    world = grid(walls=25)
    task = world.draw(torch.arange(20000))
    stops = torch.cat([task["start"][:, None], task["keys"], task["goal"][:, None]], 1)
    assert (stops.sort(-1).values.diff(dim=-1) > 0).all()
    assert not task["wall"].gather(1, stops).any()
    for column in stops.T:
        counts = torch.bincount(column, minlength=25).double()
        assert ((counts - 800) ** 2 / 800).sum() < 60  # chi-square of 24 degrees of freedom


@pytest.mark.parametrize(
    ("settings", "said"), [({"size": 2, "keys": 3}, "size=2"), ({"keys": 5}, "keys=5"), ({"walls": 26}, "walls=26")]
)
def test_refused(settings: dict[str, Any], said: str) -> None:
    """What does not fit says so."""
    with pytest.raises(ValueError, match=said):
        Grid(**settings)
