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
    over_seeds,
    over_tasks,
    summary,
    t_quantile,
    t_tails,
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
        assert tuple(found["per_step"][step].values()) == pytest.approx(exact, rel=1e-14)
        assert over_tasks(kept[:, step]) == pytest.approx(exact, rel=1e-14)
    assert all(np.isnan(part).all() for part in band(np.full((2, 3), np.nan))[:2])


def test_scipy_is_imported_only_for_students_t() -> None:
    """It takes half a second, which neither `--help` nor a refused setting should pay.

    A training run imports Lightning, whose torchmetrics imports scipy.signal where SciPy is installed.
    """
    code = "import sys, metaexp.train, metaexp.evaluate, metaexp.run.single, metaexp.report.tables; "
    code += "assert not any(name.partition('.')[0] == 'scipy' for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
