"""The Bayes prediction of the mixture against brute-force quadrature and samples of the prior, in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
from mixture_reference import RANGES, value
from task_samples import double, oracle
from torch.func import vmap

from metaexp.algos.oracle import Oracle
from metaexp.tasks.mixture import NAMES, Mixture
from metaexp.tasks.sine import Sine

GRID = {"line": (400, 400), "surface": (400, 400), "ripple": (1500, 300), "quadratic": (60, 120, 120),
        "sine": (90, 40, 240), "cubic": (36, 36, 60, 60)}  # fmt: skip


def on_grid(name, x, y, at, noise):
    """Posterior mean [m] and marginal likelihood of one kind by the midpoint rule over all of its parameters."""
    axes = [low + (high - low) * (np.arange(n) + 0.5) / n
            for (low, high), n in zip(RANGES[name], GRID[name], strict=True)]  # fmt: skip
    total, mean = 0.0, np.zeros(len(at))
    for first in axes[0]:  # a slice at a time
        rest = np.stack(np.meshgrid(*axes[1:], indexing="ij")).reshape(len(axes) - 1, -1)
        p = [np.full(rest.shape[1], first), *rest]
        log = -0.5 * sum((y[j] - value(name, p, x[j : j + 1])) ** 2 for j in range(len(x))) / noise**2
        w = np.exp(log)
        total += w.sum()
        mean += np.array([(w * value(name, p, at[j : j + 1])).sum() for j in range(len(at))])
    return mean / total, total / math.prod(GRID[name])


@pytest.mark.parametrize("name", NAMES)
def test_one_kind_against_quadrature_over_all_parameters(name):
    family = double(Mixture(5, 4, kinds=[name], noise=0.4, oracle_samples=1 << 14))
    episode = family.sample("test", torch.arange(2))
    found = vmap(lambda task: family.posterior(task, task.query.x))(episode)
    assert float(found.effective_samples.min()) > 200
    for i in range(2):
        x, y, at = (t[i].numpy() for t in (episode.support.x, episode.support.y[..., 0], episode.query.x))
        expected, _ = on_grid(name, x, y, at, 0.4)
        spread = 0.4 * 3 / math.sqrt(float(found.effective_samples[i]))  # the function is known to about the noise
        assert np.abs(found.mean[i].numpy() - expected).max() < spread


def test_the_probability_of_each_kind_against_quadrature():
    kinds = ["line", "quadratic", "sine"]
    family = double(Mixture(4, 3, kinds=kinds, noise=0.8, oracle_samples=1 << 13))
    episode = family.sample("test", torch.arange(3))
    found = vmap(lambda task: family.posterior(task, task.query.x))(episode)
    order = [NAMES[k] for k in family.kinds]
    for i in range(3):
        x, y, at = (t[i].numpy() for t in (episode.support.x, episode.support.y[..., 0], episode.query.x))
        each = [on_grid(name, x, y, at, 0.8) for name in order]
        evidence = np.array([e for _, e in each])
        assert np.abs(found.kinds[i].numpy() - evidence / evidence.sum()).max() < 0.02
        expected = sum(m * e for m, e in each) / evidence.sum()
        assert np.abs(found.mean[i].numpy() - expected).max() < 0.05


def test_all_six_kinds_against_samples_of_the_prior():
    """Weighted draws of each prior: nothing is shared but the formulas."""
    random, noise = np.random.default_rng(0), 1.5
    family = double(Mixture(3, 5, noise=noise, oracle_samples=1 << 13))
    episode = family.sample("test", torch.arange(6))
    found = vmap(lambda task: family.posterior(task, task.query.x))(episode)
    assert {bool(flat) for flat in (episode.support.x[..., 1] == 1).all(1)} == {True, False}
    for i in range(6):
        x, y, at = (t[i].numpy() for t in (episode.support.x, episode.support.y[..., 0], episode.query.x))
        level, weights, values = (x[:, 1] == 1).all(), [], []
        for name in NAMES:
            p = [random.uniform(low, high, 100000) for low, high in RANGES[name]]
            log = -0.5 * sum((y[j] - value(name, p, x[j : j + 1])) ** 2 for j in range(3)) / noise**2
            weights.append(np.exp(log) * (level == (name not in ("surface", "ripple"))))
            values.append(np.stack([value(name, p, at[j : j + 1]) for j in range(5)]))
        w, f = np.concatenate(weights), np.concatenate(values, 1)
        expected = f @ w / w.sum()
        error = np.sqrt(((f - expected[:, None]) ** 2) @ w**2) / w.sum()  # its own standard error
        own = np.sqrt(((f - expected[:, None]) ** 2) @ w / w.sum() / float(found.effective_samples[i]))
        assert (np.abs(found.mean[i].numpy() - expected) < 4.5 * np.hypot(error, own)).all()
        share = np.array([one.sum() for one in weights]) / w.sum()
        assert np.abs(found.kinds[i].numpy() - share).max() < 0.03


def test_a_second_independent_sample_agrees_and_the_error_is_that_of_a_bayes_prediction():
    index = torch.arange(160)
    family, clean = double(Mixture(10, 20)), double(Mixture(10, 20, noise=0.0))
    episode, truth = family.sample("test", index), clean.sample("test", index).query.y[..., 0]
    one, two = (vmap(lambda task, d=draw: family.posterior(task, task.query.x, d))(episode) for draw in (0, 1))
    excess = (one.mean - truth) ** 2
    assert torch.equal(one.mean, oracle(family, episode)[..., 0])
    assert float(((one.mean - two.mean) ** 2).mean()) < 0.02 * float(excess.mean())
    assert not torch.equal(one.mean, two.mean)
    # What is left to know is uncorrelated with what is known: E[(f - m) m] = 0 for a posterior mean m, and no other.
    product = ((truth - one.mean) * one.mean).mean(1)
    assert abs(float(product.mean())) < 4 * float(product.std()) / math.sqrt(len(index))
    error = (one.mean - episode.query.y[..., 0]) ** 2
    assert float(error.mean()) > 0.09
    assert abs(float(error.mean() - excess.mean()) - 0.09) < 4 * 0.09 * math.sqrt(2 / error.numel()) + 0.01
    # A kind's probability is calibrated: the kinds given probability p are the true ones in a share p of the tasks.
    true = torch.nn.functional.one_hot(episode.info["kind"], 6).double()
    spread = (one.kinds * (1 - one.kinds)).sum(0).sqrt() / len(index)
    assert ((one.kinds - true).mean(0).abs() < 4 * spread + 1e-9).all()


def test_the_second_input_tells_flat_kinds_from_the_others():
    episode = Mixture().sample("test", torch.arange(60))
    found = vmap(lambda task: Mixture().posterior(task, task.query.x))(episode)
    plane = episode.info["kind"] >= NAMES.index("surface")
    assert not found.kinds[plane][:, :4].any()
    assert not found.kinds[~plane][:, 4:].any()
    assert torch.allclose(found.kinds.sum(1), torch.ones(60, dtype=torch.float64))


def test_what_is_said_of_the_samples():
    family = double(Mixture(oracle_samples=64))
    episode = family.sample("test", torch.arange(40))
    said = vmap(family.oracle_diagnostics)(episode)
    found = vmap(lambda task: family.posterior(task, task.query.x[:1]))(episode)
    assert torch.allclose(said["p_kind"], found.kinds[torch.arange(40), episode.info["kind"]])
    assert torch.equal(said["effective_samples"], found.effective_samples)
    views = Oracle(family).views(episode)
    kind = episode.info["kind"]
    assert list(views["effective_samples"].names) == [NAMES[k] for k in sorted(set(kind.tolist()))]
    for name, shown in views.items():
        for place, k in enumerate(sorted(set(kind.tolist()))):
            assert float(shown.values[place]) == float(said[name][kind == k].median())
    assert Oracle(Sine()).views(Sine().sample("test", torch.arange(2))) == {}
    assert 1 <= float(said["effective_samples"].min()) <= float(said["effective_samples"].max()) <= 6 * 64


def test_without_noise_there_is_no_upper_bound():
    assert Mixture(noise=0.0).oracle is None
    with pytest.raises(ValueError, match="nobody knows the best prediction for Mixture"):
        Oracle(Mixture(noise=0.0))


def test_every_pair_of_kinds_is_possible():
    for pair in itertools.combinations(NAMES, 2):
        family = double(Mixture(kinds=pair, oracle_samples=32))
        episode = family.sample("test", torch.arange(4))
        assert vmap(family.oracle)(episode, episode.query.x).isfinite().all()
