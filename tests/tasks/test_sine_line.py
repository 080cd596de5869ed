"""Sinusoids with lines: closed forms and independent code."""

import math

import numpy as np
import torch
from task_samples import double, oracle

from metaexp.tasks.sine import Sine
from metaexp.tasks.sine_line import SineLine


def test_the_two_kinds_and_their_parameters():
    family, n = double(SineLine(noise=0.0)), 4000
    episode = family.sample("train", torch.arange(n))
    info = {name: value.numpy() for name, value in episode.info.items()}
    assert info["kind"].dtype == np.int64
    assert abs(info["kind"].mean() - 0.5) < 4 * 0.5 / math.sqrt(n)
    for name, (low, high) in {
        "slope": (-3, 3),
        "intercept": (-3, 3),
        "amplitude": (0.1, 5),
        "phase": (0, math.pi),
    }.items():
        place = (info[name] - low) / (high - low)  # uniform: mean 1/2, variance 1/12
        assert 0 <= place.min() < 0.01 < 0.99 < place.max() <= 1
        assert abs(place.mean() - 0.5) < 4 / math.sqrt(12 * n)
        assert abs(np.corrcoef(info[name], info["kind"])[0, 1]) < 4 / math.sqrt(n)
    for x, y in (episode.support, episode.query):
        x, y = x.numpy()[..., 0], y.numpy()[..., 0]
        for i in range(300):
            line = info["slope"][i] * x[i] + info["intercept"][i]
            sine = info["amplitude"][i] * np.sin(x[i] - info["phase"][i])
            assert np.abs(y[i] - (line if info["kind"][i] else sine)).max() < 1e-12
    assert torch.equal(oracle(family, episode), episode.query.y)


def test_sinusoids_are_those_of_the_sine_family():
    index = torch.arange(200)
    for line in (0.0, 0.5):
        mixed = double(SineLine(5, 10, line=line, noise=0.0)).sample("test", index)
        alone = double(Sine(5, 10)).sample("test", index)
        same = mixed.info["kind"] == 0
        assert bool(same.all()) == (line == 0.0)
        for a, b in zip([*mixed.support, *mixed.query], [*alone.support, *alone.query], strict=True):
            assert torch.equal(a[same], b[same])
    assert double(SineLine(line=1.0)).sample("test", index).info["kind"].all()


def test_no_prediction_beats_the_noise():
    family = double(SineLine(5, 100, noise=0.3))
    episode = family.sample("test", torch.arange(500))
    error = (oracle(family, episode) - episode.query.y) ** 2  # 50,000 squares of N(0, 0.09): deviation 0.09 sqrt(2)
    assert abs(float(error.mean()) - 0.09) < 4 * 0.09 * math.sqrt(2 / error.numel())
    x, y = family.pool("train", torch.arange(200), 50)
    clean_x, clean_y = double(SineLine(5, 100, noise=0.0)).pool("train", torch.arange(200), 50)
    assert torch.equal(x, clean_x)
    assert abs(float((y - clean_y).std()) - 0.3) < 4 * 0.3 / math.sqrt(2 * y.numel())
