"""What a method shows of its inside, as plain data: `MetaLearner.views` returns these, the boards draw them."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Scatter(NamedTuple):
    """Points in a space of any dimension (drawn in two), also shown in TensorBoard's projector."""

    points: Tensor  # [n, d]
    colour: Tensor  # [n]  a class number (int64) or a real value
    kind: Sequence[str]  # n words, a marker each: "prototype", "query", "context", ...
    title: str = ""
    colour_name: str = ""  # what the colour is, for its legend: "class", "amplitude", ...


class Heatmap(NamedTuple):
    """A table of numbers: attention of queries (rows) over the support (columns), weights per kind of task, ..."""

    values: Tensor  # [rows, columns]
    rows: str  # what a row is
    columns: str  # what a column is
    row_names: Sequence[str] = ()
    column_names: Sequence[str] = ()
    title: str = ""
    value_name: str = ""  # what a number is


class Bars(NamedTuple):
    """One number per name: rates per layer."""

    values: Tensor  # [n]
    names: Sequence[str]
    title: str = ""
    value_name: str = ""  # what a number is


View = Scatter | Heatmap | Bars
