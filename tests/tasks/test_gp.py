"""Draws of Gaussian processes in float64: their distribution, their exact posterior, their sizes."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from references import gp, parts_of
from torch.func import vmap

from metaexp import metrics
from metaexp.algos.cnp import CNP
from metaexp.algos.r2d2 import R2D2
from metaexp.config.settings import load
from metaexp.contract import check_family, new, task
from metaexp.errors import ConfigError
from metaexp.evaluation.baselines import baselines
from metaexp.evaluation.scores import evaluate
from metaexp.models.linear import Linear
from metaexp.models.mlp import MLP
from metaexp.outer.compiler import decide_compile
from metaexp.tasks.gp import GP, KERNELS
from metaexp.training.build import Experiment

F64 = torch.float64


def covariance(kernel, a, b, length, scale, period):
    d = np.abs(a[:, None] - b[None])
    if kernel == "eq":
        return scale**2 * np.exp(-(d**2) / (2 * length**2))
    if kernel == "periodic":
        return scale**2 * np.exp(-2 * np.sin(np.pi * d / period) ** 2 / length**2)
    return scale**2 * (1 + 5**0.5 * d / length + 5 * d**2 / (3 * length**2)) * np.exp(-(5**0.5) * d / length)


@pytest.mark.parametrize("kernel", KERNELS)
def test_family_contract(kernel):
    check_family(gp(20, 7, kernel=kernel, length=[0.2, 0.6], scale=[0.5, 2.0], period=[0.5, 1.0], noise=0.1))


@pytest.mark.parametrize("kernel", KERNELS)
def test_support_and_queries_come_jointly_from_the_process(kernel):
    """Whitened by the root of its covariance, a draw of 27 points is 27 independent standard normal numbers."""
    family = gp(20, 7, kernel=kernel, length=[0.2, 0.6], scale=[0.5, 2.0], noise=0.1)
    episode = family.sample("train", torch.arange(300))
    white = []
    for i in range(300):
        x, y, at, target, info = parts_of(episode, i)
        every = np.concatenate([x, at])
        root = np.linalg.cholesky(covariance(kernel, every, every, **info) + 0.01 * np.eye(27))
        white.append(np.linalg.solve(root, np.concatenate([y, target])))
    white = np.array(white)  # [tasks, points]
    assert abs(white.mean(0)).max() < 4.5 / math.sqrt(300)
    products = white.T @ white / 300
    assert abs(products.diagonal() - 1).max() < 4.5 * math.sqrt(2 / 300)
    assert abs(products - np.diag(products.diagonal())).max() < 4.5 / math.sqrt(300)
    assert abs((white**4).mean() - 3) < 0.3


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shots", [0, 1, 8, 30])
def test_the_oracle_is_the_exact_posterior(kernel, shots):
    """Against the textbook formula with an explicit inverse, in numpy."""
    family = gp(8, 9, kernel=kernel, length=[0.2, 0.6], scale=[0.5, 2.0], noise=0.05)
    episode = family.sample("test", torch.arange(40), shots=shots)
    found = vmap(family.oracle)(episode, episode.query.x).numpy()
    for i in range(40):
        x, y, at, _, info = parts_of(episode, i)
        inverse = np.linalg.inv(covariance(kernel, x, x, **info) + 0.05**2 * np.eye(shots))
        cross = covariance(kernel, at, x, **info)
        variance = info["scale"] ** 2 - np.einsum("ij,jk,ik->i", cross, inverse, cross) + 0.05**2
        assert abs(found[i, :, 0] - cross @ inverse @ y).max() < 1e-8
        assert abs(found[i, :, 1] - np.sqrt(variance)).max() < 1e-8
    alone = family.oracle(task(episode, 3), episode.query.x[3])
    assert abs(alone.numpy() - found[3]).max() < 1e-8


def test_the_oracle_against_scikit_learn():
    process = pytest.importorskip("sklearn.gaussian_process")
    family = gp(8, 9, noise=0.05)
    one = task(family.sample("test", torch.arange(1)), 0)
    kernel = process.kernels.RBF(0.25, "fixed")
    fitted = process.GaussianProcessRegressor(kernel, alpha=0.05**2, optimizer=None).fit(*one.support)
    mean, sd = fitted.predict(one.query.x, return_std=True)
    found = family.oracle(one, one.query.x).numpy()
    assert abs(found[:, 0] - mean.ravel()).max() < 1e-8
    assert abs(found[:, 1] ** 2 - sd**2 - 0.05**2).max() < 1e-8  # theirs is without the noise


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_oracle_is_calibrated_and_nobody_is_better(dtype):
    family = GP(10, 50).to("cpu", dtype)
    episode = family.sample("test", torch.arange(400))
    found = vmap(family.oracle)(episode, episode.query.x)
    assert found.dtype == episode.query.y.dtype == dtype
    z = (episode.query.y[..., 0] - found[..., 0]) / found[..., 1]
    assert abs(float((z.abs() < 1.6449).to(F64).mean()) - 0.9) < 0.02
    assert abs(float((z**2).mean()) - 1) < 0.1

    def score(mean, sd):
        return float(vmap(metrics.log_likelihood)(torch.cat((mean, sd), -1), episode.query.y).mean())

    mean, sd = found.chunk(2, -1)
    best = score(mean, sd)
    prior = score(0 * mean, torch.ones_like(sd))
    assert abs(prior + 0.5 * (1 + math.log(2 * math.pi))) < 0.05  # N(0, 1): -1.419
    assert best > max(prior + 1, score(mean, 1.3 * sd), score(mean, 0.8 * sd), score(mean + 0.3 * sd, sd))


def test_shots_are_nested_and_queries_stay():
    family, index = gp(20, 9), torch.arange(12)
    most = family.sample("val", index, shots=20)
    for shots in (0, 3, 16, 17):
        few = family.sample("val", index, shots=shots)
        assert torch.equal(few.support.y, most.support.y[:, :shots])
        assert torch.equal(few.query.y, most.query.y)
    assert torch.allclose(family.sample("val", index, shots=40).query.y, most.query.y, atol=1e-7)
    fewer = family.sample("val", index, shots=16, queries=2)
    assert torch.allclose(fewer.support.y, most.support.y[:, :16], atol=1e-7)
    assert torch.allclose(fewer.query.y, most.query.y[:, :2], atol=1e-7)


def test_the_number_of_support_points_varies_by_bucket():
    family = gp([0, 20], 3, bucket=8, test={"shots": [2, 5]})
    counts = [family.sample("train", torch.arange(8 * i, 8 * i + 8)).support.x.shape[1] for i in range(210)]
    assert abs(np.bincount(counts, minlength=21) - 10).max() <= 2  # each of 21 numbers about 10 times, in any order
    assert counts != sorted(counts)
    whole = family.sample("train", torch.arange(8, 16))
    for part in (torch.tensor([11]), torch.tensor([15, 9])):
        again = family.sample("train", part)
        assert torch.equal(again.support.y, whole.support.y[part - 8])
        assert torch.equal(again.query.y, whole.query.y[part - 8])
    same = gp([0, 20], 3, bucket=25, seed=3, test={"shots": [2, 5]}).sample("test", torch.arange(20, 30))
    assert torch.equal(same.support.y, family.sample("test", torch.arange(20, 30)).support.y)
    with pytest.raises(ValueError, match=r'shots=\[0, 20\]: tasks 7 to 8 of split "train" have different numbers'):
        family.sample("train", torch.tensor([7, 8]))
    assert family.sample("train", torch.tensor([7, 8]), shots=2).support.x.shape == (2, 2, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": -1}, "shots=-1: must be at least 0"),
        ({"shots": [3, 1]}, r"shots=\[3, 1\]: must be two finite numbers"),
        ({"test": {"shots": [-1, 1]}}, r"test.shots=\[-1, 1\]: each must be at least 0"),
        ({"kernel": "rbf"}, r"kernel=rbf: must be eq \| matern52 \| periodic"),
        ({"length": 0.0}, "length=0.0: must be above 0"),
        ({"scale": [0.5, "a"]}, "scale="),
        ({"noise": -1.0}, "noise=-1.0: must be at least 0"),
        ({"x_range": [2.0, 2.0]}, "x_range="),
        ({"bucket": 0}, "bucket=0: must be at least 1"),
    ],
)
def test_family_settings(settings, message):
    with pytest.raises(ValueError, match="^" + message):
        GP(**settings)


# --- sizes that vary -----------------------------------------------------------------------------------------------


def test_a_test_of_varying_tasks_is_cut_at_buckets():
    family = gp(10, 4, test={"shots": [0, 6]})
    learner = new(lambda f: CNP(f, Linear, width=8), family)
    scores = [evaluate(learner, "test", 33, [], chunk=chunk) for chunk in (1, 7, 100)]
    assert len({found.query_sha256 for found in scores}) == 1
    sizes = set()
    for i in range(33):
        one = task(family.sample("test", torch.tensor([i])), 0)
        sizes.add(len(one.support.x))
        prediction = learner.predict(learner.adapt(one.support, one.key), one.query.x)
        for found in scores:
            assert (
                abs(found.arrays["log_likelihood"][i, 0] - metrics.log_likelihood(prediction, one.query.y).item())
                < 1e-12
            )
    assert len(sizes) > 2
    floor = baselines(learner.family, "test", 33)["mean"]
    assert list(floor) == ["mse"]
    for i in range(33):
        one = task(family.sample("test", torch.tensor([i])), 0)
        mean = one.support.y.mean() if len(one.support.y) else 0.0
        assert abs(floor["mse"][i, 0] - float(((one.query.y - mean) ** 2).mean())) < 1e-12


def test_varying_sizes_and_compiled_steps():
    lines = ["algo=cnp", "task=gp", "model=linear", "device=cpu", "device.threads=1", "steps=1000000", "algo.width=4"]
    assert not Experiment(load([*lines, "task.shots=[0,5]"])).training.compiled
    assert Experiment(load([*lines, "task.shots=5", "task.test.shots=[0,5]"])).training.compiled
    with pytest.raises(ConfigError, match=r"compile=true: a compiled step has one shape, and task.shots varies; use"):
        Experiment(load([*lines, "task.shots=[0,5]", "compile=true"]))
    with pytest.raises(ConfigError, match=r"task.bucket=10: must be a multiple of meta_batch=25"):
        Experiment(load([*lines, "task.shots=[0,5]", "task.bucket=10"]))
    assert decide_compile(False, 10**9, "vmap", torch.device("cpu"), varying=True) is False


def test_r2d2_without_support_predicts_its_shift():
    """The mean of no target counts as 0, and the ridge solution of nothing is 0."""
    family = gp((0, 4), 6, bucket=10)
    learner = new(lambda f: R2D2(f, partial(MLP, hidden=[8])), family)
    with torch.no_grad():
        learner.shift.fill_(0.25)
        episode = task(family.sample("train", torch.arange(10), shots=0), 3)
        found = learner.predict(learner.adapt(episode.support, episode.key), episode.query.x)
    assert torch.equal(found, torch.full((6, 1), 0.25, dtype=F64))
