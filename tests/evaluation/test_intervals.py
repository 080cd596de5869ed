"""The intervals of `python -m metaexp.report`: tables of quantiles, closed forms, coverage by simulation."""

import math
import subprocess
import sys

import numpy as np
import pytest

from metaexp.evaluation.intervals import (
    band,
    crossed,
    difference,
    holm,
    made_worse,
    middle,
    over_seeds,
    over_tasks,
    sign_test,
    summary,
    t_quantile,
    t_tails,
    worst_share,
)

T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 15: 2.131, 30: 2.042, 1000: 1.962}  # any printed table


def test_quantiles_are_those_of_the_tables() -> None:
    for df, value in T95.items():
        assert t_quantile(df) == pytest.approx(value, abs=6e-4)
    assert t_quantile(1) == pytest.approx(math.tan(0.475 * math.pi), rel=1e-7)  # Cauchy's, in closed form
    assert t_quantile(2) == pytest.approx(0.95 / math.sqrt(2 * 0.975 * 0.025), rel=1e-7)  # and for 2
    assert t_quantile(3) < t_quantile(2.5) < t_quantile(2)
    assert t_quantile(1e9) == pytest.approx(1.959964, abs=1e-6)


def test_intervals_in_closed_form() -> None:
    assert over_tasks(np.array([1.0, 3.0, np.nan])) == pytest.approx((2.0, 1.96 * math.sqrt(2) / math.sqrt(2)))
    assert over_seeds([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.302653 / math.sqrt(3)), rel=1e-5)
    assert over_seeds([1.5]) == (1.5, None)
    assert over_tasks(np.array([np.nan])) == (None, None)
    random = np.random.default_rng(0)
    level, seeds = random.normal(size=40), (random.normal(size=(3, 1)), random.normal(size=(5, 1)))
    one, two = (part + level for part in seeds)  # tasks are shared and add: Welch's t test of the seeds
    a, b = (part.var(ddof=1) / len(part) for part in seeds)
    df = (a + b) ** 2 / (a**2 / 2 + b**2 / 4)
    mean, half, p = crossed(one, two)
    assert (mean, half) == pytest.approx((one.mean() - two.mean(), t_quantile(df) * math.sqrt(a + b)), rel=1e-9)
    assert p == pytest.approx(t_tails(mean / math.sqrt(a + b), df), rel=1e-9)
    one, two = np.tile(level, (3, 1)), np.zeros((4, 40))  # seeds are equal: a paired t test of the tasks
    mean, half, p = crossed(one, two)
    error = level.std(ddof=1) / math.sqrt(40)
    assert (mean, half) == pytest.approx((level.mean(), t_quantile(39) * error))
    assert p == pytest.approx(t_tails(mean / error, 39))
    assert crossed(one * 0, two)[1:] == (0.0, 1.0)
    assert crossed(one * 0 + 1, two)[1:] == (0.0, 0.0)


def test_tails_are_those_of_the_tables() -> None:
    for df, value in T95.items():
        assert t_tails(value, df) == pytest.approx(0.05, abs=1e-4)
    for df in (1, 1.5, 2, 7.3, 40, 199, 1000, 1e5):
        assert t_tails(-t_quantile(df), df) == pytest.approx(0.05, abs=1e-7)
    for t in (0.0, 0.3, 2.0, 50.0, 1e4):
        assert t_tails(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi, abs=1e-9)  # closed forms
        assert t_tails(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t**2), abs=1e-9)
        assert t_tails(t, math.inf) == pytest.approx(math.erfc(t / math.sqrt(2)), abs=1e-9)
        assert t_tails(t, 1e7) == pytest.approx(math.erfc(t / math.sqrt(2)), abs=1e-7)
    assert t_tails(3.0, 1e5) == pytest.approx(math.erfc(3 / math.sqrt(2)), rel=1e-3)
    assert t_tails(1e3, 1e4) == pytest.approx(0.0, abs=1e-9)


def test_many_pairs_at_once() -> None:
    """Holm's worked rule; and over 2,000 experiments of 10 true nulls, about one in twenty has any error, not 40 %."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []
    random = np.random.default_rng(0)
    plain, corrected = 0, 0
    for _ in range(2000):
        p = [math.erfc(abs(z) / math.sqrt(2)) for z in random.normal(size=10)]
        plain, corrected = plain + (min(p) < 0.05), corrected + (min(holm(p)) < 0.05)
    assert plain / 2000 > 0.35
    assert 0.035 <= corrected / 2000 <= 0.065


@pytest.mark.parametrize(
    ("seeds", "tasks", "sizes"),
    [
        ((3, 3), 50, (1.0, 1.0, 0.1)),  # what seeds, tasks, and the two together contribute
        ((5, 3), 40, (0.0, 1.0, 0.1)),
        ((3, 3), 100, (0.1, 0.3, 0.5)),
    ],
)
def test_the_crossed_interval_covers(seeds: tuple[int, int], tasks: int, sizes: tuple[float, float, float]) -> None:
    """2,000 experiments with new seeds and tasks each: the true difference, 0, is in 93 to 98 % of the intervals."""
    random, hits = np.random.default_rng(0), 0
    of_seed, of_task, of_both = sizes
    for _ in range(2000):
        shared = random.normal(size=tasks)
        groups = []
        for n in seeds:
            task = of_task * (0.8 * shared + 0.6 * random.normal(size=tasks))  # what is hard for one is hard for both
            groups.append(of_seed * random.normal(size=(n, 1)) + task + of_both * random.normal(size=(n, tasks)))
        mean, half, p = crossed(*groups)
        assert (abs(mean) <= half) == (p >= 0.05) or abs(p - 0.05) < 1e-6
        hits += abs(mean) <= half
    assert 0.93 <= hits / 2000 <= 0.98


def test_few_seeds_make_a_claim_about_checkpoints() -> None:
    random = np.random.default_rng(0)
    one, two = random.normal(size=(3, 30)), random.normal(size=(2, 30))
    one[1, 4] = np.nan
    found = difference(one, two)
    assert found is not None
    paired = np.delete(one.mean(0) - two.mean(0), 4)
    assert (found.mean, found.half) == pytest.approx((paired.mean(), 1.96 * paired.std(ddof=1) / math.sqrt(29)))
    assert (found.crossed, found.tasks, found.lost) == (False, 29, 1)
    three = difference(one, random.normal(size=(3, 30)))
    assert three is not None
    assert three.crossed
    assert difference(one * np.nan, two) is None


def test_quantiles_beyond_the_printed_tables() -> None:
    """20 seeds have 19 degrees of freedom; values of a longer table, and for 7.3 of Simpson's rule."""
    for df, value in ((16, 2.119905), (17, 2.109816), (19, 2.093024), (29, 2.045230), (7.3, 2.345067)):
        assert t_quantile(df) == pytest.approx(value, abs=1e-6)
    means = list(np.random.default_rng(0).normal(size=20))
    found = over_seeds(means)
    assert found.half == pytest.approx(2.093024 * np.std(means, ddof=1) / math.sqrt(20), rel=1e-6)


def test_one_formula_for_every_interval_over_tasks() -> None:
    values = np.random.default_rng(0).normal(size=(50, 3))
    values[7, 1] = np.inf
    kept = np.delete(values, 7, 0)
    mean, half, lost = band(values)
    found = summary(values, False)
    assert lost == found["diverged"] == 1
    for step in range(3):
        exact = kept[:, step].mean(), 1.96 * kept[:, step].std(ddof=1) / 7
        assert (mean[step], half[step]) == pytest.approx(exact, rel=1e-14)
        told = found["per_step"][step]
        assert (told["mean"], told["ci95"]) == pytest.approx(exact, rel=1e-14)
        assert told["median"] == np.median(kept[:, step])
        assert over_tasks(kept[:, step]) == pytest.approx(exact, rel=1e-14)
    assert all(np.isnan(part).all() for part in band(np.full((2, 3), np.nan))[:2])


def test_the_median_interval_is_that_of_coin_throws() -> None:
    """Against sums of binomial coefficients; a printed table of order statistics has 6, 10 and 20."""
    for n in (1, 5, 6, 7, 10, 20, 59, 200, 1000):
        below, k = 0, 0  # P(at most k - 1 heads) <= 2.5 %
        while (below + math.comb(n, k)) * 40 <= 2**n:
            below, k = below + math.comb(n, k), k + 1
        found = middle(np.random.default_rng(n).permutation(n) + 1.0)
        assert found.median == (n + 1) / 2
        assert found.ends == ((k, n + 1 - k) if k else None), n
    assert [middle(np.arange(n) + 1.0).ends for n in (6, 10, 20)] == [(1, 6), (2, 9), (6, 15)]
    assert middle(np.array([])) == (None, None)
    assert middle(np.array([3.0, 3.0, 1.0, 3.0, 3.0, 3.0])) == (3.0, (1.0, 3.0))


def test_of_heavy_tails_the_median_interval_covers_and_that_of_the_mean_does_not() -> None:
    """Log-normal errors with sigma 2 on 1,000 tasks, 2,000 tests: 86 % for the mean, 95 % for the median."""
    scores = np.exp(2 * np.random.default_rng(0).normal(size=(2000, 1000)))
    mean, half = scores.mean(1), 1.96 * scores.std(1, ddof=1) / math.sqrt(1000)
    of_mean = (np.abs(mean - math.exp(2)) <= half).mean()
    low, high = middle(np.arange(1000.0)).ends or (0.0, 0.0)  # which of them, in order
    placed = np.sort(scores, 1)
    ends = placed[:, int(low)], placed[:, int(high)]
    assert middle(scores[7]).ends == (ends[0][7], ends[1][7])
    of_median = ((ends[0] <= 1) & (ends[1] >= 1)).mean()
    assert of_mean == pytest.approx(0.857, abs=0.02)
    assert of_median == pytest.approx(0.951, abs=0.012)
    shares = placed[:, -10:].sum(1) / placed.sum(1)
    assert worst_share(scores[7], False) == pytest.approx(shares[7])
    assert (shares > 0.25).mean() > 0.9
    normal = [worst_share(np.abs(np.random.default_rng(i).normal(size=1000)), False) for i in range(20)]
    assert max(one or 0 for one in normal) < 0.05


def test_what_the_worst_tasks_carry() -> None:
    assert worst_share(np.ones(300), False) == pytest.approx(0.01)
    values = np.r_[np.ones(199), 801.0]  # the worst two of 200
    assert worst_share(values, False) == pytest.approx(802 / 1000)
    assert worst_share(values, True) == pytest.approx(2 / 1000)  # an accuracy: the smallest are the worst
    assert worst_share(-values, True) == pytest.approx(802 / 1000)  # a log-likelihood
    assert worst_share(np.array([1.0, 3.0]), False) == 0.75  # at least one task
    assert worst_share(np.zeros(4), False) is None
    told = summary(values[:, None], False)
    assert (told["worst_share"], told["heavy_tailed"]) == (pytest.approx(0.802), True)
    assert not summary(np.ones((300, 1)), False)["heavy_tailed"]
    assert summary(np.zeros((0, 1)), False)["worst_share"] is None


def test_tasks_that_adaptation_made_worse_are_counted() -> None:
    values = np.array([[1.0, 9, 0.5], [1, 0, 1], [1, 0, 1.5], [1, 0, np.nan], [np.inf, 0, 1], [2, 2, np.inf]])
    assert made_worse(values, False) == 3  # above; not a number; infinite
    assert made_worse(values, True) == 3  # below; not a number; infinite is not finite any more
    assert made_worse(values[:, :1], False) is None
    assert made_worse(values, None) is None
    assert summary(values, False)["made_worse"] == 3


def test_the_sign_test_is_exact() -> None:
    for larger, smaller in ((0, 0), (3, 1), (1, 8), (60, 40), (500, 500)):
        n = larger + smaller
        tail = sum(math.comb(n, i) for i in range(min(larger, smaller) + 1)) / 2**n
        found = sign_test(np.r_[np.full(larger, 0.1), np.full(smaller, -50.0), np.zeros(5)])
        assert (found.larger, found.smaller) == (larger, smaller)
        assert found.p == pytest.approx(min(2 * tail, 1.0), rel=1e-9)
    random = np.random.default_rng(0)
    wrong = np.mean([sign_test(np.exp(2 * a) - np.exp(2 * b)).p < 0.05 for a, b in random.normal(size=(1000, 2, 100))])
    assert 0.02 < wrong < 0.055  # never more than 5 %; discrete, so less
    one, two = random.normal(size=(2, 1, 50))
    found = difference(one, two)
    assert found is not None
    assert found.signs == sign_test((one - two)[0])
    assert found.worst == worst_share(np.abs(one - two)[0], False)


def test_scipy_is_imported_only_for_students_t() -> None:
    """It takes half a second, which neither `--help` nor a refused setting should pay.

    A training run imports Lightning, whose torchmetrics imports scipy.signal where SciPy is installed.
    """
    code = "import sys, metaexp.train, metaexp.evaluate, metaexp.run.single, metaexp.report.tables; "
    code += "assert not any(name.partition('.')[0] == 'scipy' for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
