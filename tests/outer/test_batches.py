"""Episodes drawn ahead equal those drawn by index, to the bit, whatever the block."""

from functools import partial

import pytest
import torch
from torch.utils._pytree import tree_leaves

from metaexp.algos.joint import Joint
from metaexp.algos.maml import MAML
from metaexp.contract import new, pictures
from metaexp.models.linear import Linear
from metaexp.outer.batches import TaskBatches
from metaexp.tasks.clusters import Clusters
from metaexp.tasks.gp import GP
from metaexp.tasks.quadratic import Quadratic
from metaexp.tasks.sine import Sine
from metaexp.tasks.sine_line import SineLine

MAKE = partial(MAML, model=Linear)
CASES = {  # a family, and how many steps of 4 tasks are drawn at once if at most 14 tasks are drawn ahead
    "sine": (Sine, 3),
    "sine_line": (SineLine, 3),
    "quadratic": (Quadratic, 3),
    "clusters": (lambda: Clusters(2, 2), 3),
    "pictures": (pictures, 3),
    "gp": (GP, 3),
    "gp of varying sizes": (lambda: GP([0, 9], bucket=4), 1),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stride", [4, 12])
def test_meta_batches_are_their_tasks(monkeypatch, name, stride):
    monkeypatch.setattr("metaexp.outer.batches.TASKS", 14)
    family, steps = CASES[name]
    learner = new(MAKE, family().to("cpu", torch.float64))
    ahead = TaskBatches(learner, 4, stride)
    assert ahead.steps == steps
    firsts = [stride * step for step in (0, 1, 2, 3, 7, 8, 6, 10**6)]
    firsts += [4] if name != "gp of varying sizes" else []  # between two meta-batches of the others
    for first in firsts:
        direct = learner.train_batch(torch.arange(first, first + 4))._replace(info={})
        drawn = ahead(first)
        assert all(torch.equal(a, b) for a, b in zip(tree_leaves(drawn), tree_leaves(direct), strict=True))


def test_few_bytes_are_drawn_ahead(monkeypatch):
    learner = new(MAKE, Sine().to("cpu", torch.float64))
    each = 4 * (40 * 8 + 8)  # 10 + 10 pairs and a key for each of 4 tasks
    monkeypatch.setattr("metaexp.outer.batches.BYTES", 5 * each + 1)
    assert TaskBatches(learner, 4, 4).steps == 5
    monkeypatch.setattr("metaexp.outer.batches.BYTES", each // 2)
    assert TaskBatches(learner, 4, 4).steps == 1


def test_pooled_minibatches_too():
    learner = new(lambda f: Joint(f, Linear, batch=7), Sine().to("cpu", torch.float64))
    ahead = TaskBatches(learner, 2, 2)
    assert ahead.steps == 4096 // 2
    for first in (0, 2, 4, 100):
        direct = learner.train_batch(torch.arange(first, first + 2))
        assert torch.equal(ahead(first).query.x, direct.query.x)
        assert ahead(first).support.x.shape == (2, 0, 1)


class OneAtATime(MAML):
    """A batch that is not one row per index: the mean of its tasks."""

    def train_batch(self, indices):
        episode = super().train_batch(indices)
        return episode._replace(support=type(episode.support)(*(t.mean(0, keepdim=True) for t in episode.support)))


class Constant(MAML):
    """One batch, whatever indices are requested."""

    def train_batch(self, indices):
        return super().train_batch(torch.arange(5))


@pytest.mark.parametrize("kind", [OneAtATime, Constant])
def test_other_batches_are_drawn_singly(kind):
    learner = new(lambda f: kind(f, Linear), Sine().to("cpu", torch.float64))
    ahead = TaskBatches(learner, 4, 4)
    assert ahead.steps == 1
    assert torch.equal(ahead(8).support.x, learner.train_batch(torch.arange(8, 12)).support.x)
