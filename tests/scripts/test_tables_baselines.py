"""scripts/tables.py: baselines, measures and differences against independent code; supports that are nested."""

import itertools
import sys

import numpy as np
import pytest
from conftest import ROOT
from made_pools import made_pool
from scipy import optimize, stats

pytest.importorskip("sklearn")
sys.path.insert(0, str(ROOT / "scripts"))
from sklearn.linear_model import Ridge
from sklearn.metrics import ndcg_score
from tabling import compared, floors, forecast, measures, mixed, table, trials
from tabling.page import between

NOTHING = (np.zeros((0, 2)), np.zeros(0))


def dense_log_likelihood(pool: table.Pool, beta: np.ndarray, cov: np.ndarray, noise: float) -> float:
    total = 0.0
    for task in np.unique(pool.task):
        z = mixed.with_one(pool.x[pool.task == task])
        spread = z @ cov @ z.T + noise * np.eye(len(z))
        total += stats.multivariate_normal.logpdf(pool.y[pool.task == task], z @ beta, spread)
    return float(total)


@pytest.mark.parametrize("slopes", [False, True])
def test_mixed_effects_are_at_the_maximum_of_the_likelihood(slopes):
    pool = made_pool()
    found = mixed.fit(pool, slopes, steps=20000, tolerance=1e-13)
    value = dense_log_likelihood(pool, found.beta, found.cov, found.noise)
    assert found.log_likelihood == pytest.approx(value, abs=1e-6)
    kept = np.ix_(*2 * [range(3 if slopes else 1)])
    assert (np.delete(found.cov, range(3 if slopes else 1), 0) == 0).all()
    root = np.linalg.cholesky(found.cov[kept])
    size = len(root)

    def minus(v: np.ndarray) -> float:  # another code, another parametrisation: root of the covariance, log noise
        cov, low = np.zeros((3, 3)), np.zeros((size, size))
        low[np.tril_indices(size)] = v[4:]
        cov[kept] = low @ low.T
        return -dense_log_likelihood(pool, v[:3], cov, np.exp(v[3]))

    at = np.concatenate([found.beta, [np.log(found.noise)], root[np.tril_indices(size)]])
    assert minus(at) == pytest.approx(-value)
    assert np.abs(optimize.approx_fprime(at, minus, 1e-6)).max() < 0.05
    for way in np.random.default_rng(1).standard_normal((30, len(at))):
        assert minus(at + 0.05 * way) > minus(at)


def test_mixed_effects_predict_the_conditional_mean():
    """Of the joint normal distribution of a task's coefficients and its support, by the information form."""
    pool = made_pool()
    found = mixed.fit(pool, slopes=True)
    x, y, new = pool.x[:4], pool.y[:4], pool.x[4:9]
    z = mixed.with_one(x)
    information = np.linalg.inv(found.cov) + z.T @ z / found.noise
    own = found.beta + np.linalg.solve(information, z.T @ (y - z @ found.beta) / found.noise)
    assert np.allclose(found.predict(x, y, new), mixed.with_one(new) @ own)
    assert np.allclose(found.predict(*NOTHING, new), mixed.with_one(new) @ found.beta)


def test_common_slopes_are_those_of_a_regression_with_one_column_per_task():
    pool = made_pool()
    wide = np.concatenate([pool.x, np.eye(12)[pool.task]], 1)
    slopes = np.linalg.lstsq(wide, pool.y, rcond=None)[0][:2]
    x, y, new = np.array([[1.0, 2.0], [0.5, 0.0]]), np.array([4.0, 6.0]), np.array([[2.0, 2.0]])
    expected = new @ slopes + (y - x @ slopes).mean()
    assert np.allclose(floors.pooled_offset(pool)(x, y, new), expected)
    level = (pool.y - pool.x @ slopes).mean()
    assert np.allclose(floors.pooled_offset(pool)(*NOTHING, new), new @ slopes + level)


def test_simple_baselines():
    pool = table.Pool(np.array([[0.0], [1.0], [5.0]]), np.array([1.0, 3.0, 11.0]), np.array([0, 0, 1]))
    x, y, new = np.array([[0.0], [10.0], [20.0]]), np.array([1.0, 2.0, 6.0]), np.array([[9.0]])
    assert floors.global_mean(pool)(x, y, new) == 5
    assert floors.task_mean(pool)(x, y, new) == 3
    assert floors.task_mean(pool)(x[:0], y[:0], new) == 5
    assert floors.neighbours(1)(pool)(x, y, new) == 2
    assert floors.neighbours(2)(pool)(x, y, new) == 1.5
    assert floors.pooled(pool)(x, y, new) == pytest.approx(1 + 2 * 9)
    assert forecast.last_value(pool)(x, y, new) == 6
    assert forecast.drift(pool)(x, y, np.array([[24.0]])) == 6 + 4 * 5 / 20
    assert forecast.trend(pool)(x, y, new) == pytest.approx(3 - (5 / 20))  # the line 0.5 + 0.25 t
    assert forecast.mean_change(pool)(np.array([[0.0]]), np.array([7.0]), np.array([[3.0]])) == 7 + (3 + 4 - 1)
    some = made_pool()
    own = floors.own_ridge(2.0)(some)(some.x[:5], some.y[:5], some.x[5:9])
    assert np.allclose(own, Ridge(2.0).fit(some.x[:5], some.y[:5]).predict(some.x[5:9]))
    trees = floors.trees_offset(4)(made_pool(40))
    assert trees(np.zeros((1, 2)), np.array([50.0]), np.zeros((1, 2))) == pytest.approx(50.0)


def test_logistic_offsets():
    random = np.random.default_rng(1)
    logits, y = random.standard_normal(7), np.array([1, 1, 0, 1, 1, 0, 1.0])

    def minus(b: float) -> float:
        return float(np.log1p(np.exp(-np.where(y == 1, 1, -1) * (logits + b))).sum() + b**2 / (2 * 0.7**2))

    assert floors.best_offset(logits, y, 0.7) == pytest.approx(optimize.minimize_scalar(minus).x, abs=1e-6)
    pool = made_pool(20)
    pool = pool._replace(y=(pool.y > 3).astype(float))
    predict = floors.offset_logistic(2.0)(pool)
    new = np.zeros((1, 2))
    high, low = (predict(np.zeros((5, 2)), np.full(5, label), new) for label in (1.0, 0.0))
    assert low < predict(*NOTHING, new) < high
    assert floors.majority(pool)(*NOTHING, new) == pool.y.mean()
    assert floors.own_logistic(1.0)(pool)(np.zeros((3, 2)), np.ones(3), new) == 4 / 5


def test_measures():
    y = np.array([1.0, 5.0, 3.0, 3.0, 2.0])
    made = np.array([0.1, 0.7, 0.4, 0.2, 0.3])
    assert measures.ndcg(y, y, made) == pytest.approx(ndcg_score([2**y - 1], [made]))
    tied = np.array([0.5, 0.5, 0.5, 0.9, 0.1])
    orders = [np.argsort(-(tied + 1e-3 * np.array(shift)), kind="stable") for shift in itertools.permutations(range(5))]
    discount = 1 / np.log2(np.arange(5) + 2)
    mean = np.mean([((2 ** y[order] - 1) * discount).sum() for order in orders])
    assert measures.ndcg(y, y, tied) == pytest.approx(mean / (np.sort(2**y - 1)[::-1] * discount).sum())
    assert measures.mase(np.array([1.0, 2.0, 4.0]), np.array([5.0, 6.0]), np.array([4.0, 8.0])) == 1.5 / 1.5
    label = np.array([0, 0, 1, 1, 0.0])
    pairs = [(made[i] > made[j]) + 0.5 * (made[i] == made[j]) for i in (2, 3) for j in (0, 1, 4)]
    assert measures.auc(label, label, made) == pytest.approx(np.mean(pairs))
    assert measures.balanced_accuracy(label, made, 0.25) == (1 / 3 + 1 / 2) / 2
    assert measures.log_loss(label, label, made) == pytest.approx(
        -np.mean(np.log([1 - 0.1, 1 - 0.7, 0.4, 0.2, 1 - 0.3]))
    )


def made_numbers(tasks: int = 8, rows: int = 40, classes: bool = False) -> table.Numbers:
    pool = made_pool(tasks, rows)
    names = [f"t{i}" for i in range(tasks)]
    split = {"train": names[: tasks - 4], "val": names[tasks - 4 : tasks - 2], "test": names[tasks - 2 :]}
    places = {name: np.flatnonzero(pool.task == i)[::-1] for i, name in enumerate(names)}
    return table.Numbers(pool.x, (pool.y > 3).astype(float) if classes else pool.y, places, split)


def test_supports_are_nested_and_never_asked_for():
    n = made_numbers()
    cells = trials.random_shots(n, "test", (1, 5, 10), repeats=3)
    assert list(cells) == ["1 shots", "5 shots", "10 shots"]
    for few, more in zip(cells["1 shots"], cells["10 shots"], strict=True):
        assert (more.support[:1] == few.support).all()
        assert (more.query == few.query).all()
        assert sorted([*more.support, *more.query]) == sorted(n.rows[more.task])
    assert len({tuple(trial.support) for trial in cells["10 shots"]}) == 6
    two = trials.stratified(made_numbers(classes=True), "test", (4, 10), repeats=2)
    for trial in two["10 shots"]:
        assert len(trial.support) == 10
        assert not set(trial.support) & set(trial.query)
        assert set(made_numbers(classes=True).y[trial.support[:2]]) == {0.0, 1.0}
    ahead = trials.rolling(n, "test", (5, 37, 38), 3)["3 steps ahead"]
    assert [(len(t.support), list(t.query)) for t in ahead[:2]] == [
        (5, list(n.rows["t6"][5:8])),
        (37, list(n.rows["t6"][37:])),
    ]
    assert len(ahead) == 4  # 38 known rows leave only two
    cold = trials.cold_start(n, "test", (0, 20))
    assert [list(t.query) for t in cold["0 shots"]] == [list(n.rows[name][-10:]) for name in ("t6", "t7")]
    assert list(cold["20 shots"][0].support) == list(n.rows["t6"][:20])
    assert len(cold["0 shots"][0].support) == 0
    with pytest.raises(ValueError, match="least=31"):
        trials.cold_start(n, "test", (21,))


def test_differences_are_those_of_the_paired_t_test():
    random = np.random.default_rng(0)
    one, two, three = random.standard_normal((3, 2, 9)) + np.array([0.0, 1.0, 0.4])[:, None, None]
    found = compared.rows({"a": one, "b": two[:1], "m": three}, ["a", "b"], larger=True)
    assert found["best_baseline"] == "b"
    mean, half = found["rows"]["m"]["better"]["b"]
    test = stats.ttest_rel(three.mean(0), two[0])
    low, high = test.confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((low, high))
    smaller = compared.rows({"a": one, "b": two[:1], "m": three}, ["a", "b"], larger=False)
    assert smaller["best_baseline"] == "a"
    assert smaller["rows"]["m"]["better"]["a"][0] == pytest.approx(one.mean() - three.mean())
    assert between(12.3456, 0.0234) == "12.346 ± 0.023"
    assert between(0.51, 0.3) == "0.51 ± 0.30"


# -- ratings -----------------------------------------------------------------------------------------------------------
