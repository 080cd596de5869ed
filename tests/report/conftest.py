"""Shared by the tests of the report."""

from pathlib import Path

import pytest
from small_runs import train


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of maml and of r2d2, one of them again with fewer shots, and one tested on other tasks."""
    out = tmp_path_factory.mktemp("runs")
    for algo in ("maml", "r2d2"):
        for seed in range(3):
            train(out, f"algo={algo}", "task=sine", f"seed={seed}", f"name={algo}{seed}", "log.every=2")
    train(out, "algo=maml", "task=sine", "name=few", "task.shots=2", "log.every=2")
    return out
