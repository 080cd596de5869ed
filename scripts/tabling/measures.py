"""Measures of one task: (targets of the support [n], targets of the queries [m], predictions [m]) -> a number."""

import numpy as np
from sklearn.metrics import roc_auc_score


def rmse(support: np.ndarray, y: np.ndarray, made: np.ndarray) -> float:
    """Root mean squared error."""
    return float(np.sqrt(np.mean((y - made) ** 2)))


def mae(support: np.ndarray, y: np.ndarray, made: np.ndarray) -> float:
    """Mean absolute error."""
    return float(np.mean(np.abs(y - made)))


def mase(support: np.ndarray, y: np.ndarray, made: np.ndarray) -> float:
    """Mean absolute scaled error (Hyndman and Koehler 2006): the mean absolute error divided by that of "as before"
    within the support, one step ahead."""
    scale = float(np.mean(np.abs(np.diff(support))))
    return mae(support, y, made) / scale if scale > 0 else float("nan")


def auc(support: np.ndarray, y: np.ndarray, made: np.ndarray) -> float:
    """Area under the receiver operating characteristic; NaN where a class is missing."""
    return float(roc_auc_score(y, made)) if len(set(y)) == 2 else float("nan")


def log_loss(support: np.ndarray, y: np.ndarray, made: np.ndarray) -> float:
    """Minus the mean log probability of the label."""
    p = np.clip(np.where(y == 1, made, 1 - made), 1e-7, 1)
    return float(-np.log(p).mean())


def balanced_accuracy(y: np.ndarray, made: np.ndarray, threshold: float) -> float:
    """The mean of the two classes' shares of rows on the right side of the threshold; NaN where a class is missing."""
    right = (made > threshold) == (y == 1)
    return float(np.mean([right[y == label].mean() for label in (0, 1)])) if len(set(y)) == 2 else float("nan")


def ndcg(support: np.ndarray, y: np.ndarray, made: np.ndarray) -> float:
    """Normalised discounted cumulative gain of a task's rated items, all of them, with gains 2^rating - 1.

    Among equal predictions the order is random: the value is the expected one. If all ratings are equal, it is 1.
    """
    gains, discount = 2.0**y - 1, 1 / np.log2(np.arange(len(y)) + 2)
    order = np.argsort(-made, kind="stable")
    places = np.unique(-made[order], return_inverse=True)[1]
    mean = np.bincount(places, gains[order]) / np.bincount(places)  # of each group of equal predictions
    return float((mean[places] * discount).sum() / (np.sort(gains)[::-1] * discount).sum())
