"""The mixture of six kinds of functions: closed forms, moments, and independent code in numpy."""

import math

import numpy as np
import pytest
import torch
from mixture_reference import RANGES, value
from task_samples import double, uniform_on

from metaexp.tasks.mixture import KINDS, NAMES, Mixture


def moment(name):
    """Mean and variance of a target without noise, by integrals over the parameters and inputs in closed form."""
    m = lambda k: 5.0**k / (k + 1)  # noqa: E731  E[u^k], u ~ U[0, 5]
    var = lambda h: h**2 / 3  # noqa: E731  of U[-h, h]
    if name == "sine":  # the phase is uniform on the circle: mean 0, E[a^2] / 2
        return 0.0, (5.0**3 - 0.1**3) / (3 * 4.9) / 2
    if name == "ripple":  # E over a of sin^2: 1/2 - sinc, then over the radius by a fine grid
        grid = (np.arange(1500) + 0.5) / 1500 * 5
        r2 = grid[:, None] ** 2 + grid[None] ** 2
        return 0.0, var(3) + float((0.5 - np.sin(0.4 * r2) / (0.8 * r2)).mean())
    powers = {"line": [1, 0], "quadratic": [2, 1, 0], "cubic": [3, 2, 1, 0], "surface": [2, 2]}[name]
    return 0.0, sum(var(high) * m(2 * k) for k, (_, high) in zip(powers, RANGES[name], strict=True))


@pytest.fixture(scope="module")
def many():
    return double(Mixture(noise=0.0)).sample("train", torch.arange(12000))


def test_kinds_are_equally_likely_and_values_are_the_published_functions(many):
    kind, n = many.info["kind"], len(many.key)
    assert kind.dtype == torch.int64
    counts = torch.bincount(kind, minlength=6).double()
    assert ((counts - n / 6) ** 2 / (n / 6)).sum() < 20.5  # chi squared, 5 degrees: 0.1 %
    for i in range(400):
        name, p = NAMES[kind[i]], many.info["parameters"][i].numpy()
        for x, y in (many.support, many.query):
            expected = value(name, p, x[i].numpy())
            assert np.abs(y[i, :, 0].numpy() - expected).max() < 1e-11
        assert not p[len(RANGES[name]) :].any()


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_inputs_of_a_kind_are_uniform_and_independent(many, name):
    own = many.info["kind"] == NAMES.index(name)
    assert [tuple(r) for r in KINDS[name].ranges] == RANGES[name]
    drawn = many.info["parameters"][own]
    for j, (low, high) in enumerate(RANGES[name]):
        uniform_on(drawn[:, j], low, high)
    d = len(RANGES[name])
    correlation = torch.corrcoef(drawn[:, :d].T) - torch.eye(d)
    assert correlation.abs().max() < 4.5 / math.sqrt(len(drawn))
    u, v = torch.cat((many.support.x[own], many.query.x[own]), 1).unbind(-1)
    uniform_on(u, 0, 5)
    if name in ("surface", "ripple"):
        uniform_on(v, 0, 5)
        assert abs(float(torch.corrcoef(torch.stack((u.flatten(), v.flatten())))[0, 1])) < 4 / math.sqrt(u.numel())
    else:
        assert bool((v == 1).all())


@pytest.mark.parametrize("name", NAMES)
def test_moments_of_a_kind_are_those_of_the_closed_form(name):
    # One point of each task: the targets are independent.
    y = double(Mixture(1, 0, kinds=[name], noise=0.0)).sample("train", torch.arange(40000)).support.y.flatten()
    mean, variance = moment(name)
    assert abs(float(y.mean()) - mean) < 4 * math.sqrt(variance / len(y))
    spread = float(((y - mean) ** 2).std()) / math.sqrt(len(y))
    assert abs(float(((y - mean) ** 2).mean()) - variance) < 4 * spread


def test_noise_is_on_support_and_queries():
    index = torch.arange(3000)
    noisy, clean = (double(Mixture(noise=s)).sample("val", index) for s in (0.3, 0.0))
    for one, other in ((noisy.support, clean.support), (noisy.query, clean.query)):
        assert torch.equal(one.x, other.x)
        z = (one.y - other.y).flatten() / 0.3
        assert abs(float(z.mean())) < 4 / math.sqrt(len(z))
        assert abs(float(z.std()) - 1) < 4 / math.sqrt(2 * len(z))
        assert abs(float((z**4).mean()) - 3) < 4 * math.sqrt(96 / len(z))  # kurtosis of normal numbers
    apart = torch.corrcoef(torch.stack(((noisy.support.y - clean.support.y)[:, :, 0].flatten(),
                                        (noisy.query.y - clean.query.y)[:, :, 0].flatten())))  # fmt: skip
    assert abs(float(apart[0, 1])) < 4 / math.sqrt(30000)


def test_a_task_depends_on_seed_split_and_index_only():
    family = Mixture()
    whole = family.sample("test", torch.arange(50))
    for part in (torch.arange(20, 30), torch.tensor([49]), torch.tensor([7, 3])):
        again = family.sample("test", part)
        for a, b in zip([*whole.support, *whole.query, *whole.info.values()],
                        [*again.support, *again.query, *again.info.values()], strict=True):  # fmt: skip
            assert torch.equal(a[part], b)
    assert torch.equal(Mixture(seed=5).sample("test", torch.arange(9)).query.y, whole.query.y[:9])
    assert not torch.equal(Mixture(seed=5).sample("train", torch.arange(9)).query.y,
                           Mixture(seed=6).sample("train", torch.arange(9)).query.y)  # fmt: skip
    few = family.sample("test", torch.arange(50), shots=3, queries=4)  # nested
    assert torch.equal(few.support.x, whole.support.x[:, :3])
    assert torch.equal(few.support.y, whole.support.y[:, :3])
    assert torch.equal(few.query.y, whole.query.y[:, :4])


def test_a_subset_of_kinds_has_the_tasks_of_these_kinds():
    index = torch.arange(300)
    two, all_six = (double(Mixture(kinds=k)).sample("train", index) for k in (["ripple", "sine"], NAMES))
    assert set(two.info["kind"].tolist()) == {NAMES.index("sine"), NAMES.index("ripple")}
    same = two.info["kind"] == all_six.info["kind"]
    assert 60 < int(same.sum()) < 160  # a third
    assert torch.equal(two.query.y[same], all_six.query.y[same])
    for bad in ([], ["sine", "sine"], ["sinus"]):
        with pytest.raises(ValueError, match="kinds"):
            Mixture(kinds=bad)


def test_the_range_of_inputs_and_the_pool():
    wide = double(Mixture(x_range=(-5.0, 5.0), kinds=["surface"])).sample("train", torch.arange(2000))
    uniform_on(wide.support.x, -5, 5)
    x, y = double(Mixture()).pool("train", torch.arange(30), 40)
    assert x.shape == (30, 40, 2)
    assert y.shape == (30, 40, 1)
    assert abs(float((x[..., 1] == 1).double().mean()) - 4 / 6) < 4 * math.sqrt(2 / 9 / 1200)
