"""Made data for the families that need some: functions in an npz file, and pictures of made-up characters."""

from pathlib import Path

import numpy as np
from torch.utils.data import Dataset


def write_functions(file: Path, tasks: int = 400, rows: int = 40, inputs: int = 4) -> None:
    """400 tasks of 40 rows: y = a sin(2 u . x) + b v . x + c, the directions u and v [inputs] the same for all tasks.

    What differs, a ~ U(0.5, 3) and b, c ~ N(0, 1), can be told from ten rows by whoever knows u and v. Every call
    writes the same numbers.
    """
    random = np.random.default_rng(0)
    u, v = random.standard_normal((2, inputs)) / np.sqrt(inputs)
    a, b, c = random.uniform(0.5, 3, tasks), random.standard_normal(tasks), random.standard_normal(tasks)
    x = random.standard_normal((tasks, rows, inputs))
    y = a[:, None] * np.sin(2 * x @ u) + b[:, None] * (x @ v) + c[:, None]
    file.parent.mkdir(parents=True, exist_ok=True)
    task = np.repeat(np.arange(tasks), rows)
    np.savez(file, x=x.reshape(-1, inputs).astype(np.float32), y=y.reshape(-1, 1).astype(np.float32), task=task)


class Glyphs(Dataset):
    """Made-up characters: a class is three strokes between random points, an item a shaken drawing of them.

    100 classes of 20 drawings, bytes [size, size]; the same in every process.
    """

    def __init__(self, classes: int = 100, drawings: int = 20, size: int = 16):
        random = np.random.default_rng(0)
        ends = random.uniform(2, size - 3, (classes, 1, 3, 2, 2))  # of strokes, as (row, column)
        ends = ends + random.normal(0, 0.8, (classes, drawings, 3, 2, 2))
        along = np.linspace(0, 1, 24)[:, None]
        points = ends[..., :1, :] * (1 - along) + ends[..., 1:, :] * along  # [classes, drawings, strokes, 24, 2]
        grid = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1)
        self.items = []
        for label in range(classes):
            for drawing in range(drawings):
                far = ((grid[:, :, None] - points[label, drawing].reshape(-1, 2)) ** 2).sum(-1).min(-1)
                self.items.append((np.uint8(255 * np.exp(-far / 0.8)), label))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.items[i]
