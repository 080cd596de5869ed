"""Runs without pictures, which take up to half of a tiny run's time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

DRAWN = {
    "metaexp.training.final_test": ("draw_episodes",),
    "metaexp.training.validation": ("draw_episodes",),
    "metaexp.plots.curves": ("adaptation_curve", "training_curve"),
    "metaexp.plots.reliability": ("reliability",),
    "metaexp.plots.shots": ("shots_picture",),
}


def undraw(put: Callable[..., Any] = setattr) -> None:
    """From now on runs of this process make no pictures; `put` is `setattr`, or one that is undone later."""
    import importlib

    from matplotlib.figure import Figure

    from metaexp.loggers.tensorboard import TensorBoard

    for module, names in DRAWN.items():
        for name in names:
            put(importlib.import_module(module), name, lambda *_, **__: Figure())
    put(TensorBoard, "figure", lambda *_: None)


@contextmanager
def undrawn() -> Iterator[None]:
    """Inside it, runs of this process make no pictures."""
    with pytest.MonkeyPatch.context() as patch:
        undraw(patch.setattr)
        yield
