"""A made pool of tasks for the tests of scripts/tables.py."""

import sys

import numpy as np
import pytest
from conftest import ROOT

pytest.importorskip("sklearn")
sys.path.insert(0, str(ROOT / "scripts"))
from tabling import table


def made_pool(tasks: int = 12, rows: int = 9, seed: int = 0) -> table.Pool:
    """Lines with an offset of standard deviation 2 and slopes of 0.5 around (1, -1), noise 0.3."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((tasks, rows, 2))
    slopes = np.array([1.0, -1.0]) + 0.5 * random.standard_normal((tasks, 1, 2))
    y = 3 + 2 * random.standard_normal((tasks, 1)) + (x * slopes).sum(-1) + 0.3 * random.standard_normal((tasks, rows))
    return table.Pool(x.reshape(-1, 2), y.reshape(-1), np.repeat(np.arange(tasks), rows))
