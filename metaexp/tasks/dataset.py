"""Any labelled PyTorch data set as N-way K-shot episodes."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metaexp.constraints import Count, Limit, Natural, checked
from metaexp.errors import DataError, MetaexpError
from metaexp.tasks.classes import Classes, Rotation, Sizes
from metaexp.tasks.data.class_lists import by_name
from metaexp.tasks.data.items import Item, as_item, file_of, reason, scaled, white_of
from metaexp.tasks.data.raw import ArrayInputs, RawInputs
from metaexp.tasks.data.raw_pictures import ItemInputs
from metaexp.tasks.data.splits import by_fractions, digest


def read(dataset: Any) -> tuple[Tensor, list[Any], list[int], int]:
    """All items (x, label), read once and sorted by label: x [rows, *x_shape], the distinct labels, rows per label, and
    the whole number that became 1 (0: the inputs are no pictures of whole numbers).

    Bytes stay bytes; other pictures of whole numbers become floats in [0, 1]. Raises DataError, with the item and where
    possible its file, for one that cannot be read; also for a data set that is not map-style or is empty, or whose
    inputs differ in shape.
    """
    name = type(dataset).__name__
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise DataError(f"task.dataset: {name} is not map-style; it needs __getitem__ and __len__")
    rows: dict[Any, list[Item]] = {}
    shape = None
    for i in range(len(dataset)):
        item, label = _read(dataset, i)
        try:
            rows.setdefault(label, []).append(item)
        except TypeError as error:
            raise DataError(f"task.dataset: item {i} of {name} is not (input, label): {error}") from error
        shape = item.x.shape if shape is None else shape
        if item.x.shape != shape:
            raise DataError(
                f"task.dataset: item {i} of {name}{file_of(dataset, i)} is {list(item.x.shape)}, item 0 {list(shape)}; "
                "make them equal"
            )
    if not rows:
        raise DataError(f"task.dataset: {name} is empty")
    try:
        labels = sorted(rows)
    except TypeError as error:
        raise DataError(f"task.dataset: the labels of {name} cannot be sorted ({error}); give them one type") from error
    data, white = _stacked([item for label in labels for item in rows[label]])
    return data, labels, [len(rows[label]) for label in labels], white


def _read(dataset: Any, i: int) -> tuple[Item, Any]:
    """Item i and its label; whatever a decoder raises on damaged bytes becomes a DataError."""
    name = f"task.dataset: item {i} of {type(dataset).__name__}"
    try:
        found = dataset[i]
    except MetaexpError:
        raise
    except Exception as error:
        raise DataError(f"{name}{file_of(dataset, i, error)} cannot be read: {reason(error)}") from error
    try:
        x, label = found
        label = label.item() if isinstance(label, Tensor | np.generic) else label
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} is not (input, label): {error}") from error
    try:
        item = as_item(x)
    except Exception as error:  # an image that was opened and not yet decoded
        what = "cannot be read" if isinstance(x, Image.Image) else "is not (input, label)"
        raise DataError(f"{name}{file_of(dataset, i, error, x)} {what}: {reason(error)}") from error
    if item.x.is_floating_point() and not item.x.isfinite().all():
        raise DataError(f"{name}{file_of(dataset, i, x)} has values that are inf or NaN")
    if item.white is not None and item.x.numel() and int(item.x.min()) < 0:
        raise DataError(
            f"{name}{file_of(dataset, i, x)} is a picture with values below 0; save it as 16 bits or floats"
        )
    return item, label


def _stacked(items: list[Item]) -> tuple[Tensor, int]:
    if all(item.x.dtype == torch.uint8 for item in items):
        return torch.stack([item.x for item in items]), 255
    unknown = white_of(items)
    whites = {unknown if item.white == 0 else item.white for item in items}
    floats = [scaled(item, unknown) for item in items]
    one = torch.float64 if any(x.dtype == torch.float64 for x in floats) else floats[0].dtype
    return torch.stack([x.to(one) for x in floats]), (whites.pop() or 0) if len(whites) == 1 else 0


class DatasetTasks(Classes):
    """Episodes over the classes of a map-style data set with items (input, label); held in memory on the device.

    Inputs may be arrays or tensors of one shape, or PIL images. Bytes, unsigned 16-bit numbers and pictures of whole
    numbers become floats in [0, 1], where the largest value of their type is 1; floats are taken as they are. Labels
    may be any values that sort. Classes may differ in size.

    Args:
        dataset: the data set, e.g. from `dataset: {_target_: package.MyDataset, root: folder}`.
        split: fractions of the classes for train, val and test; the assignment is drawn with `eval_seed`.
        classes: labels of the classes of "train", "val" and "test", instead of the fractions.
        ways, shots, queries, rotation, test: see `Classes`.

    Raises:
        ValueError: a setting is out of range, or a class is listed twice or is not in the data.
        DataError: the data set cannot be read.
    """

    @checked
    def __init__(
        self,
        dataset: Any = None,
        shots: Count = 1,
        queries: Natural = 15,
        ways: Annotated[int, Limit(least=2)] = 5,
        split: Sequence[float] = (0.6, 0.2, 0.2),
        classes: dict[str, Sequence[Any] | None] | None = None,
        rotation: Rotation = "none",
        test: Sizes | None = None,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        if dataset is None:
            raise ValueError("dataset=null: name a map-style data set, dataset: {_target_: package.MyDataset, ...}")
        fractions = by_fractions(1, split, eval_seed)  # checks the setting before reading the data
        data, self.names, counts, white = read(dataset)
        listed = {name: list(members) for name, members in (classes or {}).items() if members is not None}
        fractions = by_fractions(len(counts), split, eval_seed)
        splits = by_name(self.names, listed) if listed else fractions
        self.trained_on = digest(repr(self.names[i]) for i in splits["train"])
        super().__init__(data, counts, splits, shots, queries, ways, rotation, test, seed, eval_seed)
        self.white = white

    def raw_inputs(self) -> RawInputs:
        """See TaskFamily.raw_inputs: what the data set gave, pictures too where its inputs are some."""
        arrays = ArrayInputs(self.x_shape, *self.units())
        return ItemInputs(arrays) if len(self.x_shape) == 3 else arrays
