"""Which picture a family gets, and that its oracle is drawn as the truth."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from drawn import line

from metaexp.plots.episodes import grid, probabilities, scatter
from metaexp.plots.pictures import picture_for
from metaexp.tasks.clusters import Clusters
from metaexp.tasks.gp import GP
from metaexp.tasks.linear import Linear
from metaexp.tasks.sine import Sine
from metaexp.tasks.sine_line import SineLine

F64 = torch.float64


def family(shape, classification):
    return SimpleNamespace(x_shape=shape, classification=classification, oracle=None, gaussian_oracle=False)


def drawn(family, predict, shown=(0,)):
    episode = family.sample("val", torch.arange(3))
    return episode, picture_for(family)(episode, predict, list(shown))


def test_the_picture_follows_the_shapes():
    assert picture_for(family((10,), False)) is scatter
    assert picture_for(family((1, 28, 28), False)) is scatter
    assert picture_for(family((1, 28, 28), True)) is grid
    assert picture_for(family((768,), True)) is probabilities
    assert picture_for(Clusters(dim=3)) is probabilities


@pytest.mark.parametrize("make", [Sine, SineLine, lambda: Linear(inputs=1, bias=True)])
def test_functions_of_one_number_are_drawn_with_the_true_function(make):
    tasks = make().to("cpu", F64)
    episode, figure = drawn(tasks, lambda x: 0 * x[:, None])
    for task, axes in enumerate(figure.axes):
        true = line(axes, "true function")
        info = {name: value[task] for name, value in episode.info.items()}
        x = torch.from_numpy(np.asarray(true.get_xdata()))[:, None]
        if "weight" in info:
            wanted = x @ info["weight"] + info["bias"]
        else:
            wanted = info["amplitude"] * torch.sin(x - info["phase"])
            if info.get("kind", 0):
                wanted = info["slope"] * x + info["intercept"]
        np.testing.assert_allclose(true.get_ydata(), wanted[:, 0], atol=1e-12)
        assert "query" not in {found.get_label() for found in axes.get_lines()}


def test_a_gaussian_oracle_is_the_exact_posterior_with_its_band():
    tasks = GP(queries=6).to("cpu", F64)
    episode, figure = drawn(tasks, lambda x: torch.cat((0 * x, 1 + 0 * x), -1)[:, None])
    axes = figure.axes[1]
    posterior = line(axes, "exact posterior")
    one = episode._replace(info={name: value[1] for name, value in episode.info.items()})
    one = one._replace(support=type(one.support)(*(part[1] for part in episode.support)))
    mean, sd = tasks.oracle(one, torch.from_numpy(np.asarray(posterior.get_xdata()))[:, None]).unbind(-1)
    np.testing.assert_allclose(posterior.get_ydata(), mean, atol=1e-12)
    np.testing.assert_allclose(line(axes, "its 95 % band").get_ydata(), mean + 1.96 * sd, atol=1e-12)
    assert "query" in {found.get_label() for found in axes.get_lines()}


def test_without_an_oracle_the_queries_are_drawn():
    tasks = Sine().to("cpu", F64)
    tasks.oracle = None
    episode, figure = drawn(tasks, lambda x: 0 * x[:, None])
    found = line(figure.axes[0], "query")
    np.testing.assert_array_equal(found.get_ydata().ravel(), episode.query.y[0].ravel())
    assert "true function" not in {one.get_label() for one in figure.axes[0].get_lines()}


@pytest.mark.parametrize("known", [True, False])
def test_classes_in_the_plane_are_regions_with_the_oracles_borders(known):
    tasks = Clusters(2, 4, ways=3).to("cpu", F64)
    if not known:
        tasks.oracle = None
    _, figure = drawn(tasks, lambda x: torch.eye(3, dtype=F64)[0].expand(*x.shape[:-1], 3)[:, None])
    assert len(figure.axes) == 3
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert ("best possible border" in labels) == known
