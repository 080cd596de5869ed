"""Random linear maps: closed forms."""

import math

import pytest
import torch
from task_samples import uniform_on

from metaexp.tasks.linear import Linear


def test_linear_maps():
    family = Linear(8, 8, inputs=3, outputs=2, bias=True, weight_std=2.0).to("cpu", torch.float64)
    episode = family.sample("train", torch.arange(5000))
    weight, bias = episode.info["weight"], episode.info["bias"]
    assert weight.shape == (5000, 3, 2)
    for drawn in (weight, bias):
        assert abs(float(drawn.mean())) < 4 * 2 / math.sqrt(drawn.numel())
        assert abs(float(drawn.std()) - 2) < 4 * 2 / math.sqrt(2 * drawn.numel())
    uniform_on(episode.query.x, -5.0, 5.0)
    for x, y in (episode.support, episode.query):
        assert (y - (x @ weight + bias[:, None])).abs().max() < 1e-12
    solved = torch.linalg.lstsq(torch.cat([episode.support.x, torch.ones(5000, 8, 1)], -1), episode.support.y).solution
    assert (solved[:, :3] - weight).abs().median() < 1e-12


def test_linear_settings():
    family = Linear(5, 5, weight_range=(1.0, 2.0), x_range=(0.0, 1.0), noise=0.5)
    episode = family.sample("train", torch.arange(4000))
    assert (family.x_shape, family.y_dim) == ((2,), 1)
    uniform_on(episode.info["weight"], 1.0, 2.0)
    uniform_on(episode.support.x, 0.0, 1.0)
    assert (episode.info["bias"] == 0).all()
    noise = episode.query.y - episode.query.x @ episode.info["weight"]
    assert abs(float(noise.std()) - 0.5) < 4 * 0.5 / math.sqrt(2 * noise.numel())
    for settings, message in (
        ({"inputs": 0}, "inputs=0"),
        ({"noise": -1.0}, "noise=-1.0"),
        ({"x_range": (2.0, 1.0)}, "x_range=[2.0, 1.0]"),
    ):
        with pytest.raises(ValueError) as caught:
            Linear(**settings)
        assert str(caught.value).startswith(message)
