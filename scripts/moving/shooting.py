"""Planning with any model of the pendulum: random shooting by the cross-entropy method."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from metaexp.random import fold, normal
from metaexp.tasks.pendulum import SwingUp
from metaexp.tasks.world import NOISE, RESET, Task

# (state [tasks, n, 2], action [tasks, n, 1]) -> the next state
Model = Callable[[Tensor, Tensor], Tensor]

KNOTS, HOLD = 12, 3  # a plan is 12 actions, each held for 3 steps: 1.8 s; a new one is made every 3 steps
CANDIDATES, ELITES, ROUNDS = 64, 8, 2
KEPT = 0.8  # correlation of the noise of an action with that before: pendulums follow slow forces only


def episode_return(world: SwingUp, task: Task, key: Tensor, model: Model) -> Tensor:
    """The return [tasks] of one episode in the true world, of one who plans with the model.

    The cross-entropy method ("A Tutorial on the Cross-Entropy Method", de Boer, Kroese, Mannor, Rubinstein, 2005):
    candidates around the rest of the last plan; the mean and deviation of the best ones are
    where the next candidates come from; the best candidate seen acts. A candidate is worth the rewards that the model
    predicts for it. Random numbers come from the tasks' keys, so that all models meet the same ones.

    Args:
        task: hidden parameters, [tasks] each; the model need not know them.
        key: int64 [tasks], of the tasks.
    """
    state, _ = torch.vmap(world.reset)(task, fold(fold(key, RESET), 0))
    plan, total = torch.zeros(len(key), KNOTS, dtype=world.dtype), torch.zeros(len(key), dtype=world.dtype)
    for t in range(world.horizon):
        if t % HOLD == 0:
            plan = improved(world, model, state, plan, fold(key, 1000 + t))
            action, plan = plan[:, :1], torch.cat((plan[:, 1:], plan[:, -1:]), 1)
        state, _, reward, _ = torch.vmap(world.step)(task, state, action, fold(fold(key, NOISE), t))
        total = total + reward
    return total


def improved(world: SwingUp, model: Model, state: Tensor, plan: Tensor, key: Tensor) -> Tensor:
    """The best plan found around `plan`, [tasks, knots]."""
    mean, deviation = plan, torch.full_like(plan, 0.7)
    best, value = plan, torch.full((len(plan),), -math.inf, dtype=plan.dtype)
    for rounds in range(ROUNDS):
        noise = coloured(normal(key, rounds, (CANDIDATES - 1, KNOTS), dtype=plan.dtype))
        tried = torch.cat((mean[:, None], mean[:, None] + deviation[:, None] * noise), 1).clamp(-1.0, 1.0)
        worth = predicted_return(world, model, state, tried)  # [tasks, candidates]
        top = worth.topk(ELITES, 1).indices
        elite = tried.gather(1, top[..., None].expand(-1, -1, KNOTS))
        mean, deviation = elite.mean(1), elite.std(1) + 0.05
        better = worth.gather(1, top[:, :1])[:, 0] > value
        value = torch.where(better, worth.gather(1, top[:, :1])[:, 0], value)
        best = torch.where(better[:, None], elite[:, 0], best)
    return best


def coloured(noise: Tensor) -> Tensor:
    """Standard normal numbers [..., knots], independent -> correlated with those before."""
    rows = [noise[..., 0]]
    for one in noise.unbind(-1)[1:]:
        rows.append(KEPT * rows[-1] + math.sqrt(1 - KEPT**2) * one)
    return torch.stack(rows, -1)


def predicted_return(world: SwingUp, model: Model, state: Tensor, tried: Tensor) -> Tensor:
    """What the model expects of plans [tasks, candidates, knots] from states [tasks, 2] on: [tasks, candidates]."""
    states = state[:, None].expand(-1, tried.shape[1], -1)
    total = torch.zeros_like(tried[..., 0])
    for knot in range(KNOTS):
        action = tried[..., knot, None]
        for _ in range(HOLD):
            states = model(states, action)
            total = total + (1 + torch.cos(states[..., 0])) / 2 - 0.01 * action[..., 0] ** 2
    return total
