"""Any labelled PyTorch data set as N-way K-shot episodes."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metaexp.constraints import Count, Limit, Natural, checked
from metaexp.errors import DataError
from metaexp.tasks.classes import Classes, Rotation, Sizes
from metaexp.tasks.data.class_lists import by_name
from metaexp.tasks.data.splits import by_fractions, digest


def _input(x: Any) -> Tensor:
    """One input as a tensor.

    An image [height, width(, channels)] becomes [channels, height, width], and so does an array of bytes whose last
    dimension is the only one that can be the channels.
    """
    if isinstance(x, Image.Image):
        grey_or_colour = {"1": "L", "P": "RGB"}.get(x.mode)  # palette indices are not colours
        pixels = torch.from_numpy(np.array(x.convert(grey_or_colour) if grey_or_colour else x))
        return pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1)
    colours = (1, 3, 4)
    if isinstance(x, np.ndarray) and x.dtype == np.uint8 and x.ndim == 3:
        x = x.transpose(2, 0, 1) if x.shape[2] in colours and x.shape[0] not in colours else x
    x = torch.as_tensor(x)
    return x.unsqueeze(0) if x.dtype == torch.uint8 and x.dim() == 2 else x


def read(dataset: Any) -> tuple[Tensor, list[Any], list[int]]:
    """All items (x, label), read once and sorted by label: x [rows, *x_shape], the distinct labels, rows per label.

    Raises DataError for a data set that is not map-style or is empty, or whose inputs differ in shape.
    """
    name = type(dataset).__name__
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise DataError(f"task.dataset: {name} is not map-style; it needs __getitem__ and __len__")
    rows: dict[Any, list[Tensor]] = {}
    shape = None
    for i in range(len(dataset)):
        try:
            x, label = dataset[i]
            x, label = _input(x), label.item() if isinstance(label, Tensor | np.generic) else label
            rows.setdefault(label, []).append(x)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"task.dataset: item {i} of {name} is not (input, label): {error}") from error
        except (OSError, SyntaxError, LookupError) as error:  # raised by Pillow for damaged files, among others
            raise DataError(f"task.dataset: item {i} of {name} cannot be read: {error}") from error
        if x.is_floating_point() and not x.isfinite().all():
            raise DataError(f"task.dataset: item {i} of {name} has values that are inf or NaN")
        shape = x.shape if shape is None else shape
        if x.shape != shape:
            raise DataError(
                f"task.dataset: item {i} of {name} is {list(x.shape)}, item 0 {list(shape)}; make them equal"
            )
    if not rows:
        raise DataError(f"task.dataset: {name} is empty")
    labels = sorted(rows)
    data = torch.stack([x for label in labels for x in rows[label]])
    if not data.is_floating_point() and data.dtype != torch.uint8:
        data = data.float()
    return data, labels, [len(rows[label]) for label in labels]


class DatasetTasks(Classes):
    """Episodes over the classes of a map-style data set with items (input, label); held in memory on the device.

    Inputs may be arrays or tensors of one shape, or PIL images; bytes become floats in [0, 1]. Labels may be any
    values that sort. Classes may differ in size.

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
        data, self.names, counts = read(dataset)
        listed = {name: list(members) for name, members in (classes or {}).items() if members is not None}
        fractions = by_fractions(len(counts), split, eval_seed)
        splits = by_name(self.names, listed) if listed else fractions
        self.trained_on = digest(repr(self.names[i]) for i in splits["train"])
        super().__init__(data, counts, splits, shots, queries, ways, rotation, test, seed, eval_seed)
