"""Swing-up: the physics is that of the system, the planner's regulator is right, and it swings up."""

import math

import numpy as np
import torch
from torch.func import vmap

from metaexp.algos.informed import Informed
from metaexp.algos.nominal import Nominal
from metaexp.algos.random import Random
from metaexp.evaluation.scores import evaluate
from metaexp.tasks.motion.pendulum import Pendulum
from metaexp.tasks.pendulum import COST, SwingUp


def world(**settings):
    return SwingUp(**settings).to("cpu", torch.float64)


def test_steps_and_rewards():
    family, key = world(), torch.arange(50)
    task = family.draw(key)
    state, seen = vmap(family.reset)(task, key)
    assert ((state[:, 0] - math.pi).abs().max() < 0.1, state[:, 1].abs().max() < 0.1) == (True, True)
    action = torch.linspace(-1.5, 1.5, 50, dtype=torch.float64)[:, None]
    after, seen, reward, done = vmap(family.step)(task, state, action, key)
    assert torch.equal(after, Pendulum().step(task, state, action))
    assert (seen[:, 2] * 5 - after[:, 1]).abs().max() < 1e-12
    height = 1 - (math.pi - (after[:, 0] - math.pi).abs() - math.pi).abs().cos()  # twice the height above hanging
    assert (reward - (height / 2 - 0.01 * action[:, 0].clamp(-1, 1) ** 2)).abs().max() < 1e-12
    assert not done.any()


def test_the_gains_solve_the_riccati_equation():
    """With A and B from autograd of the step at the upright: P is a fixed point, and the closed loop is stable."""
    family = world()
    task = {name: value[3] for name, value in family.draw(torch.arange(4)).items()}
    zero, off = torch.zeros(2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    a, b = torch.func.jacrev(lambda s, u: family.system.step(task, s, u), (0, 1))(zero, off)
    gains = family._gains(task)
    closed = a - b @ gains[None]
    assert torch.linalg.eigvals(closed).abs().max() < 1
    q = torch.diag(torch.tensor([0.25, 0.01], dtype=torch.float64))
    p = torch.zeros(2, 2, dtype=torch.float64)  # cost of these gains: the sum of closed'^k (q + cost k k') closed^k
    power = torch.eye(2, dtype=torch.float64)
    for _ in range(2000):
        p = p + power.T @ (q + COST * gains[:, None] * gains) @ power
        power = closed @ power
    best = (b.T @ p @ a / (COST + b.T @ p @ b))[0]
    assert ((gains - best) / best).abs().max() < 1e-6


def test_the_planner_swings_up():
    """In nearly all tasks, within one episode; more than with nominal parameters, much more than at random."""
    family = world(episodes=1)
    index = torch.arange(150)
    episode = family.sample("val", index)
    learner = Informed(family)

    def last(one):
        adapted = learner.policies(one)[0]
        return learner.trial(adapted, one.info, one.key).seen.observation[-10:]

    seen = vmap(last)(episode)  # the last half second
    up = (seen[:, :, 0] > math.cos(0.3)).all(1)
    assert up.double().mean() > 0.97
    found = {
        kind: evaluate(kind(family), "val", 150, ["queries"]).arrays["return"][:, 0]
        for kind in (Informed, Nominal, Random)
    }
    assert found[Informed].mean() > found[Nominal].mean() + 1 > found[Random].mean() + 40
    assert found[Informed].max() < 100
    assert np.isfinite(found[Nominal]).all()
