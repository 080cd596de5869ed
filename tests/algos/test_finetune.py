"""What the transfer baselines share: fine-tuning against torch.optim, and the choice of its rate."""

from functools import partial

import pytest
import torch
from references import LINE, NET, Parabola, batches, close, lines, sines, train_with_torch

from metaexp.algos.joint import Joint
from metaexp.algos.maml import MAML
from metaexp.algos.reptile import Reptile
from metaexp.algos.scratch import Scratch
from metaexp.contract import new, pictures, task
from metaexp.evaluation.scores import validator
from metaexp.inner import SGD, Adam
from metaexp.models.mlp import MLP


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("make", [Scratch, Joint])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_fine_tuning_equals_torch(make, name, size):
    inner = {"sgd": SGD(0.9), "adam": Adam()}[name]
    learner = new(lambda f: make(f, NET, test_lr=0.01, test_epochs=3, test_batch=size, inner=inner), sines(shots=10))
    steps = 3 if size is None else 9
    assert learner.test_steps == steps
    one = task(learner.family.sample("test", torch.tensor([2])), 0)
    path = learner.path(one.support, one.key, steps)
    params = {k: p.detach().clone().requires_grad_() for k, p in learner.model.named_parameters()}
    theirs = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    }[name](list(params.values()))
    rows = batches(one.key, 10, size, steps)
    for step in range(steps):
        train_with_torch(params, theirs, one.support, rows[step : step + 1])
        close(path[step + 1], {k: p.detach() for k, p in params.items()})
    close(learner.adapt(one.support, one.key), path[-1], 1e-300)


def test_the_baselines_take_other_ways_at_test():
    family = pictures(ways=3, test={"ways": 2})
    for make in (Joint, Scratch):
        learner = new(lambda f, m=make: m(f, partial(MLP, hidden=[9]), test_epochs=2), family)
        one = task(family.sample("test", torch.tensor([0])), 0)
        assert learner.predict(learner.adapt(one.support, one.key), one.query.x).shape == (4, 2)
    for make in (MAML, Reptile):
        with pytest.raises(ValueError, match=r"^task.test.ways=2: \w+ has one output per class, so task.ways=3 too"):
            make(family, partial(MLP, hidden=[9]))


def test_the_rate_is_chosen_on_validation_tasks():
    """Of rates that do nothing, do well and diverge; the same numbers by hand."""
    family = lines(noise=0.0, queries=20)
    for make in (Joint, Scratch):
        learner = new(lambda f, m=make: m(f, LINE, test_lr=[1e-9, 0.03, 100.0], test_epochs=5, inner=SGD()), family)
        found = learner.finish(validator(learner))
        assert found["test_lr"] == 0.03
        assert float(learner.test_lr) == 0.03
        episode = family.sample("val", torch.arange(200))
        support, query = Parabola(episode.support), Parabola(episode.query)
        w = learner.model.head.weight.detach().flatten()
        for rate in (1e-9, 0.03):
            mean = float(query.loss(support.descend(w, rate, 5)).mean())
            assert abs(found["validation_mse"][str(rate)] - mean) < 1e-10 * max(1, mean)
        other = new(lambda f, m=make: m(f, LINE, test_lr=[1e-9, 0.03, 100.0], test_epochs=5), family)
        other.load_state_dict(learner.state_dict())
        assert float(other.test_lr) == 0.03
    single = new(lambda f: Joint(f, LINE, test_lr=0.5), family)
    assert single.finish(validator(single)) == {}


def test_the_rate_of_the_highest_accuracy_is_chosen():
    for rates in ([1e-9, 0.3], [0.3, 1e-9]):
        learner = new(lambda f, r=rates: Scratch(f, partial(MLP, hidden=[9]), r, 5), pictures(shots=5, queries=5))
        found = learner.finish(validator(learner))
        means = found["validation_accuracy"]
        assert means["0.3"] > means["1e-09"] + 0.1
        assert found["test_lr"] == float(learner.test_lr) == 0.3


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (Joint, {"batch": 0}, "batch=0: must be at least 1"),
        (Joint, {"test_lr": [0.1, 0.0]}, "test_lr=[0.1, 0.0]: must be above 0"),
        (Scratch, {"test_lr": []}, "test_lr=[]: must be above 0"),
        (Scratch, {"test_epochs": -1}, "test_epochs=-1: must be at least 0"),
        (Scratch, {"test_batch": 0}, "test_batch=0: must be at least 1"),
    ],
)
def test_baselines_refuse(make, settings, message):
    with pytest.raises(ValueError) as caught:
        make(sines(), NET, **settings)
    assert str(caught.value).startswith(message)
