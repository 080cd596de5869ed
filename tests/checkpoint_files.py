"""Small checkpoints whose content identifies their step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from metaexp.storage.checkpoint_file import save
from metaexp.storage.checkpoints import Checkpoints


def content(step: int, size: int = 1000) -> dict[str, Any]:
    """The content of a checkpoint of that step: `size` weights with the step as their value."""
    return {"state_dict": {"w": torch.full((size,), float(step))}, "metaexp": {"format": 1, "step": step}}


def value_of(data: dict[str, Any]) -> int:
    """The step of the content, which must all come from one step."""
    values = data["state_dict"]["w"].unique().tolist()
    assert values == [data["metaexp"]["step"]]
    return int(values[0])


def writer(step: int, size: int = 1000) -> Callable[[Path], None]:
    """`write` for `Checkpoints.save`."""
    return lambda path: save(content(step, size), path)


def saved(folder: Path, *steps: int) -> Checkpoints:
    """A folder with checkpoints of these steps, saved in this order."""
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(writer(step), step)
    return checkpoints


def flip(path: Path) -> None:
    """Flips one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)
