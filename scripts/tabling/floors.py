"""Baselines for tables: what anyone would try before meta-learning.

A baseline is fitted to the rows of the training tasks (`Pool`) and then predicts queries of a task from its support
rows: a function (x [n, d], y [n], new [m, d]) -> [m]. Where it has a free choice, there are several candidates, and
`chosen` takes the best on validation tasks.
"""

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression

from tabling import mixed
from tabling.table import Numbers, Pool
from tabling.trials import Trial

Predict = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Fit = Callable[[Pool], Predict]
Score = Callable[[np.ndarray, np.ndarray, np.ndarray], float]  # (y of the support, y of the queries, prediction)


def global_mean(pool: Pool) -> Predict:
    """The mean of all training rows."""
    mean = pool.y.mean()
    return lambda x, y, new: np.full(len(new), mean)


def task_mean(pool: Pool) -> Predict:
    """The mean of the support rows; without any, that of training."""
    mean = pool.y.mean()
    return lambda x, y, new: np.full(len(new), y.mean() if len(y) else mean)


def neighbours(k: int) -> Fit:
    """The mean of the k nearest support rows."""

    def fit(pool: Pool) -> Predict:
        mean = pool.y.mean()

        def predict(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
            if not len(y):
                return np.full(len(new), mean)
            far = ((new[:, None] - x[None]) ** 2).sum(-1)
            return y[np.argsort(far, axis=1, kind="stable")[:, :k]].mean(1)

        return predict

    return fit


def own_ridge(strength: float) -> Fit:
    """Ridge regression on the support rows alone, with a free intercept."""

    def fit(pool: Pool) -> Predict:
        mean = pool.y.mean()

        def predict(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
            if not len(y):
                return np.full(len(new), mean)
            centred = x - x.mean(0)
            dual = np.linalg.solve(centred @ centred.T + strength * np.eye(len(y)), y - y.mean())
            return np.asarray(y.mean() + (new - x.mean(0)) @ centred.T @ dual)

        return predict

    return fit


def pooled(pool: Pool) -> Predict:
    """Least squares on all training rows; a task's support is not looked at."""
    coefficients = np.linalg.lstsq(mixed.with_one(pool.x), pool.y, rcond=None)[0]
    return lambda x, y, new: mixed.with_one(new) @ coefficients


def within(pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """x and y less the means of their task."""
    places = np.unique(pool.task, return_inverse=True)[1]
    counts = np.bincount(places)
    y = pool.y - (np.bincount(places, pool.y) / counts)[places]
    means = np.stack([np.bincount(places, column) / counts for column in pool.x.T], 1)
    return pool.x - means[places], y


def pooled_offset(pool: Pool) -> Predict:
    """Slopes common to all tasks (least squares within training tasks) and the mean residual of the support as offset.

    Without support, the offset is that of all training rows.
    """
    x, y = within(pool)
    slopes = np.linalg.lstsq(x, y, rcond=None)[0]
    offset = float((pool.y - pool.x @ slopes).mean())
    return lambda x, y, new: new @ slopes + ((y - x @ slopes).mean() if len(y) else offset)


def trees_offset(leaves: int) -> Fit:
    """Boosted trees for the deviation from the task's mean, and the mean residual of the support as offset."""

    def fit(pool: Pool) -> Predict:
        centred = within(pool)[1]
        trees = HistGradientBoostingRegressor(max_leaf_nodes=leaves, random_state=0).fit(pool.x, centred)
        offset = float((pool.y - trees.predict(pool.x)).mean())

        def predict(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
            return np.asarray(trees.predict(new)) + ((y - trees.predict(x)).mean() if len(y) else offset)

        return predict

    return fit


def empirical_bayes(slopes: bool) -> Fit:
    """Mixed effects: a task's offset, with `slopes` also its slopes, shrunk to those of training (`tabling.mixed`)."""
    return lambda pool: mixed.fit(pool, slopes).predict


REGRESSION: dict[str, list[Fit]] = {
    "global mean": [global_mean],
    "task mean": [task_mean],
    "nearest neighbours": [neighbours(k) for k in (1, 3, 5, 10)],
    "ridge on the support": [own_ridge(s) for s in (0.1, 1.0, 10.0, 100.0)],
    "pooled regression": [pooled],
    "pooled regression + task offset": [pooled_offset],
    "pooled trees + task offset": [trees_offset(leaves) for leaves in (4, 15)],
    "mixed effects: offset": [empirical_bayes(False)],
    "mixed effects: offset and slopes": [empirical_bayes(True)],
}


# -- two classes: the prediction is the probability of class 1 --------------------------------------------------------


def majority(pool: Pool) -> Predict:
    """The share of class 1 in training."""
    share = pool.y.mean()
    return lambda x, y, new: np.full(len(new), share)


def pooled_logistic(strength: float) -> Fit:
    """Logistic regression on all training rows."""

    def fit(pool: Pool) -> Predict:
        model = LogisticRegression(C=strength, max_iter=1000).fit(pool.x, pool.y)
        return lambda x, y, new: model.predict_proba(new)[:, 1]

    return fit


def own_logistic(strength: float) -> Fit:
    """Logistic regression on the support rows alone; of one class, that class's smoothed share."""

    def fit(pool: Pool) -> Predict:
        def predict(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
            if len(set(y)) < 2:
                return np.full(len(new), (y.sum() + 1) / (len(y) + 2))
            return np.asarray(LogisticRegression(C=strength, max_iter=1000).fit(x, y).predict_proba(new)[:, 1])

        return predict

    return fit


def offset_logistic(deviation: float) -> Fit:
    """Logistic regression on all training rows with one offset for each task, b ~ N(0, deviation^2), all by penalised
    likelihood; a new task's offset is the most probable one given its support rows."""

    def fit(pool: Pool) -> Predict:
        tasks, places = np.unique(pool.task, return_inverse=True)
        # With the columns scaled by `deviation`, one unit penalty for all offsets is their prior.
        member = np.eye(len(tasks))[places] * deviation
        wide = np.concatenate([pool.x / 0.1, member], 1)  # slopes are nearly free: a prior of deviation 10
        model = LogisticRegression(C=1.0, max_iter=2000).fit(wide, pool.y)
        slopes, bias = model.coef_[0][: pool.x.shape[1]] / 0.1, float(model.intercept_[0])

        def predict(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
            offset = best_offset(x @ slopes + bias, y, deviation)
            return np.asarray(1 / (1 + np.exp(-(new @ slopes + bias + offset))))

        return predict

    return fit


def best_offset(logits: np.ndarray, y: np.ndarray, deviation: float) -> float:
    """The b that maximises log p(y | logits + b) - b^2 / (2 deviation^2), by Newton's steps."""
    b = 0.0
    for _ in range(50):
        p = 1 / (1 + np.exp(-(logits + b)))
        step = ((y - p).sum() - b / deviation**2) / ((p * (1 - p)).sum() + 1 / deviation**2)
        b += float(np.clip(step, -2, 2))
        if abs(step) < 1e-10:
            break
    return b


CLASSIFICATION: dict[str, list[Fit]] = {
    "majority": [majority],
    "own logistic regression": [own_logistic(c) for c in (0.01, 0.1, 1.0, 10.0)],
    "pooled logistic regression": [pooled_logistic(c) for c in (0.01, 0.1, 1.0, 10.0)],
    "pooled logistic regression + task offset": [offset_logistic(s) for s in (0.3, 0.6, 1.0, 2.0)],
}


# -- use ---------------------------------------------------------------------------------------------------------------


def predictions(numbers: Numbers, predict: Predict, trials: Sequence[Trial]) -> list[np.ndarray]:
    """A baseline's prediction for the queries of each trial."""
    x, y = numbers.x, numbers.y
    return [np.asarray(predict(x[t.support], y[t.support], x[t.query]), dtype=float) for t in trials]


def mean_score(numbers: Numbers, trials: Sequence[Trial], made: Sequence[np.ndarray], score: Score) -> float:
    """The mean over tasks of the mean over their trials."""
    values = np.array([score(numbers.y[t.support], numbers.y[t.query], p) for t, p in zip(trials, made, strict=True)])
    names = np.array([t.task for t in trials])
    return float(np.mean([values[names == name].mean() for name in dict.fromkeys(names)]))


def chosen(numbers: Numbers, fitted: Sequence[Predict], trials: Sequence[Trial], score: Score, larger: bool) -> Predict:
    """Of a baseline's candidates, fitted to the training tasks, the one that is best on the validation trials."""
    if len(fitted) == 1:
        return fitted[0]
    sign = 1 if larger else -1
    scores = [sign * mean_score(numbers, trials, predictions(numbers, one, trials), score) for one in fitted]
    return fitted[int(np.argmax(scores))]
