"""Driving: the same path as on the plane, the planner's delay, leaving the lane."""

import math

import torch
from torch.func import vmap

from metaexp.algos.informed import Informed
from metaexp.algos.nominal import Nominal
from metaexp.algos.random import Random
from metaexp.evaluation.scores import evaluate
from metaexp.tasks.driving import BEND_UNIT, Driving
from metaexp.tasks.motion.bicycle import Bicycle
from metaexp.tasks.world import TimeStep


def world(**settings):
    return Driving(**settings).to("cpu", torch.float64)


def test_in_a_circular_lane_the_path_is_that_on_the_plane():
    """A lane of constant bend: the offset is the distance from the circle of the exact arcs of the bicycle."""
    family, system = world(), Bicycle()
    task = {name: value[2] for name, value in family.draw(torch.arange(5)).items()}
    bend = 0.02
    task |= {"height": torch.tensor([bend, 0.0, 0.0]).double(), "rate": torch.zeros(3).double()}
    task |= {"phase": torch.full((3,), math.pi / 2).double()}
    state = torch.tensor([0.0, 0.3, -0.05, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    plane = torch.tensor([0.0, 0.3, -0.05, family.speed, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    draw = torch.Generator().manual_seed(0)
    for _ in range(40):
        action = torch.rand(1, generator=draw, dtype=torch.float64) * 2 - 1
        state = family.step(task, state, action, torch.tensor(0))[0]
        plane = system.step(task, plane, action)
        radius = (plane[:2] - torch.tensor([0.0, 1 / bend])).norm()
        assert abs(float(1 / bend - radius - state[1])) < 1e-5
        angle = math.atan2(float(plane[0]), 1 / bend - float(plane[1]))
        assert abs(angle / bend - float(state[0])) < 1e-4
        assert abs(float(plane[2]) - angle - float(state[2])) < 1e-5


def test_observations_rewards_and_the_end():
    family = world()
    task = {name: value[0] for name, value in family.draw(torch.arange(1)).items()}
    state = torch.tensor([20.0, 1.7, 0.2, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    after, seen, reward, done = family.step(task, state, torch.zeros(1, dtype=torch.float64), torch.tensor(0))
    assert (bool(done), float(reward)) == (True, 0.0)
    assert float(after[1]) > 1.75
    ahead = after[0] + torch.tensor([0.0, 5.0, 10.0, 15.0, 20.0], dtype=torch.float64)
    bends = sum(
        h * torch.sin(r * ahead + p) for h, r, p in zip(task["height"], task["rate"], task["phase"], strict=True)
    )
    assert (seen[2:] - bends / BEND_UNIT).abs().max() < 1e-12
    after, seen, reward, done = family.step(task, state * 0, torch.zeros(1, dtype=torch.float64), torch.tensor(0))
    assert not done
    assert abs(float(reward) - (1 - float(after[1] / 1.75) ** 2)) < 1e-12
    bends = family.bend(family.draw(torch.arange(500)) | {}, torch.zeros(500, dtype=torch.float64))
    assert bends.abs().max() < 3 * 0.0065


def test_the_planner_keeps_the_middle():
    """It predicts the delay exactly: after three seconds its offset is below 2 cm, for every delay."""
    family = world(episodes=1, horizon=60)
    episode = family.sample("val", torch.arange(60))
    assert set(episode.info["delay"].tolist()) == {0, 1, 2, 3, 4}
    learner = Informed(family)
    seen = vmap(lambda e: learner.trial(learner.policies(e)[0], e.info, e.key).seen.observation)(episode)
    offset = 1.75 * seen[:, 30:, 0].abs()
    for delay in range(5):
        assert offset[episode.info["delay"] == delay].max() < 0.02
    assert offset.mean() < 0.001
    scores = {
        kind: evaluate(kind(family), "val", 60, ["queries"]).arrays["return"][:, 0]
        for kind in (Informed, Nominal, Random)
    }
    assert 60 > scores[Informed].mean() > scores[Nominal].mean() + 0.4 > 50 > scores[Random].mean()


def test_the_planners_memory_is_the_state_of_the_car():
    """Distance and commands that it remembers are those of the world, also after a second episode began."""
    family = world(episodes=1, horizon=12)
    task = {name: value[1] for name, value in family.draw(torch.arange(2)).items()}
    plan, memory = family.plan(task)
    key = torch.tensor(5)
    for _ in range(2):
        state, seen = family.reset(task, key)
        first = torch.tensor(True)
        for t in range(12):
            action, memory = family.informed(
                task, plan, memory, TimeStep(seen, family.no_action(), torch.zeros(()), first), torch.tensor(t)
            )
            state, seen, _, _ = family.step(task, state, action, key)
            first = torch.tensor(False)
            assert (memory - torch.cat((state[:1], state[3:]))).abs().max() < 1e-9
