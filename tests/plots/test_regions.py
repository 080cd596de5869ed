"""Classes in the plane: regions, wrong queries and shares, pixel by pixel."""

import numpy as np
import torch

from metaexp.plots.regions import SIDE, points
from metaexp.tasks.clusters import Clusters


def double(family):
    return family.to("cpu", torch.float64)


def test_the_picture_of_the_plane():
    """Regions are the classifier's, right side up; crosses are the queries that it gets wrong."""
    family = double(Clusters(2, 8, ways=4))
    episode = family.sample("test", torch.arange(4))
    asked = []

    def predict(x):  # before: all of class 3; after: the class is 1 where x > y
        asked.append(x)
        rule = torch.nn.functional.one_hot((x[..., 0] > x[..., 1]).long(), 4).double()
        return torch.stack([torch.eye(4, dtype=torch.float64)[3].expand_as(rule), rule], 1)

    figure = points(episode, predict, [0, 5], truth=lambda x: family._logits(x, episode.info["centres"]))
    panels = figure.axes
    assert len(panels) == 6
    assert [p.get_title().split(":")[0] for p in panels] == ["before adaptation"] * 3 + ["after 5 steps"] * 3
    assert asked[0].shape == (4, SIDE * SIDE, 2)
    true = episode.query.y.argmax(-1)
    for column in range(3):
        image = panels[3 + column].images[0]
        left, right, bottom, top = image.get_extent()
        pixels = np.asarray(image.get_array())
        assert image.origin == "lower"
        for row, line in ((0, 0), (17, 140), (SIDE - 1, 3)):
            x, y = left + (line + 0.5) / SIDE * (right - left), bottom + (row + 0.5) / SIDE * (top - bottom)
            assert pixels[row, line] == (x > y)
        guess = (episode.query.x[column, :, 0] > episode.query.x[column, :, 1]).long()
        for panel, wrong in ((panels[column], true[column] != 3), (panels[3 + column], true[column] != guess)):
            drawn = [
                np.asarray(c.get_offsets()) for c in panel.collections if len(c.get_offsets()) in (32, int(wrong.sum()))
            ]
            assert any(np.array_equal(d, episode.query.x[column][wrong].numpy()) for d in drawn)
            assert panel.get_title().endswith(f"{1 - float(wrong.double().mean()):.0%} right")
    assert len(points(episode, lambda x: predict(x)[:, :1], [0]).axes) == 3
