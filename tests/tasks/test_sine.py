"""Sinusoids against the paper's distribution."""

import math

import torch
from task_samples import uniform_on

from metaexp.tasks.sine import Sine


def test_sine_is_the_papers_distribution():
    episode = Sine(10, 10).to("cpu", torch.float64).sample("train", torch.arange(5000))
    amplitude, phase = episode.info["amplitude"], episode.info["phase"]
    uniform_on(amplitude, 0.1, 5.0)
    uniform_on(phase, 0.0, math.pi)
    uniform_on(episode.support.x, -5.0, 5.0)
    uniform_on(episode.query.x, -5.0, 5.0)
    for x, y in (episode.support, episode.query):
        expected = amplitude[:, None, None] * torch.sin(x - phase[:, None, None])
        assert (y - expected).abs().max() < 1e-12
    assert not torch.isin(episode.query.x, episode.support.x).any()
    other = Sine(phase_sign=1, phase=(0.0, 2 * math.pi)).to("cpu", torch.float64).sample("train", torch.arange(9))
    expected = torch.sin(other.query.x + other.info["phase"][:, None, None])
    assert (other.query.y - other.info["amplitude"][:, None, None] * expected).abs().max() < 1e-12


def test_sine_noise_has_its_standard_deviation():
    index = torch.arange(2000)
    clean, noisy = (Sine(noise=noise).sample("test", index) for noise in (0.0, 0.3))
    for part in ("support", "query"):
        noise = getattr(noisy, part).y - getattr(clean, part).y
        assert abs(float(noise.std()) - 0.3) < 4 * 0.3 / math.sqrt(2 * noise.numel())
        assert abs(float(noise.mean())) < 4 * 0.3 / math.sqrt(noise.numel())
