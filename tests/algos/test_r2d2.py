"""R2D2 in float64 against numpy and finite differences."""

import math

import numpy as np
import pytest
import torch
from references import F64, NET, sines

from metaexp.algos.r2d2 import R2D2, ridge
from metaexp.contract import finite_differences, new, pictures, task
from metaexp.evaluation.scores import evaluate
from metaexp.models.linear import Linear
from metaexp.tasks.linear import Linear as LinearTasks


@pytest.mark.parametrize(("n", "d"), [(3, 8), (8, 8), (30, 8)])
def test_ridge_equals_numpy_in_both_forms(n, d):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(n, d)), draw.normal(size=(n, 2))
    for strength in (1e-3, 1.0, 50.0):
        direct = np.linalg.solve(x.T @ x / n + strength * np.eye(d), x.T @ y / n)
        woodbury = x.T @ np.linalg.solve(x @ x.T / n + strength * np.eye(n), y / n)
        augmented = np.vstack([x / np.sqrt(n), np.sqrt(strength) * np.eye(d)])
        least = np.linalg.lstsq(augmented, np.vstack([y / np.sqrt(n), np.zeros((d, 2))]), rcond=None)[0]
        found = ridge(torch.tensor(x), torch.tensor(y), torch.tensor(strength, dtype=F64)).numpy()
        for reference in (direct, woodbury, least):
            assert abs(found - reference).max() < 1e-11


@pytest.mark.parametrize("shots", [2, 9])
def test_r2d2_on_classes_equals_numpy(shots):
    """A column of ones, scale and shift; 6 and 27 support examples on 6 features."""
    learner = new(lambda f: R2D2(f, NET, strength=0.3, scale=4.0), pictures(shots=shots))
    with torch.no_grad():
        learner.shift.fill_(0.7)
    one = task(learner.family.sample("test", torch.tensor([3])), 0)
    z, q = (learner.model(x).detach().numpy() for x in (one.support.x, one.query.x))
    n = 3 * shots
    x = np.hstack([z, np.ones((n, 1))]) / np.sqrt(n)
    strength = float(learner.log_strength.detach().exp())
    w = np.linalg.solve(x.T @ x + strength * np.eye(7), x.T @ (one.support.y.numpy() / np.sqrt(n)))
    scale = float(learner.scale.detach())
    expected = scale * (q @ w[:-1] + w[-1]) + 0.7
    with torch.no_grad():
        found = learner.predict(learner.adapt(one.support, one.key), one.query.x)
    assert abs(found.numpy() - expected).max() < 1e-8  # the shift is a float32 until here
    assert abs(strength - 0.3) < 1e-7
    assert abs(scale - 4.0) < 1e-6  # both are kept as float32 logarithms


@pytest.mark.parametrize("shots", [4, 20])
def test_r2d2_on_targets_equals_centred_numpy(shots):
    learner = new(lambda f: R2D2(f, NET, strength=0.02), sines(shots=shots))
    with torch.no_grad():
        learner.log_scale.fill_(math.log(1.5))
        learner.shift.fill_(0.25)
    one = task(learner.family.sample("test", torch.tensor([3])), 0)
    z, q = (learner.model(x).detach().numpy() for x in (one.support.x, one.query.x))
    y = one.support.y.numpy()
    x = z - z.mean(0)
    w = np.linalg.solve(
        x.T @ x / shots + float(learner.log_strength.detach().exp()) * np.eye(6), x.T @ (y - y.mean()) / shots
    )
    with torch.no_grad():
        found = learner.predict(learner.adapt(one.support, one.key), one.query.x)
    assert abs(found.numpy() - (1.5 * (q - z.mean(0)) @ w + y.mean() + 0.25)).max() < 1e-10


def test_r2d2_with_a_small_strength_solves_linear_tasks():
    family = LinearTasks(shots=6, queries=9, inputs=3, bias=True).to("cpu", F64)
    learner = new(lambda f: R2D2(f, Linear, strength=1e-12), family)
    assert list(learner.meta_parameters()) == ["log_strength", "log_scale", "shift"]
    assert evaluate(learner, "test", 50, ["queries"]).arrays["mse"].max() < 1e-12


@pytest.mark.parametrize("shots", [4, 20])
def test_r2d2_against_finite_differences(shots):
    learner = new(lambda f: R2D2(f, NET), sines(shots=shots))
    assert finite_differences(learner, learner.train_batch(torch.arange(20))._replace(info={})) < 1e-6
    learner = new(lambda f: R2D2(f, NET), pictures(shots=shots // 4))
    assert finite_differences(learner, learner.train_batch(torch.arange(20))._replace(info={})) < 1e-6
    fixed = new(lambda f: R2D2(f, NET, learn_strength=False), pictures())
    assert "log_strength" not in fixed.meta_parameters()


@pytest.mark.parametrize("n", [3, 40])
def test_ridge_is_regular_in_float32_where_examples_repeat(n):
    x = torch.ones(n, 8) * 1e3
    strength = torch.tensor(1e-20, requires_grad=True)
    w = ridge(x.requires_grad_(), torch.ones(n, 2), strength)
    assert (x[:1] @ w - 1).abs().max() < 1e-3
    w.sum().backward()
    assert x.grad.isfinite().all()
    assert strength.grad.isfinite()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": 0.0}, "strength=0.0: must be above 0"),
        ({"scale": 0.0}, "scale=0.0: must be a number above 0"),
    ],
)
def test_r2d2_refuses_on_sines(settings, message):
    with pytest.raises(ValueError) as caught:
        R2D2(sines(), NET, **settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
