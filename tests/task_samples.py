"""Small families and helpers that the tests of task families share."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.func import vmap

from metaexp.tasks.classes import Classes

ROWS = [30, 12, 41, 25, 33, 12, 20, 50, 19, 60]  # rows of each task in `many.npz`


def many(folder: Path) -> str:
    """Ten tasks of different sizes; x encodes the task and the row, y is x reversed."""
    task = np.repeat(np.arange(10), ROWS)
    row = np.concatenate([np.arange(n) for n in ROWS])
    x = np.stack([task, row], -1).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    np.savez(folder / "many.npz", x=x[order], y=x[order][:, ::-1], task=task[order])
    return str(folder / "many.npz")


def table(**settings: Any) -> Classes:
    """12 classes of 9 to 20 float vectors that encode the class and the example."""
    counts = [9 + c % 12 for c in range(12)]
    data = torch.tensor([[c, e, 0.5] for c, n in enumerate(counts) for e in range(n)])
    splits = {"train": [0, 2, 4, 6, 8, 10], "val": [1, 3, 5], "test": [7, 9, 11]}
    return Classes(data, counts, splits, **{"shots": 2, "queries": 3, "ways": 3} | settings)


def uniform_on(values: torch.Tensor, low: float, high: float) -> None:
    """Checks the range and the largest distance from the distribution function (Kolmogorov-Smirnov, 4 sigma)."""
    values = values.flatten().sort().values.double()
    n = len(values)
    assert low <= values[0]
    assert values[-1] <= high
    cdf = (values - low) / (high - low)
    assert float((cdf - (torch.arange(n) + 0.5) / n).abs().max()) < 2.2 / math.sqrt(n)


def double(family):
    return family.to("cpu", torch.float64)


def tensors(episode):
    return [*episode.support, *episode.query, episode.key, *episode.info.values()]


def oracle(family, episode):
    """The oracle of every task on its queries: [tasks, m, out]."""
    return vmap(family.oracle)(episode, episode.query.x)
