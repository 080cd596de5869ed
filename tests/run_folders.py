"""A configuration, and helpers that inspect folders, for tests of what is stored."""

from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {"seed": 0, "steps": 10, "algo": {"inner_lr": 0.01, "steps": 5}, "out": "outputs"}
CONFIG |= {"device": {"threads": 1, "precision": 32}, "test": {"tasks": 9}}


def files(folder: Path) -> list[str]:
    """The names in a folder, sorted."""
    return sorted(entry.name for entry in folder.iterdir())


def only_run(cwd: Path) -> Path:
    """The only run folder; checks that nothing else is left in the working folder."""
    assert [entry.name for entry in cwd.iterdir()] == ["outputs"]
    (run,) = (cwd / "outputs").iterdir()
    return run
