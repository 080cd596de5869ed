"""What a method shows of its inner workings, as plain data: `MetaLearner.views` returns these, `plots` draws them."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from metaexp.types import Examples


class Scatter(NamedTuple):
    """Points in a space of any dimension (drawn in two), also shown in TensorBoard's projector."""

    points: Tensor  # [n, d]
    colour: Tensor  # [n]  a class number (int64) or a real value
    kind: Sequence[str]  # n words, a marker each: "prototype", "query", "context", ...
    title: str = ""
    colour_name: str = ""  # what the colour is, for its legend: "class", "amplitude", ...
    class_names: Mapping[int, str] = MappingProxyType({})  # of class numbers, for the legend
    labels: Sequence[str] = ()  # n words, one for each point, for TensorBoard's projector


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


def attention(weights: Tensor, query: Examples, support: Examples, classes: bool) -> Heatmap:
    """Attention weights [m, n] of a task's queries over its support set, rows and columns in a readable order.

    Examples are in the order of their classes, or of their inputs where these are single numbers.
    """
    (rows, names), (columns, column_names) = _order(query, classes), _order(support, classes)
    return Heatmap(weights[rows][:, columns], "query", "support", names, column_names)


def _order(examples: Examples, classes: bool) -> tuple[Tensor, list[str]]:
    """Rows of the examples in a readable order, and a name for each."""
    if classes:
        values = examples.y.argmax(-1)
    elif examples.x[:1].numel() == 1:
        values = examples.x.flatten()
    else:
        values = torch.arange(len(examples.x))
    order = torch.argsort(values, stable=True)
    return order, [f"{value:.2f}" if isinstance(value, float) else str(value) for value in values[order].tolist()]


def layer_means(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean [] of each layer's numbers, by the layer's name, of tensors with the names of a network's parameters."""
    layers: dict[str, list[Tensor]] = {}
    for name, numbers in parameters.items():
        layers.setdefault(name.rpartition(".")[0], []).append(numbers.flatten())
    return {layer: torch.cat(numbers).mean() for layer, numbers in layers.items()}


def layer_bars(parameters: dict[str, Tensor], title: str, value_name: str) -> Bars:
    """The means of `layer_means` as bars."""
    means = layer_means(parameters)
    return Bars(torch.stack([*means.values()]), list(means), title, value_name)
