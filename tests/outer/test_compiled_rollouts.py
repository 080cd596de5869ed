"""Compiled trials and updates against the eager ones; own worlds; what cannot be compiled."""

import shutil
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from metaexp.algos.rl2 import RL2
from metaexp.errors import NonFiniteError
from metaexp.models.identity import Identity
from metaexp.models.mlp import MLP
from metaexp.outer.clip import Clip
from metaexp.outer.compiled_rollouts import CompiledPlay
from metaexp.outer.compiler import _traced, decide_compile
from metaexp.outer.meta_training import MetaTraining
from metaexp.outer.outer_step import FiniteCheck
from metaexp.outer.rollout_step import RolloutStep
from metaexp.random import normal, uniform
from metaexp.tasks.bandit import Bandit
from metaexp.tasks.grid import Grid
from metaexp.tasks.world import State, Task, World

F64 = torch.float64
compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: no g++")


class Walk(World):
    """Continuous actions, episodes that end early, and a state with a part that no step changes."""

    x_shape, action_dim = (2,), 2

    def draw(self, key: Tensor) -> Task:
        return {"goal": normal(key, 0, (2,), dtype=self.dtype)}

    def reset(self, task: Task, key: Tensor) -> tuple[State, Tensor]:
        start = normal(key, 0, (2,), dtype=self.dtype)
        return {"place": start, "start": start}, start

    def step(self, task: Task, state: State, action: Tensor, key: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        place = state["place"] + action.clamp(-1, 1)
        done = uniform(key, 0, (), dtype=self.dtype) < 0.25
        reward = -((place - task["goal"]) ** 2).sum() + state["start"].sum()
        return {"place": place, "start": state["start"]}, place, reward, done


def parts(world: World, model: Any = Identity, dtype: torch.dtype = F64, **settings: Any) -> Any:
    torch.manual_seed(0)
    own = {"hidden": 5, "epochs": 2, "minibatches": 2} | settings
    learner = RL2(world.to("cpu", dtype), model, **own).to(dtype)
    with torch.no_grad():
        for p in learner.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return learner, torch.optim.Adam(learner.parameters(), lr=0.01)


def stepped(learner: RL2, optimizer: Any, compile: bool, steps: int, tasks: int = 7) -> RolloutStep:
    step = RolloutStep(learner, optimizer, Clip(norm=0.3), FiniteCheck(), tasks)
    if compile:
        assert step.compile(0) is None
        assert isinstance(step.play, CompiledPlay)
    for index in range(steps):
        step(index)
    return step


def traced(function: Any, *example: Any, one_thread: bool = False) -> Any:
    """`compiled` without the compiler: the traced graph."""
    leaves, form = tree_flatten(example)
    result: list[Any] = []

    def flat(*tensors: Tensor) -> list[Tensor]:
        made, tree = tree_flatten(function(*tree_unflatten(list(tensors), form)))
        result[:] = [tree]
        return made

    with torch.no_grad():
        graph = _traced(flat, leaves)

    def run_flat(*given: Tensor) -> list[Tensor]:
        assert [t.stride() for t in given] == [t.stride() for t in leaves]  # what a compiled graph takes for granted
        with torch.no_grad():
            return list(graph(*given))

    def run(*args: Any) -> Any:
        return tree_unflatten(run_flat(*tree_flatten(args)[0]), result[0])

    run.flat = run_flat  # type: ignore[attr-defined]
    return run


def agree(world: Any, model: Any, tasks: int, **settings: Any) -> RolloutStep:
    """Three outer steps, compiled and not, in float64: weights, logs, and trials afterwards. Returns the compiled."""
    pairs = [(*parts(world(), model, **settings), compile) for compile in (False, True)]
    steps = [stepped(*pair, 3, tasks) for pair in pairs]
    for a, b in zip(*(learner.state_dict().values() for learner, *_ in pairs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    torch.testing.assert_close(steps[0].sums, steps[1].sums, rtol=1e-9, atol=1e-10)
    with torch.no_grad():
        episode = steps[0].draw(5)
        eager = pairs[1][0].played(episode)
        made = steps[1].play(episode)
    assert {leaf.shape[:2] for leaf in tree_leaves(made)} == {(tasks, pairs[0][0].family.steps)}
    for a, b in zip(tree_leaves(eager), tree_leaves(made), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    return steps[1]


@pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=[compiler, pytest.mark.tier("long")])], ids=["traced", "compiled"]
)
def test_compiled_outer_steps_are_the_eager_ones_and_are_undone(whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that begins as what is seen; and a loss that is not finite in the fourth outer step. Also with the graphs
    as they are traced, run operation by operation."""
    if not whole:
        monkeypatch.setattr("metaexp.outer.compiled_rollouts.compiled", traced)
    step = agree(lambda: Walk(3, 2), partial(MLP, hidden=[4]), 8, keep="episode", values="pace")
    learner = step.learner
    with torch.no_grad():
        learner.value.bias.fill_(torch.nan)
    before = tree_map(torch.clone, dict(learner.state_dict()))
    with pytest.raises(NonFiniteError, match="at outer step 4 "):
        step(3)
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name]) or name == "value.bias", name


@compiler
@pytest.mark.tier("long")
@pytest.mark.parametrize("keep", ["trial", "step"])
def test_compiled_outer_steps_are_the_eager_ones_with_minibatches_of_two_sizes(keep: str) -> None:
    agree(lambda: Grid(size=3, walls=2, horizon=4, episodes=2), Identity, 7, minibatches=3, keep=keep)


@compiler
@pytest.mark.tier("long")
def test_in_float32_the_draws_are_the_same_and_a_second_compilation_has_the_same_bits() -> None:
    made = [parts(Bandit(3, 4), dtype=torch.float32, hidden=16) for _ in range(2)]
    both = [stepped(*pair, True, 2) for pair in made]
    assert all(torch.equal(a, b) for a, b in zip(*(tree_leaves(one.state_dict()) for one, _ in made), strict=True))
    learner = made[0][0]
    with torch.no_grad():
        episode = both[0].draw(9)
        eager, found = learner.played(episode), both[0].play(episode)
    assert torch.equal(eager.action, found.action)
    assert torch.equal(eager.reward, found.reward)
    torch.testing.assert_close(eager.more, found.more, rtol=0, atol=1e-6)


def test_what_cannot_be_compiled_is_said_and_the_rest_is_right(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A world of Python: trials are eager. No compiler at all: everything is."""
    learner, optimizer = parts(Walk(3, 2))
    step = Walk.step
    learner.family.compiles = False
    with pytest.raises(ValueError, match="its steps are Python"):
        CompiledPlay(learner, learner.train_batch(torch.arange(4)))
    learner.family.compiles = True
    learner.mapping = 2
    with pytest.raises(ValueError, match="mapping=2: tasks are not played all at once"):
        CompiledPlay(learner, learner.train_batch(torch.arange(4)))
    learner.mapping = "vmap"
    with monkeypatch.context() as patch:
        patch.setattr("metaexp.outer.compiled_rollouts.compiled", traced)
        patch.setattr(Walk, "step", lambda *given: (dict(step(*given)[0], more=given[3]), *step(*given)[1:]))
        with pytest.raises(ValueError, match="after a step, shapes or types are not those at the beginning"):
            CompiledPlay(learner, learner.train_batch(torch.arange(4)))

    def broken(*args: Any, **settings: Any) -> Any:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr("metaexp.outer.compiled_rollouts.compiled", broken)
    training = MetaTraining(learner, optimizer, meta_batch=6, compiled=True, clip_norm=0.3)
    assert training.compiled
    with caplog.at_level("INFO"):
        training.step(0)
    assert (training.compiled, training.compile_reason) == (False, "no compiler")
    assert "compile: not possible here (no compiler); going on without" in caplog.text
    other, adam = parts(Walk(3, 2))
    RolloutStep(other, adam, Clip(norm=0.3), FiniteCheck(), 6)(0)
    assert all(torch.equal(a, b) for a, b in zip(learner.parameters(), other.parameters(), strict=True))


def test_when_a_learner_that_collects_is_compiled_by_itself() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [decide_compile("auto", n, "vmap", cpu, collects=True) for n in (299, 300)] == [False, True]
    assert not decide_compile("auto", 10**6, "vmap", gpu, collects=True)
    assert decide_compile(True, 1, "vmap", gpu, collects=True)
