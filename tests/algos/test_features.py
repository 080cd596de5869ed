"""What methods on features share: modes of the test, running averages, other ways, half precision, the head."""

from functools import partial

import pytest
import torch
from references import CNN, NET, close, shaken, sines
from torch import nn

from metaexp.algos.anil import ANIL
from metaexp.algos.boil import BOIL
from metaexp.algos.hypernet import HyperNet
from metaexp.algos.protonet import ProtoNet
from metaexp.algos.r2d2 import R2D2, ridge
from metaexp.contract import new, parameters, pictures, task
from metaexp.evaluation.scores import evaluate
from metaexp.models.linear import Linear
from metaexp.outer.meta_training import MetaTraining
from metaexp.types import Examples


class NormedHead(nn.Module):
    """A network whose head has a batch norm: what is read depends on the batch."""

    def __init__(self, x_shape, out):
        super().__init__()
        self.body = nn.Linear(x_shape[0], 6)
        self.head = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, out))

    def features(self, x):
        return torch.tanh(self.body(x))

    def forward(self, x):
        return self.head(self.features(x))


@pytest.mark.parametrize(
    "make",
    [
        lambda f: ANIL(f, NormedHead, inner_lr=0.1, test_steps=2),
        lambda f: HyperNet(f, NormedHead, encoder=(8,), generator=()),
    ],
)
def test_every_mode_of_a_test_is_that_of_predict_as_where_the_head_has_a_norm(make):
    learner = shaken(new(make, sines()))
    found = evaluate(learner, "test", 20, ["queries", "single", "support"]).arrays
    episodes = learner.family.sample("test", torch.arange(20))
    for suffix, mode in learner.modes(["queries", "single", "support"]).items():
        for i in range(20):
            support, query = (Examples(part.x[i], part.y[i]) for part in episodes[:2])
            with torch.no_grad():
                adapted = learner.path(support, episodes.key[i], learner.test_steps)[-1]
                error = ((learner.predict_as(mode, adapted, support, query.x) - query.y) ** 2).mean()
            assert float(error) == pytest.approx(found["mse" + suffix][i, -1], rel=1e-12)
    means = [float(found[name][:, -1].mean()) for name in ("mse", "mse_support", "mse_transductive")]
    assert len({round(mean, 6) for mean in means}) == 3  # else nothing was told apart


def test_running_averages_take_the_mean_over_tasks_and_are_saved():
    def make(f):
        return R2D2(f, CNN)

    learner = new(make, pictures(side=16))
    batch = learner.train_batch(torch.arange(4))._replace(info={})
    logs = [
        learner.meta_gradient(parameters(learner), part)[2]["statistics"]["norms.0"]
        for part in (torch.utils._pytree.tree_map(lambda t, i=i: t[i : i + 1], batch) for i in range(4))
    ]
    MetaTraining(learner, torch.optim.SGD(learner.meta_parameters().values(), lr=0.0), meta_batch=4).step(0)
    norm = learner.model.norms[0]
    close(norm.mean, 0.1 * sum(log["mean"] for log in logs) / 4)
    close(norm.variance, 0.9 + 0.1 * sum(log["variance"] for log in logs) / 4)
    other = new(make, pictures(side=16), seed=1)
    other.load_state_dict(learner.state_dict())
    assert torch.equal(other.model.norms[0].variance, norm.variance)


def test_batch_statistics_keep_the_modes_of_the_test():
    learner = new(lambda f: ProtoNet(f, CNN, normalise="batch"), pictures(side=16))
    names = {"accuracy_transductive", "accuracy", "accuracy_support"}
    assert set(evaluate(learner, "test", 2, ["queries", "single", "support"]).arrays) == names


@pytest.mark.parametrize("make", [ProtoNet, partial(R2D2, strength=0.01)])
def test_ways_and_shots_may_differ_at_test(make):
    family = pictures(ways=6, shots=1, test={"ways": 4, "shots": 3})
    learner = new(lambda f: make(f, NET), family)
    one = task(family.sample("test", torch.tensor([0])), 0)
    assert learner.predict(learner.adapt(one.support, one.key), one.query.x).shape == (8, 4)
    assert evaluate(learner, "test", 50, ["queries"]).arrays["accuracy"].mean() > 0.4  # chance is 0.25


@pytest.mark.parametrize("n", [3, 30])
def test_half_precision_stops_before_the_linear_algebra(n):
    """Features in bfloat16, as under autocast: the ridge and the distances of the same numbers in float32."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 8, generator=draw).bfloat16(), torch.randn(n, 2, generator=draw)
    exact = ridge(x.float(), y, torch.tensor(0.1))
    learner = ProtoNet(pictures(), NET)
    distances = learner.read(x[:3].float(), x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x.T).dtype == torch.bfloat16
        assert torch.equal(ridge(x, y, torch.tensor(0.1)), exact)
        assert torch.equal(learner.read(x[:3], x), distances)


@pytest.mark.parametrize("make", [ANIL, BOIL, ProtoNet, R2D2])
def test_a_network_without_a_head_is_refused(make):
    def plain(x_shape, out):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, out))

    message = f"model: {make.__name__} needs a network with a layer named head and a method features"
    with pytest.raises(ValueError, match=message):
        make(pictures(), plain)
    frozen = NET((64,), 3)
    frozen.requires_grad_(False)
    if make is ANIL:
        with pytest.raises(ValueError, match="model: ANIL adapts the head, and no parameter of it requires a gradient"):
            make(pictures(), frozen)
    if make is BOIL:
        with pytest.raises(ValueError, match="model: BOIL adapts the body, and no parameter before the head requires"):
            make(pictures(), Linear)
    if make is ProtoNet:  # a head is needed only where it is taken off
        assert make(pictures(), plain, embedding=3).predict(torch.zeros(3, 3), torch.rand(2, 1, 8, 8)).shape == (2, 3)
