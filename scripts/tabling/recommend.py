"""Baselines for cold-start ratings: they see which item a row is about, and the training users' ratings.

Each is a function (rows of the support, rows of the queries) -> predictions, made by a maker from (ratings, training
users, setting); where there are several settings, the best on validation users is taken.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tabling.movielens import Ratings, Statistics, als, ridge, statistics
from tabling.trials import Trial

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]


def global_mean(ratings: Ratings, users: np.ndarray, setting: None) -> Predict:
    """The mean of all training ratings."""
    mean = statistics(ratings, users).mean
    return lambda support, query: np.full(len(query), mean)


def item_mean(ratings: Ratings, users: np.ndarray, shrink: float) -> Predict:
    """The item's mean over training users, shrunk to the mean of all."""
    known = statistics(ratings, users, shrink)
    return lambda support, query: known.mean + known.item[ratings.item[query]]


def offset(ratings: Ratings, known: Statistics, rows: np.ndarray, shrink: float) -> float:
    """A user's shrunk mean deviation from the item means."""
    return float((ratings.rating[rows] - known.mean - known.item[ratings.item[rows]]).sum() / (len(rows) + shrink))


def user_item_means(ratings: Ratings, users: np.ndarray, setting: tuple[float, float]) -> Predict:
    """Item mean plus the user's deviation from the item means, both shrunk."""
    known = statistics(ratings, users, setting[0])

    def predict(support: np.ndarray, query: np.ndarray) -> np.ndarray:
        return known.mean + known.item[ratings.item[query]] + offset(ratings, known, support, setting[1])

    return predict


def training_residuals(ratings: Ratings, users: np.ndarray, known: Statistics, shrink: float) -> Any:
    """(user, item, rating less item mean and user offset) of the training users' ratings."""
    rows = np.isin(ratings.user, users)
    user, item = ratings.user[rows], ratings.item[rows]
    residual = ratings.rating[rows] - known.mean - known.item[item]
    return user, item, residual - (np.bincount(user, residual) / (np.bincount(user) + shrink))[user]


def als_fold_in(ratings: Ratings, users: np.ndarray, setting: tuple[int, float, float]) -> Predict:
    """Matrix factors of the residuals from training users; a new user's factor is the ridge solution of the support."""
    rank, strength, fold = setting
    known = statistics(ratings, users)
    v = als(*training_residuals(ratings, users, known, 5.0), len(ratings.genres), rank, strength)

    def predict(support: np.ndarray, query: np.ndarray) -> np.ndarray:
        level = offset(ratings, known, support, 5.0)
        items = ratings.item[support]
        left = ratings.rating[support] - known.mean - known.item[items] - level
        own = ridge(v[items], left, fold)
        return known.mean + known.item[ratings.item[query]] + level + v[ratings.item[query]] @ own

    return predict


def nearest_items(ratings: Ratings, users: np.ndarray, setting: tuple[float, float]) -> Predict:
    """Item mean and user offset, plus the support's residuals weighted by the items' similarity.

    Similarity is the cosine of the residuals of the training users who rated both, times n / (n + shrink) for n of
    them; only positive ones count. The second number of the setting is added to the sum of the weights.
    """
    shrink, ballast = setting
    known = statistics(ratings, users)
    user, item, residual = training_residuals(ratings, users, known, 5.0)
    who = np.unique(user, return_inverse=True)[1]
    matrix, rated = (np.zeros((who.max() + 1, len(ratings.genres))) for _ in range(2))
    matrix[who, item], rated[who, item] = residual, 1.0
    both = rated.T @ rated
    norms = np.sqrt((matrix**2).T @ rated)  # of item i over those who also rated j
    alike = np.divide(matrix.T @ matrix, norms * norms.T, out=np.zeros_like(both), where=norms * norms.T > 0)
    alike = np.maximum(alike * both / (both + shrink), 0.0)

    def predict(support: np.ndarray, query: np.ndarray) -> np.ndarray:
        level = offset(ratings, known, support, 5.0)
        items, new = ratings.item[support], ratings.item[query]
        left = ratings.rating[support] - known.mean - known.item[items] - level
        weights = alike[np.ix_(new, items)]
        return known.mean + known.item[new] + level + weights @ left / (weights.sum(1) + ballast)

    return predict


RECOMMEND: dict[str, tuple[Callable[..., Predict], list[Any]]] = {
    "global mean": (global_mean, [None]),
    "item mean": (item_mean, [1.0, 5.0, 10.0]),
    "user + item means": (user_item_means, [(i, u) for i in (2.0, 5.0) for u in (2.0, 5.0, 10.0)]),
    "ALS fold-in": (als_fold_in, [(r, s, f) for r in (4, 8) for s in (0.05, 0.1) for f in (1.0, 3.0, 10.0)]),
    "nearest items": (nearest_items, [(s, b) for s in (10.0, 50.0) for b in (0.5, 2.0)]),
}


def predictions(predict: Predict, trials: Sequence[Trial]) -> list[np.ndarray]:
    """A baseline's prediction for the queries of each trial."""
    return [predict(trial.support, trial.query) for trial in trials]
