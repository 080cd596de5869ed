"""A made table of schools with every kind of column, and its tasks of unequal sizes."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from metaexp.tasks.table import Table

SIZES = (2, 3, 6, 9, 14, 30, 55)
HEADER = ["school", "age", "sex", "day", "income", "score"]


def rows(kind: str = "regression", tasks: int = 42, seed: int = 0) -> list[list[Any]]:
    """School number t has SIZES[t % 7] pupils; the score is linear in age with an intercept of the school."""
    draw = np.random.default_rng(seed)
    made = []
    for t in range(tasks):
        level, slope = draw.normal(0, 2), draw.normal(1, 0.3)
        for _ in range(SIZES[t % len(SIZES)]):
            age, sex = draw.uniform(5, 18), draw.choice(["f", "m"])
            income = "" if draw.random() < 0.1 else f"{draw.normal(40, 10):.2f}"
            y = level + slope * (age - 11) / 4 + (sex == "f") / 2 + draw.normal(0, 0.3)
            target = f"{50 + 10 * y:.3f}" if kind == "regression" else "yes" if y > draw.normal(0, 0.3) else "no"
            made.append([f"s{t}", f"{age:.3f}", sex, f"2024-{draw.integers(1, 13):02d}-15", income, target])
    return made


def write(path: Path, made: list[list[Any]], header: list[str] = HEADER, delimiter: str = ",") -> Path:
    """The rows as a file with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([header, *made])
    return path


def table(path: Path, **settings: Any) -> Table:
    """The family of a written table; every test task is tested whole."""
    given = {"by": "school", "target": "score", "test": {"queries": "rest"}} | settings
    return Table(file=str(path), **given)


def regression_and_classes(folder: Path) -> Path:
    """The folder, with the table of schools as reg.csv and with classes as cls.csv."""
    write(folder / "reg.csv", rows())
    write(folder / "cls.csv", rows("classification"))
    return folder
