"""A folder of pictures as N-way K-shot episodes: the user's own, or a published set as its authors lay it out."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from metaexp.constraints import Count, Limit, Natural, checked
from metaexp.encoders.base import chosen
from metaexp.errors import DataError
from metaexp.system.cache import default_cache
from metaexp.tasks.classes import Rotation, Sizes
from metaexp.tasks.data.augment import Change
from metaexp.tasks.data.labelled import Division, Standardise, by_label
from metaexp.tasks.data.pictures import Fit, Picture, find, read
from metaexp.tasks.data.published import Preset, find_published
from metaexp.tasks.picture_classes import PictureClasses, check_unchanged

log = logging.getLogger(__name__)


class Images(PictureClasses):
    """Episodes over the class folders of a tree of pictures, x [channels, size, size] in [0, 1], or encoded vectors.

    Pictures of any common format and size are decoded once into a memory-mapped array in the cache.

    Args:
        root: the folder: root/CLASS/*, or root/train|val|test/CLASS/*, or the pictures that `lists` name.
        preset: a published set in the folder: its layout, and the authors' classes for training, validation and test
            (see `metaexp.tasks.data.published`); None: the user's own.
        download: fetch the lists of a published set that are missing. Pictures are never fetched.
        size: pixels per side.
        fit: crop (the middle, after scaling the shorter side) | pad (black bars) | stretch.
        channels: 1 (grey) or 3 (colour).
        lists: CSV files with the columns filename and label; train.csv, val.csv, test.csv also give the split.
        encoder: pictures -> vectors; None: the model gets the pixels.
        augment: random changes of training pictures: crop, flip, colour; not together with an encoder.
        unreadable: error | skip (files that cannot be read and folders without pictures are listed and left out).
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
        preset: Preset | None = None,
        download: bool = False,
        standardise: Standardise = "none",
    ):
        if root is None:
            raise ValueError("root=null: name a folder with one folder of pictures per class, root=FOLDER")
        division = Division(split, eval_seed, classes, class_file, fold)
        encoder = chosen(encoder)
        check_unchanged(encoder, augment, rotation)
        if preset and (lists or division.listed or class_file):
            raise ValueError(f"preset={preset}: brings its own lists; leave lists, classes and class_file out")
        folder, skip = Path(root).expanduser(), unreadable == "skip"
        if preset:
            found, _ = find_published(preset, folder, download)
        else:
            found, empty = find(folder, lists, skip)
            for place in empty:
                log.info("left out, no pictures in it: %s", place)
        pixels, bad = read(found, size, fit, channels, skip, default_cache())
        found = _without(found, bad)
        names, counts = by_label([picture.label for picture in found])
        parts = division.parts(names, partial(_by_split, found) if found[0].split is not None else None)
        by_list = "class_file" if class_file else "classes" if division.listed else None
        said = preset or by_list or ("folders" if found[0].split else None)
        self.protocol = {
            "split": said or list(split),
            "size": size,
            "fit": fit,
            "channels": channels,
            "classes": [len(part) for part in parts.values()],
            **({"preset": preset} if preset else {}),
        }
        super().__init__(
            pixels, names, counts, parts, encoder, standardise, augment, fit, shots, queries, ways, rotation, test,
            seed, eval_seed,
        )  # fmt: skip


def _by_split(found: Sequence[Picture]) -> dict[str, list[str]]:
    listed: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for label, split in dict.fromkeys((picture.label, picture.split) for picture in found):
        listed[split or "train"].append(label)
    for split, labels in listed.items():
        if not labels:
            raise DataError(f"task.root: there are folders or lists of splits, but none for {split}; add it")
    return listed


def _without(found: Sequence[Picture], bad: Sequence[int]) -> list[Picture]:
    """The pictures that could be read; the others are listed, at most 20 by name."""
    for i in bad[:20]:
        log.info("left out, cannot be read: %s", found[i].path)
    if bad:
        log.info("%d of %d pictures left out (task.unreadable=skip)", len(bad), len(found))
    left_out = set(bad)
    kept = [picture for i, picture in enumerate(found) if i not in left_out]
    if not kept:
        raise DataError("task.root: none of its pictures can be read")
    if gone := sorted({picture.label for picture in found} - {picture.label for picture in kept}):
        log.info("left out, none of its pictures can be read: class %s", ", ".join(gone[:20]))
    return kept
