"""MovieLens-100k as tasks: a user, who has rated some films. The data are read from the reader's own copy.

GroupLens allows research use, asks for the citation (Harper and Konstan 2015) and forbids redistribution without
permission, so none of it is in this project: https://grouplens.org/datasets/movielens/100k/. Both the original files
(`u.data`, `u.item`, `u.user`) and the same data as RecBole packs it (`ml-100k.inter`, `.item`, `.user`) are read.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from metaexp.errors import DataError
from tabling.table import Table

GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical "
    "Mystery Romance Sci-Fi Thriller War Western"
).split()
RANK = 8  # of the item factors that stand among the inputs
SOURCE = "MovieLens-100k of GroupLens (research use, no redistribution); Harper and Konstan 2015"


class Ratings(NamedTuple):
    """All ratings, sorted by user, time and item; users and items are numbered from 0.

    Attributes:
        genres: float [items, 19]; year [items], NaN where unknown; age and male [users].
    """

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    time: np.ndarray
    genres: np.ndarray
    year: np.ndarray
    age: np.ndarray
    male: np.ndarray


def read(folder: Path) -> Ratings:
    """Read the folder `ml-100k` in either layout.

    Raises:
        DataError: neither is there.
    """
    if (folder / "u.data").exists():
        names = ["user", "item", "rating", "time"]
        rows = pd.read_csv(folder / "u.data", sep="\t", names=names)
        item = pd.read_csv(folder / "u.item", sep="|", header=None, encoding="latin-1")
        genres = item.iloc[:, 5:24].to_numpy(float)
        year = pd.to_numeric(item[2].astype(str).str[-4:], errors="coerce").to_numpy(float)
        items, user = item[0].to_numpy(), pd.read_csv(folder / "u.user", sep="|", header=None)
        users, age, sex = user[0].to_numpy(), user[1].to_numpy(float), user[2]
    elif (folder / "ml-100k.inter").exists():
        rows, item, user = (_atomic(folder / f"ml-100k.{end}") for end in ("inter", "item", "user"))
        rows.columns = ["user", "item", "rating", "time"]
        kinds = item["class"].fillna("").str.split()
        genres = np.array([[float(genre in kind) for genre in GENRES] for kind in kinds])
        year = pd.to_numeric(item["release_year"], errors="coerce").to_numpy(float)
        items, users, age, sex = item["item_id"].to_numpy(), *(user[c] for c in ("user_id", "age", "gender"))
        users, age = users.to_numpy(), age.to_numpy(float)
    else:
        raise DataError(
            f"{folder}: neither u.data nor ml-100k.inter is there; get MovieLens-100k from "
            "https://grouplens.org/datasets/movielens/100k/ and name its folder by --movielens"
        )
    rows = rows.sort_values(["user", "time", "item"], kind="stable")
    where = {name: {key: i for i, key in enumerate(keys)} for name, keys in (("user", users), ("item", items))}
    u, i = (rows[name].map(where[name]).to_numpy() for name in ("user", "item"))
    male = (sex.astype(str) == "M").to_numpy(float)
    order = np.lexsort((i, rows.time.to_numpy(), u))
    return Ratings(
        u[order], i[order], rows.rating.to_numpy(float)[order], rows.time.to_numpy()[order], genres, year, age, male
    )


def _atomic(file: Path) -> pd.DataFrame:
    frame = pd.read_csv(file, sep="\t", encoding="utf-8", quoting=3)
    frame.columns = [name.split(":")[0] for name in frame.columns]
    return frame


def divide(ratings: Ratings, least: int = 30, seed: int = 0) -> dict[str, np.ndarray]:
    """Users with at least `least` ratings, in random parts of 64, 16 and 20 % for train, val and test; the users with
    fewer are for training, too."""
    counts = np.bincount(ratings.user)
    enough = np.random.default_rng(seed).permutation(np.flatnonzero(counts >= least))
    first, second = round(0.64 * len(enough)), round(0.8 * len(enough))
    few = np.flatnonzero((counts > 0) & (counts < least))
    return {
        "train": np.sort(np.concatenate([enough[:first], few])),
        "val": np.sort(enough[first:second]),
        "test": np.sort(enough[second:]),
    }


def als(
    user: np.ndarray, item: np.ndarray, residual: np.ndarray, items: int, rank: int, strength: float, sweeps: int = 10
) -> np.ndarray:
    """Item factors [items, rank] by alternating least squares with a ridge of `strength` times the number of ratings
    (Zhou and others 2008); items that nobody rated get 0."""
    users, who = np.unique(user, return_inverse=True)
    v = np.random.default_rng(0).normal(0, 0.1, (items, rank))
    by_user, by_item = _parts(who, len(users)), _parts(item, items)
    u = np.zeros((len(users), rank))
    for _ in range(sweeps):
        for place, rows in enumerate(by_user):
            u[place] = ridge(v[item[rows]], residual[rows], strength * len(rows))
        for place, rows in enumerate(by_item):
            v[place] = ridge(u[who[rows]], residual[rows], strength * len(rows)) if len(rows) else 0.0
    return v


def _parts(values: np.ndarray, count: int) -> list[np.ndarray]:
    order = np.argsort(values, kind="stable")
    return np.split(order, np.cumsum(np.bincount(values, minlength=count))[:-1])


def ridge(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """The w that minimises |y - x w|^2 + strength |w|^2; 0 without rows."""
    if not len(y):
        return np.zeros(x.shape[1])
    return np.asarray(np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y))


class Statistics(NamedTuple):
    """Item statistics from some users' ratings.

    Attributes:
        mean: the mean of all ratings; item: shrunk deviations from it [items], 0 where nobody rated.
        count: ratings of each item; sums: of their deviations from `mean`.
    """

    mean: float
    item: np.ndarray
    count: np.ndarray
    sums: np.ndarray
    shrink: float


def statistics(ratings: Ratings, users: np.ndarray, shrink: float = 5.0) -> Statistics:
    """Shrunk item means: sum of (rating - mean) / (count + shrink)."""
    rows = np.isin(ratings.user, users)
    mean = float(ratings.rating[rows].mean())
    items = len(ratings.genres)
    count = np.bincount(ratings.item[rows], minlength=items).astype(float)
    sums = np.bincount(ratings.item[rows], ratings.rating[rows] - mean, minlength=items)
    return Statistics(mean, sums / (count + shrink), count, sums, shrink)


def table(ratings: Ratings, split: dict[str, np.ndarray], parts: int = 5) -> Table:
    """One row per rating: genres, year, the item's mean and number of ratings, 8 factors of it, the user's age and sex.

    Item statistics come from training users alone, and never from the user of the row: a training user's own rating is
    taken out of the mean, and the factors of a training user's rows are made without the users of its part (one of
    five), turned onto those made of all training users.
    """
    train = split["train"]
    known = statistics(ratings, train)
    own = np.isin(ratings.user, train)
    count = known.count[ratings.item] - own
    sums = known.sums[ratings.item] - own * (ratings.rating - known.mean)
    place = dict(zip(map(int, np.random.default_rng(1).permutation(train)), np.arange(len(train)) % parts, strict=True))
    part = np.array([place.get(int(user), -1) for user in ratings.user])
    every = _factors(ratings, np.isin(part, range(parts)), known)
    factors = every[ratings.item]
    for one in range(parts):
        other = _factors(ratings, (part >= 0) & (part != one), known)
        left, _, right = np.linalg.svd(other.T @ every)
        factors[part == one] = (other @ (left @ right))[ratings.item[part == one]]
    columns = {f"genre_{name}": ratings.genres[ratings.item, k] for k, name in enumerate(GENRES)}
    columns |= {"year": ratings.year[ratings.item], "item_mean": sums / (count + known.shrink)}
    columns |= {"item_count": np.log1p(count), "age": ratings.age[ratings.user], "male": ratings.male[ratings.user]}
    columns |= {f"factor_{k}": factors[:, k] for k in range(RANK)}
    frame = pd.DataFrame(columns)
    frame["user"], frame["time"], frame["rating"] = ratings.user, ratings.time, ratings.rating
    names = {name: [str(user) for user in members] for name, members in split.items()}
    return Table(frame, "user", "rating", list(columns), [names], SOURCE, "time")


def _factors(ratings: Ratings, rows: np.ndarray, known: Statistics) -> np.ndarray:
    """Item factors of the residuals from item means and user offsets, both shrunk, of some rows."""
    user, item, rating = ratings.user[rows], ratings.item[rows], ratings.rating[rows]
    residual = rating - known.mean - known.item[item]
    count = np.bincount(user)
    residual = residual - (np.bincount(user, residual) / (count + 5.0))[user]
    return als(user, item, residual, len(ratings.genres), RANK, 0.1)
