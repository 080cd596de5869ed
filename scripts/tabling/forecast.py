"""Baselines for the next values of a series: functions (times [k], values [k], new times [h]) -> [h]."""

import numpy as np

from tabling.floors import Fit, Predict
from tabling.table import Pool


def last_value(pool: Pool) -> Predict:
    """As before."""
    return lambda x, y, new: np.full(len(new), y[-1])


def drift(pool: Pool) -> Predict:
    """The line through the first and the last value."""
    return lambda x, y, new: y[-1] + (new[:, 0] - x[-1, 0]) * (y[-1] - y[0]) / (x[-1, 0] - x[0, 0])


def trend(pool: Pool) -> Predict:
    """The least-squares line through all values of the series."""
    return lambda x, y, new: np.polyval(np.polyfit(x[:, 0], y, 1), new[:, 0])


def mean_change(pool: Pool) -> Predict:
    """The last value plus what the training series changed on average between the same two times."""
    times, places = np.unique(pool.x[:, 0], return_inverse=True)
    level = np.bincount(places, pool.y) / np.bincount(places)

    def predict(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
        return y[-1] + np.interp(new[:, 0], times, level) - np.interp(x[-1, 0], times, level)

    return predict


FORECAST: dict[str, list[Fit]] = {
    "last value": [last_value],
    "drift": [drift],
    "trend of the series": [trend],
    "last value + mean change of training series": [mean_change],
}
