"""Every world and every learner that acts in worlds makes two outer steps and fulfils its contract.

A new file in conf/algo or conf/task for worlds needs a row here.
"""

import atexit
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import numpy as np
import pytest
import torch

from metaexp.config.settings import Settings
from metaexp.contract import check_actor, check_world
from metaexp.evaluation.scores import evaluate
from metaexp.outer.loaders import Span
from metaexp.training.build import Experiment

# Settings that make each choice small.
ACTORS: dict[str, list[str]] = {
    "random": [],
    "informed": [],
    "nominal": [],
    "psrl": [],
    "dpt": ["algo.width=8", "algo.layers=2", "meta_batch=4"],
    "rl2": ["algo.hidden=4", "algo.epochs=2", "algo.minibatches=2", "meta_batch=4"],
    "maml_pg": ["algo.trials=3", "algo.outer_trials=2", "algo.test_steps=2"],
    "greedy": [],
    "epsilon_greedy": [],
    "ucb1": [],
    "thompson": [],
    "gittins": [],
    "optimal": [],
}
WORLDS: dict[str, list[str]] = {
    "bandit": ["task.arms=3", "task.pulls=4"],
    "mdp": ["task.states=3", "task.actions=2", "task.horizon=3", "task.episodes=2"],
    "navigation": ["task.horizon=5", "task.episodes=2"],
    "pendulum": ["task.horizon=5"],
    "driving": ["task.horizon=5"],
    "grid": ["task.size=3", "task.walls=2", "task.horizon=5", "task.episodes=2"],
    "gymnasium": ["experiment=small_envs"],
}
SMALL = ["meta_batch=2", "compile=false", "device=cpu", "device.threads=1"]


OWN_ENVIRONMENTS = """# @package _global_
task: {make: {_target_: small_envs.reach, _partial_: true}, horizon: 4, episodes: 2}
"""


@cache
def settings() -> Settings:
    folder = Path(mkdtemp())  # a user's own groups
    (folder / "experiment").mkdir()
    (folder / "experiment" / "small_envs.yaml").write_text(OWN_ENVIRONMENTS)
    try:
        return Settings([], str(folder))
    finally:
        atexit.register(rmtree, folder, ignore_errors=True)


def fits(algo: str, task: str) -> bool:
    needs = settings().composer.content(f"algo/{algo}").get("needs") or {}
    gives = settings().composer.content(f"task/{task}")["gives"]
    wanted = {name: value if isinstance(value, list) else [value] for name, value in needs.items()}
    return all(name not in gives or gives[name] in values for name, values in wanted.items())


PAIRS = [(algo, task) for algo in ACTORS for task in WORLDS if fits(algo, task)]


def made(algo: str, task: str) -> Experiment:
    threads = torch.get_num_threads()
    try:
        return Experiment(settings().load([*SMALL, f"algo={algo}", f"task={task}", *ACTORS[algo], *WORLDS[task]]))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("pair", PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_a_pair_takes_two_outer_steps(pair: tuple[str, str]) -> None:
    parts = made(*pair)
    learner = parts.learner
    if learner.trains:
        before = {name: p.detach().clone() for name, p in learner.meta_parameters().items()}
        assert parts.training.run(Span(0, 2)) == 2
        assert int(learner.meta_step) == 2
        after = learner.meta_parameters()
        assert all(bool(p.isfinite().all()) for p in after.values())
        assert any(not torch.equal(after[name], value) for name, value in before.items())
    for values in evaluate(learner, "val", 3, ["queries"]).arrays.values():
        assert values.shape == (3, learner.test_steps + 1)
        assert np.isfinite(values).all()


@pytest.mark.parametrize("world", WORLDS)
def test_world(world: str) -> None:
    check_world(made("random", world).learner.family)


@pytest.mark.parametrize("pair", PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_actor(pair: tuple[str, str]) -> None:
    check_actor(made(*pair).learner)
