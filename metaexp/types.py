"""The data types that all modules exchange: examples and episodes."""

from typing import NamedTuple

from torch import Tensor


class Examples(NamedTuple):
    """Inputs and targets of n examples; a meta-batch has a leading task dimension."""

    x: Tensor  # [*tasks, n, *x_shape]
    y: Tensor  # [*tasks, n, y_dim]  real targets, or one-hot classes: always a float vector


class Episode(NamedTuple):
    """One task's data; with a leading dimension, a meta-batch."""

    support: Examples
    query: Examples
    key: Tensor  # int64 [*tasks]  from which this task's random numbers are drawn
    info: dict[str, Tensor]  # for figures and oracles only (class numbers, amplitude); `adapt` never sees it
