"""What families of a user's labelled examples share: classes and their division, and vectors that an encoder makes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metaexp.encoders.base import Encoder, Raw, encode_all
from metaexp.errors import DataError
from metaexp.system.cache import default_cache
from metaexp.tasks.data.class_lists import by_name, read_groups, read_lists
from metaexp.tasks.data.splits import by_fractions

Standardise = Literal["none", "centre"]


class Division:
    """How the classes are divided among training, validation and test; checked before any data are read.

    Args:
        split: fractions, drawn with `eval_seed`.
        classes: labels (or groups) of "train", "val", "test", instead.
        class_file, fold: a JSON file with these lists, or several such splits by the name of a fold.
        groups: a JSON file group -> labels.

    Raises ValueError for settings that contradict each other or are out of range.
    """

    def __init__(
        self,
        split: Sequence[float],
        eval_seed: int,
        classes: Mapping[str, Sequence[Any] | None] | None = None,
        class_file: str | None = None,
        fold: str | None = None,
        groups: str | None = None,
    ):
        by_fractions(1, split, eval_seed)
        self.listed = {name: list(members) for name, members in (classes or {}).items() if members is not None}
        if self.listed and class_file:
            raise ValueError(f"class_file={class_file}: classes are listed too; leave one of them out")
        if fold is not None and class_file is None:
            raise ValueError(f"fold={fold}: a fold is one of the splits in class_file; name that file too")
        self.split, self.eval_seed = split, eval_seed
        self.class_file, self.fold, self.groups = class_file, fold, groups

    def parts(
        self, names: Sequence[str], found: Callable[[], Mapping[str, Sequence[str]]] | None = None
    ) -> dict[str, list[int]]:
        """The class numbers of each split.

        Args:
            names: the labels of all classes.
            found: the division that the data bring along, which only typed or written lists replace.

        Raises ValueError and DataError: see `by_name`, `read_lists`, `read_groups`.
        """
        listed: Mapping[str, Sequence[Any]] = self.listed
        if self.class_file is not None:
            listed = read_lists(self.class_file, self.fold)
        elif not listed and found is not None:
            listed = found()
        if not listed:
            return by_fractions(len(names), self.split, self.eval_seed)
        try:
            return by_name(names, listed, read_groups(self.groups) if self.groups else None)
        except ValueError as error:
            if self.class_file is None:
                raise
            fold = f", fold {self.fold}" if self.fold is not None else ""
            raise DataError(f"{self.class_file}{fold}: {str(error).removeprefix('classes.')}") from error


def by_label(labels: Sequence[str]) -> tuple[list[str], list[int]]:
    """The labels of all classes, sorted, and how many examples each has."""
    names = sorted(set(labels))
    places = {name: i for i, name in enumerate(names)}
    return names, torch.bincount(torch.tensor([places[label] for label in labels])).tolist()


class Vectors(NamedTuple):
    """Encoded examples, and the units in which they are."""

    data: Tensor  # [rows, d], (vector - mean) / std
    mean: Tensor  # [d], float64
    std: Tensor  # [d], float64, one number


def encoded(
    raw: Raw, encoder: Encoder, standardise: Standardise, counts: Sequence[int], parts: Mapping[str, Sequence[int]]
) -> Vectors:
    """The vectors of all examples, from the cache or computed; "centre": in units of the training classes.

    There, vectors have mean 0 over the examples of the training classes, and their root mean square is 1: one number
    divides all dimensions, so that distances keep their proportions.

    Args:
        raw: the examples, those of a class together.
        counts: how many examples each class has; parts: the classes of each split.
    """
    data = encode_all(raw, encoder, default_cache())
    mean, std = torch.zeros(data.shape[1], dtype=torch.float64), torch.ones(data.shape[1], dtype=torch.float64)
    if standardise == "centre" and parts["train"]:
        wanted = np.isin(np.repeat(np.arange(len(counts)), counts), list(parts["train"]))
        train = data[wanted].astype(np.float64)
        mean = torch.from_numpy(train.mean(0))
        scale = float(np.sqrt(np.square(train - mean.numpy()).mean()))
        std = std * (scale if scale > 0 else 1.0)
        data = ((data - mean.numpy()) / std.numpy()).astype(np.float32)
    return Vectors(torch.from_numpy(data), mean, std)
