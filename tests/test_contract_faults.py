"""The contract notices a learner, a family and a network that break it, and a number that is none."""

import math
from functools import partial

import pytest
import torch

from metaexp.algos.maml import MAML
from metaexp.contract import (
    check_family,
    check_learner,
    check_model,
    finite_differences,
    largest_difference,
    new,
)
from metaexp.models.linear import Linear
from metaexp.models.mlp import MLP
from metaexp.tasks.sine import Sine
from metaexp.types import Examples

NET = partial(MLP, hidden=[6], activation="tanh")


class Base(MAML):
    def __init__(self, family):
        super().__init__(family, NET, inner_lr=0.05)


class Remembers(Base):
    """predict depends on how often it was called."""

    calls = 0

    def predict(self, adapted, x):
        self.calls += 1
        return super().predict(adapted, x) + self.calls


class Ordered(Base):
    """Learns from the first example only."""

    def adapt(self, support, key):
        return super().adapt(Examples(support.x[:1], support.y[:1]), key)


class Divides(Base):
    """Not finite if a task's first target is small, which is true for few tasks."""

    def meta_loss(self, episode):
        loss, logs = super().meta_loss(episode)
        return loss + torch.sqrt(episode.query.y[0, 0].abs() - 0.02) * 0, logs


class Global(Base):
    """Draws from the global generator."""

    def train_batch(self, indices):
        torch.rand(())
        return super().train_batch(indices)


class Forgets(Base):
    """Depends on a number that no checkpoint holds."""

    def __init__(self, family):
        super().__init__(family)
        self.shift = 0.0

    def absorb(self, logs):
        self.shift += 1.0
        return logs

    def predict(self, adapted, x):
        return super().predict(adapted, x) + self.shift


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Remembers, "predict depends on earlier calls"),
        (Ordered, "depends on the order of the support examples"),
        (Divides, "meta-loss not finite on tasks"),
        (Global, "global generator"),
        (Forgets, "state_dict does not hold all"),
    ],
)
def test_a_learner_that_breaks_its_contract(make, message):
    with pytest.raises(AssertionError, match=message):
        check_learner(make, Sine(5, 4))


class ByBatch(Sine):
    """The first task of a meta-batch depends on the batch."""

    def sample(self, split, indices, *sizes, **more):
        return super().sample(split, torch.cat([indices[:1] + (len(indices) > 1), indices[1:]]), *sizes, **more)


class Leaks(Sine):
    """Validation tasks are the test tasks."""

    def keys(self, split, indices):
        return super().keys("test" if split == "val" else split, indices)


class Reseeded(Sine):
    """Test tasks change with the seed."""

    def keys(self, split, indices):
        return super().keys(split, indices) + self.seed


class Jumps(Sine):
    """One shot is not the first of five."""

    def sample(self, split, indices, shots=None, queries=None, ways=None):
        episode = super().sample(split, indices, shots, queries)
        return episode._replace(support=Examples(*(t.flip(1) for t in episode.support)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (ByBatch, "share a key|different values"),
        (Leaks, "shares a task with another split"),
        (Reseeded, "depends on the seed"),
        (Jumps, "is not the beginning of a larger one"),
    ],
)
def test_a_family_that_breaks_its_contract(make, message):
    with pytest.raises(AssertionError, match=message):
        check_family(make(5, 4))


def test_a_network_that_breaks_its_contract():
    class Unused(Linear):
        def __init__(self, x_shape, out):
            super().__init__(x_shape, out)
            self.extra = torch.nn.Linear(2, 2)

    with pytest.raises(AssertionError, match=r"no gradient reaches extra\.weight"):
        check_model(Unused, (3,))


def test_nan_is_no_agreement():
    """In any leaf, on either side, in the loss or the gradient: Python's `max` would ignore it."""
    good = {"a": torch.zeros(2), "b": torch.ones(3), "c": torch.zeros(1)}
    assert largest_difference(good, good) == 0
    for name in good:
        bad = good | {name: good[name] * math.nan}
        assert math.isnan(largest_difference(bad, good))
        assert math.isnan(largest_difference(good, bad))

    class NaN(Base):
        def meta_loss(self, episode):
            loss, logs = super().meta_loss(episode)
            return loss * math.nan, logs

    family = Sine(5, 4).to("cpu", torch.float64)
    assert math.isnan(finite_differences(new(NaN, family), family.sample("train", torch.arange(3))))
