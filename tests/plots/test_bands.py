"""Gaussian predictions in the pictures of episodes."""

import numpy as np
import torch
from references import gp

from metaexp.plots.episodes import curves


def test_gaussian_predictions_are_drawn_with_their_band():
    family = gp()
    episode = family.sample("val", torch.arange(2))

    def predict(x):
        return torch.stack((torch.cat((0 * x, 1 + 0 * x), -1), torch.cat((x, 0.5 + 0 * x), -1)), 1)

    axes = curves(episode, predict, [0, 1], truth=lambda x: torch.cat((2 * x, 0.1 + 0 * x), -1)).axes[1]
    lines = {str(drawn.get_label()): drawn for drawn in axes.lines}
    x = np.asarray(lines["true function"].get_xdata())
    np.testing.assert_allclose(lines["its 95 % band"].get_ydata(), 2 * x + 0.196)
    (filled,) = axes.collections
    edges = filled.get_paths()[0].vertices
    for sign in (-1, 1):
        assert any(np.allclose(point, (x[70], x[70] + sign * 0.98)) for point in edges)
    assert "query" in lines
    plain = curves(episode, lambda x: x[:, None], [0]).axes[0]
    assert not plain.collections
    assert "prediction" in {drawn.get_label() for drawn in plain.lines}
