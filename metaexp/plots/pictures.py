"""Which picture fits the episodes of a task family."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import vmap

from metaexp.plots.episodes import Picture, Predict, curves, grid, probabilities, scatter
from metaexp.plots.regions import points
from metaexp.plots.rollouts import rollouts
from metaexp.plots.rows import table_picture
from metaexp.tasks.dynamics import Dynamics
from metaexp.types import Episode


def picture_for(family: Any) -> Picture:
    """The picture that fits a family's shapes, with what its `oracle` knows if the picture can show it.

    Rows of a table are drawn in their own units, functions of one number as curves, models of a system that moves by
    what they predict of its course; other regression compares predicted and true targets. Classes of points in the
    plane are drawn as regions, of images as a grid, of anything else as a table of probabilities.
    """
    shape = tuple(family.x_shape)
    if family.classification:
        return _with_truth(points, family) if shape == (2,) else grid if len(shape) == 3 else probabilities
    if getattr(family, "target_name", None) is not None:
        return table_picture(family)
    if isinstance(family, Dynamics):
        return partial(rollouts, family)
    if shape != (1,):
        return scatter
    return _with_truth(curves, family, truth_name="exact posterior" if family.gaussian_oracle else "true function")


def _with_truth(picture: Callable[..., Figure], family: Any, **names: str) -> Picture:
    """The picture with the family's oracle as the truth, mapped over the episode's tasks; without it if none exists."""

    def draw(episode: Episode, predict: Predict, shown: Sequence[int], title: str = "") -> Figure:
        def truth(x: Tensor) -> Tensor:  # [tasks, m, *x_shape] -> [tasks, m, y_dim or 2 y_dim]
            with torch.autocast(x.device.type, enabled=False):  # the truth must not be rounded
                found: Tensor = vmap(family.oracle)(episode, x)
            return found

        return picture(episode, predict, shown, title, truth=truth if family.oracle is not None else None, **names)

    return draw
