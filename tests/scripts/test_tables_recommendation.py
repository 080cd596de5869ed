"""scripts/tables.py: ratings of users as tasks, and their baselines against independent code."""

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

pytest.importorskip("sklearn")
sys.path.insert(0, str(ROOT / "scripts"))
from tabling import movielens, recommend

from metaexp.errors import DataError


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
