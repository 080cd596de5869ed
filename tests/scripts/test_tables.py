"""scripts/tables.py: its baselines against independent code, its protocols, and the command on made data."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from scipy import optimize, stats
from yaml import safe_dump, safe_load

pytest.importorskip("sklearn")
sys.path.insert(0, str(ROOT / "scripts"))
import tables as command
from sklearn.linear_model import Ridge
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


def write_movielens(folder: Path, users: int = 60, items: int = 40, seed: int = 0) -> None:
    """Made ratings in both layouts, 25 to 40 for each user."""
    random = np.random.default_rng(seed)
    (folder / "original").mkdir(parents=True)
    (folder / "packed").mkdir()
    level, taste, kind = (
        random.normal(0, 0.5, users),
        random.standard_normal((users, 2)),
        random.normal(size=(items, 2)),
    )
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


# -- the command -------------------------------------------------------------------------------------------------------


def write_counties(folder: Path, tasks: int = 20) -> None:
    """Made lines in the layout of radon.npz."""
    pool = made_pool(tasks, 12)
    split = np.repeat([0, 1, 2], [tasks - 8, 4, 4])
    (folder / "radon").mkdir(parents=True)
    names = {"feature_names": np.array(["a", "b"]), "task_names": np.array([f"county {i}" for i in range(tasks)])}
    rest = {"target_name": np.array("level"), "split": split.astype(np.int8)}
    np.savez(folder / "radon" / "radon.npz", x=pool.x.astype(np.float32), y=pool.y, task=pool.task, **names, **rest)


PLAN = safe_load((ROOT / "scripts" / "tables.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made_study(tmp_path_factory):
    """A study on made data with two methods: (folder, its JSON)."""
    home = tmp_path_factory.mktemp("tables")
    write_counties(home / "data")
    plan = PLAN | {"studies": {"radon": PLAN["studies"]["radon"] | {"steps": 8, "search_steps": 2}}}
    kinds = {name: one for name, one in PLAN["methods"]["regression"].items() if name in ("r2d2", "joint", "maml")}
    (home / "plan.yaml").write_text(safe_dump(plan | {"methods": {"regression": kinds}}))
    return home, run_command(home, "radon", "--methods", "r2d2,joint")


def run_command(home: Path, *words: str) -> dict:
    """The command with its quickest baselines."""
    places = ["--runs", home / "runs", "--data", home / "data", "--plan", home / "plan.yaml", "--out", home / "out"]
    with pytest.MonkeyPatch.context() as patch:
        for name in set(floors.REGRESSION) - {"global mean", "task mean", "pooled regression + task offset"}:
            patch.delitem(floors.REGRESSION, name)
        command.main([*words, *map(str, places), "--page", str(home / "page.md")])
    return json.loads((home / "out" / "radon.json").read_text())


def test_a_study_from_its_table_to_its_page(made_study):
    home, found = made_study
    n = table.numbers(table.radon(home / "data"))
    cell = trials.random_shots(n, "test", (1, 2, 5), repeats=5)["5 shots"]
    errors = {}
    for trial in cell:
        error = np.sqrt(np.mean((n.y[trial.query] - n.y[trial.support].mean()) ** 2))
        errors.setdefault(trial.task, []).append(error)
    rows = found["cells"]["5 shots"]["rmse"]["rows"]
    assert rows["task mean"]["mean"] == pytest.approx(np.mean([np.mean(part) for part in errors.values()]))
    assert rows["task mean"]["tasks"] == 4
    assert {name for name in rows if not rows[name]["baseline"]} == {"r2d2", "joint"}
    assert rows["r2d2"]["seeds"] == 2
    told = found["methods"]["r2d2"][0]
    assert [step for step, _ in told["curve"][0]] == [2, 3, 5, 6, 8]
    assert told["chosen"] == f"optimizer.lr={[0.001, 0.005][int(np.argmax(told['search']))]}"
    best = found["cells"]["5 shots"]["rmse"]["best_baseline"]
    assert rows["r2d2"]["better"][best][0] == pytest.approx(rows[best]["mean"] - rows["r2d2"]["mean"])
    shown = (home / "page.md").read_text()
    assert between(rows["r2d2"]["mean"], rows["r2d2"]["half"]) in shown
    assert "In `radon` these methods were not run so far: `maml`." in shown
    assert found["versions"]["torch"] in shown


def test_a_finished_run_is_not_made_again(made_study, capsys):
    home, found = made_study
    files = {file: file.stat().st_mtime_ns for file in (home / "runs").rglob("*.pt")}
    assert len(files) == 2 * (2 + 2)
    again = run_command(home, "radon", "--methods", "r2d2,joint")
    assert again["cells"] == found["cells"]
    assert {file: file.stat().st_mtime_ns for file in (home / "runs").rglob("*.pt")} == files
    with pytest.raises(SystemExit, match=r"seed0.json: made with other settings \(steps=4 steps=8\); move it away"):
        run_command(home, "radon", "--methods", "r2d2", "--budget", "0.5")


def test_predictions_in_batches_are_those_of_the_estimator(made_study):
    """Padding and batches change nothing, and the targets of queries are not looked at."""
    from tabling import comparing, methods

    home, _ = made_study
    source = table.radon(home / "data")
    n = table.numbers(source)
    typed = [*PLAN["common"], *comparing.words(source, home / "runs" / "radon" / "table.csv")]
    typed += PLAN["studies"]["radon"]["words"]
    coder = comparing.Coder(source, n, typed)
    typed += ["algo=maml", "algo.inner_steps=3", "algo.test_steps=3"]
    learner = methods.experiment(typed, coder.family, 0, 8).learner
    rows = [n.rows[task] for task in n.split["test"]]
    asked = [trials.Trial("a", rows[0][:3], rows[0][3:9]), trials.Trial("b", rows[1][:3], rows[1][3:5])]
    asked.append(trials.Trial("c", rows[2][:1], rows[2][3:]))
    together = coder.ask(learner, asked)
    spoilt = coder.y.copy()
    for trial, made in zip(asked, together, strict=True):
        coder.y = spoilt.copy()
        coder.y[coder.place[trial.query]] = 1e6
        assert np.allclose(coder.ask(learner, [trial])[0], made, atol=1e-5)
        assert len(made) == len(trial.query)
    network, y = learner.model, n.y[asked[0].support]
    params = {name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()}
    scaled = torch.tensor((y - coder.mean) / coder.std, dtype=torch.float32)[:, None]
    known = torch.tensor(spoilt_inputs(coder, asked[0].support))
    for _ in range(3):  # plain gradient descent, by hand
        loss = ((torch.func.functional_call(network, params, (known,)) - scaled) ** 2).mean()
        grads = torch.autograd.grad(loss, list(params.values()))
        params = {k: (v - 0.01 * g).detach().requires_grad_() for (k, v), g in zip(params.items(), grads, strict=True)}
    own = torch.func.functional_call(network, params, (torch.tensor(spoilt_inputs(coder, asked[0].query)),))
    assert np.allclose(own.detach().numpy()[:, 0] * coder.std + coder.mean, together[0], atol=1e-4)


def spoilt_inputs(coder, rows: np.ndarray) -> np.ndarray:
    return coder.x[coder.place[rows]].astype(np.float32)


def test_what_is_missing_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["atlantis", "--runs", str(tmp_path)])
    assert stopped.value.code == 2
    assert "atlantis: no study; there are radon, gapminder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["movielens", "--runs", str(tmp_path)])
    assert "movielens needs --runs and --movielens" in capsys.readouterr().err
    out = ["--out", str(tmp_path / "out"), "--page", str(tmp_path / "p.md")]
    with pytest.raises(SystemExit) as stopped:
        command.main(["radon", "--runs", str(tmp_path / "r"), "--data", str(tmp_path), *out])
    assert stopped.value.code == 3
    assert "radon.npz: not there; --data names the folder that holds it" in capsys.readouterr().err


def write_hospitals(file: Path) -> None:
    """15 made hospitals with 20 patients each."""
    random = np.random.default_rng(0)
    lines = [f"{30000 + i % 15},{random.integers(2)},0,1,{i % 2},{1 + i % 3},9" for i in range(300)]
    file.write_text("provnum,died,hmo,white,age80,type,los\n" + "\n".join(lines) + "\n")


@pytest.mark.parametrize("name", list(PLAN["methods"]["classification"]))
def test_every_method_gives_the_probability_of_the_second_class(tmp_path, name):
    from tabling import comparing, methods

    write_hospitals(tmp_path / "medpar.csv")
    source = table.hospitals(tmp_path / "medpar.csv")
    n = table.numbers(source)
    comparing.write_rows(source, n, tmp_path / "table.csv")
    assert (
        (tmp_path / "table.csv").read_text().startswith("provnum,died,age80,type,split\n")
    )  # hmo and white are constant
    typed = [*PLAN["common"], *comparing.words(source, tmp_path / "table.csv"), *PLAN["studies"]["hospitals"]["words"]]
    coder = comparing.Coder(source, n, typed)
    assert coder.positive == 1
    typed += PLAN["methods"]["classification"][name]["settings"]
    learner = methods.experiment(typed, coder.family, 0, 2).learner
    methods.finish(learner)
    trial = trials.stratified(n, "test", (4,), 1)["4 shots"][0]
    (made,) = coder.ask(learner, [trial])
    assert ((made > 0) & (made < 1)).all()
    raw = methods.predictions(learner, [trial], coder.encode)[0]
    assert np.allclose(made, np.exp(raw[:, 1]) / np.exp(raw).sum(1))


def test_hospitals_are_folded_whole(tmp_path):
    write_hospitals(tmp_path / "medpar.csv")
    found = table.hospitals(tmp_path / "medpar.csv")
    assert "los" not in found.features
    tested = [task for split in found.folds for task in split["test"]]
    assert sorted(tested) == sorted(str(30000 + i) for i in range(15))
    for split in found.folds:
        assert sorted(itertools.chain(*split.values())) == sorted(tested)
    n = table.numbers(found)
    assert n.x.shape[1] == 3 + 2  # three kinds of admission are two columns
    assert np.allclose(n.pool().x.mean(0), 0)
    (tmp_path / "bad.csv").write_text("provnum,died\n1,0\n")
    with pytest.raises(DataError, match="no column hmo"):
        table.hospitals(tmp_path / "bad.csv")


@pytest.mark.parametrize("name", list(PLAN["methods"]["regression"]))
def test_every_method_answers_with_and_without_support(made_study, name):
    """Cold start begins with nothing known; more than it was trained with may be known, too."""
    from tabling import comparing, methods

    home, _ = made_study
    source = table.radon(home / "data")
    n = table.numbers(source)
    typed = [*PLAN["common"], *comparing.words(source, home / "runs" / "radon" / "table.csv"), "task.shots=[0,3]"]
    coder = comparing.Coder(source, n, [*typed, "task.queries=5", "task.test.shots=2"])
    learner = methods.experiment([*typed, *PLAN["methods"]["regression"][name]["settings"]], coder.family, 0, 2).learner
    methods.finish(learner)
    rows = n.rows[n.split["test"][0]]
    for known in (0, 1, 6):
        (made,) = coder.ask(learner, [trials.Trial("a", rows[:known], rows[6:])])
        assert np.isfinite(made).all()
        assert made.shape == (6,)
