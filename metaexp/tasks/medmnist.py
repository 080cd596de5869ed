"""MedMNIST, N-way K-shot: classes of small medical pictures."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import numpy as np

from metaexp.constraints import Count, Limit, Natural, checked
from metaexp.errors import DataError
from metaexp.random import SPLITS
from metaexp.tasks.classes import Rotation, Sizes
from metaexp.tasks.data import medmnist as files
from metaexp.tasks.data.augment import Change
from metaexp.tasks.data.download import find_root
from metaexp.tasks.data.labelled import Standardise
from metaexp.tasks.picture_classes import PictureClasses, check_unchanged


class Sets(TypedDict, total=False):
    """Sets of each split; None: those of `set`."""

    train: str | Sequence[str] | None
    val: str | Sequence[str] | None
    test: str | Sequence[str] | None


class MedMNIST(PictureClasses):
    """Episodes of classes of ONE set each, x [channels, size, size] in [0, 1], or encoded vectors.

    "MedMNIST v2", Yang and others, 2023. Training takes the authors' own training pictures; at validation and test the
    support set is of their training pictures and the queries are of their validation or test pictures. Where a split
    has a set that training has too, its classes are those of training (`new_classes` in the protocol is false); for new
    classes, name other sets for the splits. In a set of two classes, ways=2 takes both.

    Args:
        root: folder with NAME.npz; None: $METAEXP_DATA/medmnist, else data/medmnist.
        set: name of a set, or several; tasks are then drawn from each equally often.
        sets: other sets for "train", "val" or "test".
        size: pixels per side; the file with the fewest pixels that are enough is read, and scaled.
        channels: 1 (grey) or 3 (colour).
        download: fetch files that are missing (MD5 is checked).
        encoder, standardise, augment, ways, shots, queries, rotation, test: see `PictureClasses`.

    Raises:
        ValueError: a setting is out of range, or there is no such set.
        DataError: a file is missing or damaged, or the encoder does not take pictures.
    """

    @checked
    def __init__(
        self,
        root: str | None = None,
        set: str | Sequence[str] = "pneumoniamnist",
        sets: Sets | None = None,
        size: Annotated[int, Limit(least=1, most=224)] = 28,
        channels: Literal[1, 3] = 1,
        download: bool = False,
        encoder: Any = None,
        shots: Count = 1,
        queries: Natural = 15,
        ways: Annotated[int, Limit(least=2)] = 2,
        rotation: Rotation = "none",
        test: Sizes | None = None,
        seed: int = 0,
        eval_seed: int = 0,
        augment: Sequence[Change] = (),
        standardise: Standardise = "none",
    ):
        own: dict[str, Any] = dict(sets or {})
        wanted = {split: _listed(own.get(split) or set) for split in SPLITS}
        every = sorted({name for names in wanted.values() for name in names})
        files.check_names(every)
        check_unchanged(encoder, augment, rotation)
        folder = find_root(root, "medmnist")
        sources = {name: files.locate(folder, name, size, download) for name in every}
        x, found = _read(sources, wanted, size, channels)
        names = [f"{c.set}/{c.part}/{c.label}" for c in found]
        numbers = {name: i for i, name in enumerate(names)}
        parts = {
            split: [i for i, c in enumerate(found) if c.part == split and c.set in members]
            for split, members in wanted.items()
        }
        groups = [every.index(c.set) for c in found]
        supports = [numbers[f"{c.set}/train/{c.label}"] for c in found]
        counts = [c.pictures for c in found]
        self.protocol = {
            "split": "official pictures: support of train, queries of test",
            "set": wanted["test"] if len(wanted["test"]) > 1 else wanted["test"][0],
            "new_classes": not {*wanted["train"]} & {*wanted["test"]},
            "size": size,
            "channels": channels,
            "official_files": all(source.official for source in sources.values()),
        }
        super().__init__(
            x, names, counts, parts, encoder, standardise, augment, "stretch", shots, queries, ways, rotation, test,
            seed, eval_seed, groups, supports,
        )  # fmt: skip


class _Class(NamedTuple):
    set: str
    part: str
    label: str
    pictures: int


def _read(
    sources: dict[str, files.Source], wanted: dict[str, list[str]], size: int, channels: int
) -> tuple[np.ndarray, list[_Class]]:
    """Pictures [n, channels, size, size] and classes: of each set the training pictures and those of the splits that
    want it, class after class."""
    data, classes = [], []
    for name, source in sources.items():
        for part in SPLITS:
            if part == "train" or name in wanted[part]:
                pixels, labels = files.read(source, part, size, channels)
                data.append(pixels)
                for label, text in enumerate(files.SETS[name].labels):
                    if not (count := int((labels == label).sum())):
                        raise DataError(f"{source.path}: {part}_labels has no {label} ({text}); get a fresh copy")
                    classes.append(_Class(name, part, text, count))
    return np.concatenate(data), classes


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(dict.fromkeys(names))
