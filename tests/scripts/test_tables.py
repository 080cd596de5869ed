"""scripts/tables.py: its baselines against independent code, its protocols, and the command on made data."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from scipy import optimize, stats

pytest.importorskip("sklearn")
sys.path.insert(0, str(ROOT / "scripts"))
from sklearn.metrics import ndcg_score
from tabling import compared, floors, forecast, measures, mixed, movielens, recommend, table, trials
from tabling.page import between

from metaexp.errors import DataError

NOTHING = (np.zeros((0, 2)), np.zeros(0))


def made_pool(tasks: int = 12, rows: int = 9, seed: int = 0) -> table.Pool:
    """Lines with an offset of standard deviation 2 and slopes of 0.5 around (1, -1), noise 0.3."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((tasks, rows, 2))
    slopes = np.array([1.0, -1.0]) + 0.5 * random.standard_normal((tasks, 1, 2))
    y = 3 + 2 * random.standard_normal((tasks, 1)) + (x * slopes).sum(-1) + 0.3 * random.standard_normal((tasks, rows))
    return table.Pool(x.reshape(-1, 2), y.reshape(-1), np.repeat(np.arange(tasks), rows))


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


# -- ratings -------------------------------------------------------------------------------------------------------------


def write_movielens(folder: Path, users: int = 60, items: int = 40, seed: int = 0) -> None:
    """Made ratings in both layouts, 25 to 40 for each user."""
    random = np.random.default_rng(seed)
    (folder / "original").mkdir(parents=True)
    (folder / "packed").mkdir()
    level, taste, kind = random.normal(0, 0.5, users), random.standard_normal((users, 2)), random.normal(size=(items, 2))
    lines = []
    for user in range(users):
        for item in random.permutation(items)[: random.integers(25, 41)]:
            rating = np.clip(np.rint(3.5 + level[user] + taste[user] @ kind[item]), 1, 5)
            lines.append((user + 1, item + 1, int(rating), int(random.integers(1000, 2000))))
    genre = random.random((items, 19)) < 0.15
    text = "".join("\t".join(map(str, line)) + "\n" for line in lines)
    (folder / "original" / "u.data").write_text(text)
    flags = ["|".join(str(int(flag)) for flag in row) for row in genre]
    film = [f"{i + 1}|Film {i} ({1950 + i})|01-Jan-{1950 + i}||http://|{flags[i]}\n" for i in range(items)]
    (folder / "original" / "u.item").write_text("".join(film), encoding="latin-1")
    people = [(u + 1, 20 + u % 40, "MF"[u % 2]) for u in range(users)]
    (folder / "original" / "u.user").write_text("".join(f"{u}|{a}|{s}|other|00000\n" for u, a, s in people))
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "packed" / "ml-100k.inter").write_text(head + text)
    names = [" ".join(np.array(movielens.GENRES)[row]) for row in genre]
    films = "".join(f"{i + 1}\tFilm {i}\t{1950 + i}\t{names[i]}\n" for i in range(items))
    head = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    (folder / "packed" / "ml-100k.item").write_text(head + films)
    head = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    (folder / "packed" / "ml-100k.user").write_text(head + "".join(f"{u}\t{a}\t{s}\tother\t0\n" for u, a, s in people))


@pytest.fixture(scope="module")
def made_ratings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("movielens")
    write_movielens(folder)
    return folder


def test_both_layouts_of_movielens_are_the_same_ratings(made_ratings):
    one, two = movielens.read(made_ratings / "original"), movielens.read(made_ratings / "packed")
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a, b)
    assert (np.diff(one.user) >= 0).all()
    assert (np.diff(one.time)[np.diff(one.user) == 0] >= 0).all()
    with pytest.raises(DataError, match="--movielens"):
        movielens.read(made_ratings)


def test_item_statistics_never_see_the_user_of_the_row_nor_a_test_user(made_ratings):
    ratings = movielens.read(made_ratings / "packed")
    split = movielens.divide(ratings)
    assert not set(split["test"]) & set(split["train"])
    assert not set(split["val"]) & (set(split["train"]) | set(split["test"]))
    counts = np.bincount(ratings.user)
    assert min(counts[split["test"]]) >= 30
    before = movielens.table(ratings, split).frame
    columns = [name for name in before if name.startswith(("item_", "factor_"))]
    for user in (split["train"][0], split["test"][0]):
        own = ratings.user == user
        changed = ratings._replace(rating=np.where(own, 6 - ratings.rating, ratings.rating))
        after = movielens.table(changed, split).frame
        # The mean of all ratings moves with a training user, which shifts residuals a little.
        kept = own if user in split["train"] else np.full(len(own), True)
        shift = 0.0 if user in split["test"] else 0.05
        for name in ("item_mean", "item_count"):
            assert np.abs(after[name] - before[name])[kept].max() <= shift
        if user in split["test"]:
            assert np.array_equal(after[columns], before[columns])


def test_item_mean_is_the_shrunk_mean_of_the_other_training_users(made_ratings):
    ratings = movielens.read(made_ratings / "packed")
    split = movielens.divide(ratings)
    frame = movielens.table(ratings, split).frame
    inside = np.isin(ratings.user, split["train"])
    mean = ratings.rating[inside].mean()
    for row in (0, 7, len(frame) - 1):
        others = inside & (ratings.item == ratings.item[row]) & (ratings.user != ratings.user[row])
        expected = (ratings.rating[others] - mean).sum() / (others.sum() + 5)
        assert frame.item_mean[row] == pytest.approx(expected)
        assert frame.item_count[row] == pytest.approx(np.log1p(others.sum()))


def test_alternating_least_squares_find_a_matrix_of_low_rank():
    random = np.random.default_rng(0)
    whole = random.standard_normal((30, 2)) @ random.standard_normal((2, 20))
    user, item = (part.ravel() for part in np.indices(whole.shape))
    shown = random.random(len(user)) < 0.7
    v = movielens.als(user[shown], item[shown], whole[user, item][shown], 20, 2, 1e-6, sweeps=50)
    known = user == 0
    own = movielens.ridge(v[item[known][:6]], whole[0][:6], 1e-8)
    assert np.allclose(v @ own, whole[0], atol=1e-3)
    x, y = random.standard_normal((5, 3)), random.standard_normal(5)
    assert np.allclose(x.T @ (y - x @ movielens.ridge(x, y, 2.0)), 2.0 * movielens.ridge(x, y, 2.0))


def test_nearest_items_against_loops(made_ratings):
    ratings = movielens.read(made_ratings / "packed")
    users = movielens.divide(ratings)["train"]
    known = movielens.statistics(ratings, users)
    level = {}
    for user in users:
        rows = np.flatnonzero(ratings.user == user)
        left = ratings.rating[rows] - known.mean - known.item[ratings.item[rows]]
        level[user] = dict(zip(ratings.item[rows], left - left.sum() / (len(left) + 5), strict=True))

    def alike(i: int, j: int) -> float:
        both = [(own[i], own[j]) for own in level.values() if i in own and j in own]
        a, b = np.array(both).T
        return max(0.0, a @ b / np.sqrt((a @ a) * (b @ b)) * len(both) / (len(both) + 10))

    support, query = np.flatnonzero(ratings.user == 3)[:4], np.flatnonzero(ratings.user == 3)[-3:]
    items = ratings.item[support]
    left = ratings.rating[support] - known.mean - known.item[items]
    own = left.sum() / (4 + 5)
    expected = []
    for item in ratings.item[query]:
        weights = np.array([alike(item, other) for other in items])
        expected.append(known.mean + known.item[item] + own + weights @ (left - own) / (weights.sum() + 0.5))
    assert np.allclose(recommend.nearest_items(ratings, users, (10.0, 0.5))(support, query), expected)
    none = recommend.nearest_items(ratings, users, (10.0, 0.5))(support[:0], query)
    assert np.allclose(none, known.mean + known.item[ratings.item[query]])
    assert np.allclose(recommend.als_fold_in(ratings, users, (2, 0.1, 1.0))(support[:0], query), none)
    assert np.allclose(recommend.user_item_means(ratings, users, (5.0, 5.0))(support, query), none + own)
