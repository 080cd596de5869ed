"""The data that flows: examples and episodes."""

from typing import NamedTuple

from torch import Tensor


class Examples(NamedTuple):
    """Inputs and targets of n examples; a meta-batch puts a task dimension in front."""

    x: Tensor  # [*tasks, n, *x_shape]
    y: Tensor  # [*tasks, n, y_dim]  real targets, or one-hot classes: always a float vector


class Episode(NamedTuple):
    """One task's data; with a leading dimension, a meta-batch."""

    support: Examples
    query: Examples
    key: Tensor  # int64 [*tasks]  from which this task's random numbers are drawn
    info: dict[str, Tensor]  # what boards and oracles may read (class ids, amplitude); `adapt` never sees it
