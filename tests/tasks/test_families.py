"""Sinusoids with lines, quadratics, and what these and clusters promise: closed forms and independent code."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx

from metaexp.algos.maml import MAML
from metaexp.config.settings import load
from metaexp.contract import check_family, task
from metaexp.losses import mse
from metaexp.models.linear import Linear as LinearMap
from metaexp.tasks.clusters import Clusters
from metaexp.tasks.quadratic import Quadratic
from metaexp.tasks.sine import Sine
from metaexp.tasks.sine_line import SineLine

FAMILIES = {
    "sine_line": lambda **s: SineLine(4, 6, **s),
    "quadratic": lambda **s: Quadratic(4, 6, dim=3, **s),
    "quadratic_planted": lambda **s: Quadratic(4, 6, dim=3, noise=0.1, condition=9.0, fresh=True, **s),
    "quadratic_uniform": lambda **s: Quadratic(4, dim=3, elements="uniform", **s),
    "clusters": lambda **s: Clusters(4, 6, ways=3, dim=3, pool_classes=5, **s),
}


@pytest.fixture(params=list(FAMILIES))
def make(request):
    return FAMILIES[request.param]


def double(family):
    return family.to("cpu", torch.float64)


def tensors(episode):
    return [*episode.support, *episode.query, episode.key, *episode.info.values()]


def oracle(family, episode):
    """The oracle of every task on its queries: [tasks, m, out]."""
    return vmap(family.oracle)(episode, episode.query.x)


# --- every family ---------------------------------------------------------------------------------------------------


def test_contract(make):
    check_family(make())
    check_family(make(test={"shots": 2, "queries": 3}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_task_has_the_same_bytes_whatever_the_batch(make, dtype):
    family = make().to("cpu", dtype)
    whole, pooled = family.sample("train", torch.arange(500)), family.pool("train", torch.arange(200), 7)
    for part in (torch.tensor([0]), torch.tensor([499, 5, 5]), torch.arange(300, 433)):
        assert all(
            torch.equal(a[part], b) for a, b in zip(tensors(whole), tensors(family.sample("train", part)), strict=True)
        )
    for part in (torch.tensor([199]), torch.tensor([3, 150, 4])):
        assert all(torch.equal(a[part], b) for a, b in zip(pooled, family.pool("train", part, 7), strict=True))
    assert whole.support.y.dtype == pooled.x.dtype == dtype


def test_sampling_is_one_graph_of_tensor_operations(make):
    family, index = make(), torch.arange(5)
    traced = make_fx(lambda i: tensors(family.sample("train", i)))(index + 100)
    assert all(torch.equal(a, b) for a, b in zip(traced(index), tensors(family.sample("train", index)), strict=True))
    pooled = make_fx(lambda i: tuple(family.pool("train", i, 4)))(index + 100)
    assert all(torch.equal(a, b) for a, b in zip(pooled(index), family.pool("train", index, 4), strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(SineLine, line=1.5), "line=1.5: must be from 0 to 1"),
        (partial(SineLine, slope=(1.0, 0.0)), "slope=[1.0, 0.0]: must be two finite numbers"),
        (partial(SineLine, noise=-1.0), "noise=-1.0: must be at least 0"),
        (partial(Quadratic, dim=0), "dim=0: must be at least 1"),
        (partial(Quadratic, elements="cauchy"), "elements=cauchy: must be normal | uniform"),
        (partial(Quadratic, condition=0.5), "condition=0.5: must be at least 1"),
        (partial(Quadratic, noise=-0.1), "noise=-0.1: must be at least 0"),
        (partial(Quadratic, fresh=True), "fresh=True: nothing can be known"),
        (partial(Quadratic, shots=0), "shots=0: must be at least 1"),
        (partial(Clusters, dim=0), "dim=0: must be at least 1"),
        (partial(Clusters, pool_classes=1), "pool_classes=1: must be at least 2"),
        (partial(Clusters, noise=0.0), "noise=0.0: must be above 0"),
        (partial(Clusters, spread=-1.0), "spread=-1.0: must be above 0"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(message)


# --- sinusoids and lines --------------------------------------------------------------------------------------------


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


# --- quadratics -----------------------------------------------------------------------------------------------------


def test_the_queries_are_the_objective():
    index = torch.arange(200)
    family = double(Quadratic())
    episode = family.sample("test", index)
    w, y = episode.support
    assert w.shape == (200, 10, 10)
    assert all(torch.equal(a, b) for a, b in zip(episode.support, episode.query, strict=True))
    assert not torch.equal(w, double(Quadratic(noise=0.0, fresh=True)).sample("test", index).query.x)
    for values in (w, y):  # standard normal
        n = values.numel()
        assert abs(float(values.mean())) < 4 / math.sqrt(n)
        assert abs(float(values.var()) - 1) < 4 * math.sqrt(2 / n)
    learner = MAML(family, LinearMap((10,), 1, bias=False).double(), inner_lr=0.05, inner_steps=3)
    theta = {"head.weight": torch.randn(1, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))}
    for i in range(200):  # the loss that a method descends is f / rows
        f = np.linalg.norm(w[i].numpy() @ theta["head.weight"][0].numpy() - y[i, :, 0].numpy()) ** 2
        assert abs(10 * float(mse(learner.predict(theta, w[i]), y[i])) - f) < 1e-10 * f


def test_sizes_of_the_objective():
    for settings, train, test in (
        ({}, (10, 10), (10, 10)),
        ({"shots": 6}, (6, 6), (6, 6)),
        ({"shots": 6, "test": {"shots": 8}}, (6, 6), (8, 8)),
        ({"shots": 6, "test": {"shots": 8, "queries": 9}}, (6, 6), (8, 9)),
        ({"shots": 4, "queries": 10}, (4, 10), (4, 10)),
    ):
        sizes = Quadratic(**settings).sizes
        assert [tuple(sizes[split][n] for n in ("shots", "queries")) for split in ("train", "test")] == [train, test]
    episode = Quadratic(4, 10).sample("val", torch.arange(5))  # the support set is a part of the objective
    assert torch.equal(episode.query.x[:, :4], episode.support.x)


@pytest.mark.parametrize(("rows", "elements"), [(10, "normal"), (10, "uniform"), (25, "normal"), (4, "normal")])
def test_the_oracle_of_a_quadratic_is_its_minimum(rows, elements):
    family = double(Quadratic(rows, elements=elements))
    episode = family.sample("test", torch.arange(200))
    found = oracle(family, episode)
    for i in range(200):
        w, y = episode.query.x[i].numpy(), episode.query.y[i].numpy()
        best = w @ np.linalg.lstsq(w, y, rcond=None)[0]
        assert np.abs(found[i].numpy() - best).max() < 1e-8
    residual = float(mse(found, episode.query.y))
    expected = (1 - 10 / 25) if rows > 10 else 0.0  # of a projection onto 10 of 25 directions
    assert abs(residual - expected) < 0.05 if rows > 10 else residual < 1e-15


def test_planted_and_fresh_rows():
    family = double(Quadratic(10, 50, noise=0.2, fresh=True))
    episode = family.sample("test", torch.arange(400))
    for x, y in (episode.support, episode.query):
        error = y - x @ episode.info["theta"].unsqueeze(-1)
        assert abs(float(error.std()) - 0.2) < 4 * 0.2 / math.sqrt(2 * error.numel())
    assert torch.equal(oracle(family, episode), episode.query.x @ episode.info["theta"].unsqueeze(-1))
    assert not torch.isin(episode.support.x, episode.query.x).any()


def test_the_condition_number_of_the_mean_hessian():
    w = double(Quadratic(10, condition=100.0)).sample("train", torch.arange(5000)).support.x
    mean = (w.mT @ w / 10).mean(0)
    wanted = torch.diag(100.0 ** (-torch.arange(10, dtype=torch.float64) / 9))
    assert float((mean - wanted).abs().max()) < 4 * math.sqrt(2 / w[..., 0].numel())
    assert abs(float(torch.linalg.cond(wanted)) - 100) < 1e-9
    plain = double(Quadratic(10)).sample("train", torch.arange(3)).support.x
    assert torch.allclose(w[:3], plain * wanted.diagonal().sqrt(), rtol=1e-12)
    u = double(Quadratic(10, elements="uniform")).sample("train", torch.arange(500)).support
    for values in u:
        assert 0 <= float(values.min()) < 0.01 < 0.99 < float(values.max()) < 1
        assert abs(float(values.mean()) - 0.5) < 4 / math.sqrt(12 * values.numel())


def test_the_optimisee_is_theta_itself():
    model = load(["task=quadratic"])["model"]
    assert model["_target_"].endswith("linear.Linear")
    assert model["bias"] is False
    assert load(["task=quadratic", "model.bias=true"])["model"]["bias"] is True
    assert load(["task=linear", "model=linear"])["model"]["bias"] is True


def test_gradient_descent_follows_its_closed_form():
    """theta_t - theta_0 by t steps of a linear iteration, on every point of the path."""
    family = double(Quadratic(10))
    learner = MAML(family, LinearMap((10,), 1, bias=False).double(), inner_lr=0.05, test_steps=7)
    start = next(iter(learner.meta_parameters().values())).detach()[0].numpy()
    for i in range(200):
        one = task(family.sample("test", torch.tensor([i])), 0)
        w, y, theta = one.support.x.numpy(), one.support.y.numpy()[:, 0], start
        for point in learner.path(one.support, one.key, 7):
            assert np.abs(point["head.weight"][0].detach().numpy() - theta).max() < 1e-10
            theta = theta - 0.05 * 2 / 10 * w.T @ (w @ theta - y)
