"""Pictures of episodes: what is drawn is read back."""

import math

import numpy as np
import pytest
import torch
from drawn import line, pixels

from metaexp.plots import episodes as pictures
from metaexp.types import Episode, Examples


def regression(tasks, n, shape=(1,), y_dim=1):
    make = torch.Generator().manual_seed(0)

    def part():
        x = torch.randn(tasks, n, *shape, generator=make)
        return Examples(x, x.flatten(2).sum(-1, keepdim=True).repeat(1, 1, y_dim))

    return Episode(part(), part(), torch.arange(tasks), {})


def test_curves_draws_truth_support_and_prediction_of_every_step_shown():
    episode = regression(8, 5)
    slopes = torch.tensor([0.0, 0.5, 0.9]).view(1, 3, 1, 1)
    figure = pictures.curves(episode, lambda x: x[:, None] * slopes, [0, 1, 10], truth=lambda x: x)
    assert len(figure.axes) == 6  # a page, not all of 200 validation tasks
    axes = figure.axes[2]
    x = line(axes, "true function").get_xdata()
    every = torch.cat([episode.support.x, episode.query.x])
    np.testing.assert_allclose([x[0], x[-1]], [every.min(), every.max()], rtol=1e-6)
    np.testing.assert_allclose(line(axes, "true function").get_ydata(), x, rtol=1e-6)
    np.testing.assert_allclose(line(axes, "before adaptation").get_ydata(), 0 * x)
    np.testing.assert_allclose(line(axes, "after 1 step").get_ydata(), 0.5 * x, rtol=1e-5)
    np.testing.assert_allclose(line(axes, "after 10 steps").get_ydata(), 0.9 * x, rtol=1e-5)
    np.testing.assert_array_equal(line(axes, "support").get_xdata().ravel(), episode.support.x[2].ravel())
    assert pixels(figure).std() > 10


def test_curves_without_the_truth_shows_the_queries_and_a_diverged_prediction_does_not_hide_them():
    episode = regression(1, 5)
    figure = pictures.curves(episode, lambda x: torch.stack([x, x * torch.inf, x * 1e9], 1), [0, 1, 2])
    (axes,) = figure.axes
    np.testing.assert_array_equal(line(axes, "query").get_ydata().ravel(), episode.query.y.ravel())
    seen = torch.cat([episode.support.y, episode.query.y])
    assert axes.get_ylim()[1] - axes.get_ylim()[0] < 1.5 * (seen.max() - seen.min())
    pixels(figure)


def test_scatter_compares_first_and_last_step():
    episode = regression(4, 5, (2,), 3)
    figure = pictures.scatter(episode, lambda x: torch.stack([episode.query.y + 2, episode.query.y], 1), [0, 5])
    assert [axes.get_title() for axes in figure.axes] == ["before adaptation: mse 4", "after 5 steps: mse 0"]
    np.testing.assert_allclose(
        line(figure.axes[0], "target 2").get_ydata(), line(figure.axes[0], "target 2").get_xdata() + 2, rtol=1e-6
    )


def classification(tasks, ways, shots, queries, shape):
    make = torch.Generator().manual_seed(0)

    def part(n):
        y = torch.eye(ways).repeat_interleave(n, 0).expand(tasks, -1, -1)
        return Examples(torch.rand(tasks, ways * n, *shape, generator=make), y)

    return Episode(part(shots), part(queries), torch.arange(tasks), {})


@pytest.mark.parametrize(("ways", "shots", "channels"), [(5, 1, 1), (20, 1, 1), (2, 5, 3)])
def test_grid_marks_right_and_wrong(ways, shots, channels):
    episode = classification(2, ways, shots, 1, (channels, 6, 6))
    logits = 3.0 * episode.query.y.clone()
    logits[0, 1] = 3.0 * torch.eye(ways)[0]  # the second query of the first episode, of class 2, is taken for class 1
    figure = pictures.grid(episode, lambda x: torch.stack([0 * logits, logits], 1), [0, 3])
    texts = [text.get_text() for text in figure.axes[0].texts]
    drawn = min(ways, 5 if ways <= 5 else 7)
    assert f"support, {ways}-way {shots}-shot" in texts
    assert f"queries after 3 steps: {1 - 1 / (2 * ways):.1%} of {2 * ways} right" in texts
    assert [text for text in texts if "\u2717" in text] == ["\u2717 1\ntrue 2"]
    assert sum("\u2713" in text for text in texts) == 2 * drawn - 1
    sure = math.exp(3) / (math.exp(3) + ways - 1)
    assert f"\u2713 1\n{sure:.0%}" in texts
    assert pixels(figure).std() > 10


def test_probabilities_frame_the_true_class():
    episode = classification(2, 3, 1, 2, (4,))
    figure = pictures.probabilities(episode, lambda x: (2.0 * episode.query.y)[:, None], [5])
    assert [axes.get_title() for axes in figure.axes[:2]] == ["100% right", "100% right"]
    (image,) = figure.axes[0].images
    np.testing.assert_allclose(image.get_array()[0], torch.softmax(torch.tensor([2.0, 0, 0]), 0), rtol=1e-6)
    frames = [patch.get_xy() for patch in figure.axes[0].patches]
    assert frames == [(c - 0.5, row - 0.5) for row, c in enumerate([0, 0, 1, 1, 2, 2])]
