"""A folder of pictures as N-way K-shot episodes."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from metaexp.constraints import Count, Limit, Natural, checked
from metaexp.errors import DataError
from metaexp.random import fold
from metaexp.system.cache import default_cache
from metaexp.tasks.classes import Classes, Rotation, Sizes
from metaexp.tasks.data.augment import Change, augment
from metaexp.tasks.data.labelled import Division, Standardise, by_label, encoded
from metaexp.tasks.data.pictures import Fit, Picture, Pictures, find, read
from metaexp.tasks.data.raw import ArrayInputs
from metaexp.tasks.data.raw_pictures import ImageInputs
from metaexp.tasks.data.splits import digest
from metaexp.types import Episode, Examples

log = logging.getLogger(__name__)


class Images(Classes):
    """Episodes over the class folders of a tree of pictures, x [channels, size, size] in [0, 1], or encoded vectors.

    Pictures of any common format and size are decoded once into a memory-mapped array in the cache.

    Args:
        root: the folder: root/CLASS/*, or root/train|val|test/CLASS/*, or the pictures that `lists` name.
        size: pixels per side.
        fit: crop (the middle, after scaling the shorter side) | pad (black bars) | stretch.
        channels: 1 (grey) or 3 (colour).
        lists: CSV files with the columns filename and label; train.csv, val.csv, test.csv also give the split.
        encoder: pictures -> vectors; None: the model gets the pixels.
        augment: random changes of training pictures: crop, flip, colour; not together with an encoder.
        unreadable: error | skip (files that cannot be read are listed and left out).
        split: fractions of the classes for train, val and test, where folders and lists do not say it.
        classes: labels of the classes of "train", "val" and "test", instead.
        class_file, fold: a JSON file with these three lists, or several such splits by the name of a fold.
        ways, shots, queries, rotation, test: see `Classes`.
        standardise: of encoded pictures: none | centre, see `Text`.

    Raises:
        ValueError: a setting is out of range, or a class is listed twice or is not in the data.
        DataError: no pictures, a file that cannot be read, or an encoder that does not take pictures.
    """

    @checked
    def __init__(
        self,
        root: str | None = None,
        size: Annotated[int, Limit(least=1, most=1024)] = 84,
        fit: Fit = "crop",
        channels: Literal[1, 3] = 3,
        lists: Sequence[str] = (),
        encoder: Any = None,
        augment: Sequence[Change] = (),
        unreadable: Literal["error", "skip"] = "error",
        shots: Count = 1,
        queries: Natural = 15,
        ways: Annotated[int, Limit(least=2)] = 5,
        split: Sequence[float] = (0.6, 0.2, 0.2),
        classes: dict[str, Sequence[Any] | None] | None = None,
        class_file: str | None = None,
        fold: str | None = None,
        rotation: Rotation = "none",
        test: Sizes | None = None,
        seed: int = 0,
        eval_seed: int = 0,
        standardise: Standardise = "none",
    ):
        if root is None:
            raise ValueError("root=null: name a folder with one folder of pictures per class, root=FOLDER")
        division = Division(split, eval_seed, classes, class_file, fold)
        if encoder and augment:
            raise ValueError(f"augment={list(augment)}: encoded pictures do not change; leave augment=[]")
        if encoder and rotation != "none":
            raise ValueError(f"rotation={rotation}: encoded pictures cannot be rotated; leave rotation=none")
        self.augment, self.encoder = tuple(augment), encoder
        self.reading = size, fit, channels
        found = find(Path(root).expanduser(), lists)
        pixels, bad = read(found, size, fit, channels, unreadable == "skip", default_cache())
        if bad:
            _report(found, bad)
            found, pixels = [p for i, p in enumerate(found) if i not in set(bad)], np.delete(pixels, bad, 0)
        self.names, counts = by_label([picture.label for picture in found])
        parts = division.parts(self.names, partial(_by_folder, found) if found[0].split is not None else None)
        data = torch.from_numpy(pixels)
        if encoder:
            data, self.x_mean, self.x_std = encoded(Pictures(pixels), encoder, standardise, counts, parts)
        self.trained_on = digest(self.names[i] for i in parts["train"])
        super().__init__(data, counts, parts, shots, queries, ways, rotation, test, seed, eval_seed)

    def sample(
        self,
        split: str,
        indices: Tensor,
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """See Classes.sample; training pictures are augmented, support and queries by streams of their own."""
        support, query, key, info = super().sample(split, indices, shots, queries, ways)
        if split == "train" and self.augment:
            support, query = (
                Examples(self._changed(part.x, fold(key, stream)), part.y)
                for part, stream in ((support, 11), (query, 12))
            )
        return Episode(support, query, key, info)

    def pool(self, split: str, indices: Tensor, n: int) -> Examples:
        """See Classes.pool; training pictures are augmented."""
        x, y = super().pool(split, indices, n)
        if split == "train" and self.augment:
            x = self._changed(x, fold(self.keys(split, indices), 13))
        return Examples(x, y)

    def raw_inputs(self) -> ImageInputs:
        """See TaskFamily.raw_inputs: pictures, scaled and cropped and encoded as those of training."""
        return ImageInputs(ArrayInputs(self.x_shape, *self.units()), *self.reading, encoder=self.encoder)

    def _changed(self, x: Tensor, key: Tensor) -> Tensor:
        """Pictures [a, b, *x_shape] with keys [a]."""
        own = fold(key.unsqueeze(-1), torch.arange(x.shape[1], device=x.device))  # [a, b]
        return augment(x.flatten(0, 1), own.flatten(), self.augment).view(x.shape)


def _by_folder(found: Sequence[Picture]) -> dict[str, list[str]]:
    listed: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for label, split in dict.fromkeys((picture.label, picture.split) for picture in found):
        listed[split or "train"].append(label)
    for split, labels in listed.items():
        if not labels:
            raise DataError(f"task.root: there are folders or lists of splits, but none for {split}; add it")
    return listed


def _report(found: Sequence[Picture], bad: Sequence[int]) -> None:
    for i in bad[:20]:
        log.info("left out, cannot be read: %s", found[i].path)
    log.info("%d of %d pictures left out (task.unreadable=skip)", len(bad), len(found))
