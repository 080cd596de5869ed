"""Quadratics: closed forms and independent code."""

import math

import numpy as np
import pytest
import torch
from task_samples import double, oracle

from metaexp.algos.maml import MAML
from metaexp.config.settings import load
from metaexp.contract import task
from metaexp.losses import mse
from metaexp.models.linear import Linear as LinearMap
from metaexp.tasks.quadratic import Quadratic


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
