"""The planner of scripts/dynamics.py: its predictions are the world's rewards, and better models give more."""

import sys

import torch
from conftest import ROOT

from metaexp.random import fold
from metaexp.tasks.pendulum import SwingUp
from metaexp.tasks.world import RESET

sys.path.append(str(ROOT / "scripts"))
from moving import shooting


def test_the_planner():
    world = SwingUp(horizon=75).to("cpu", torch.float64)
    episode = world.sample("val", torch.arange(8))
    task = {name: value[:, None] for name, value in episode.info.items()}

    def true(state, action):
        return world.system.step(task, state, action)

    state, _ = torch.vmap(world.reset)(episode.info, fold(fold(episode.key, RESET), 0))
    plans = torch.linspace(-1, 1, 8 * 2 * 12, dtype=torch.float64).view(8, 2, 12)
    expected = shooting.predicted_return(world, true, state, plans)
    for candidate in range(2):
        now, total = state, torch.zeros(8, dtype=torch.float64)
        for t in range(36):
            action = plans[:, candidate, t // 3, None]
            now, _, reward, _ = torch.vmap(world.step)(episode.info, now, action, episode.key)
            total = total + reward
        assert (total - expected[:, candidate]).abs().max() < 1e-10
    found = [shooting.episode_return(world, episode.info, episode.key, m) for m in (true, lambda s, a: s)]
    assert found[0].mean() > found[1].mean() + 20
    noise = shooting.coloured(torch.randn(20000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    correlation = torch.corrcoef(noise.T)
    expected = torch.tensor([[1.0, 0.8, 0.64], [0.8, 1.0, 0.8], [0.64, 0.8, 1.0]], dtype=torch.float64)
    assert (correlation - expected).abs().max() < 0.03
