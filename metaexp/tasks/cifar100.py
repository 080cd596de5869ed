"""CIFAR-FS and FC100: the classes of CIFAR-100, N-way K-shot."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image

from metaexp.constraints import Count, Limit, Natural, checked
from metaexp.tasks.classes import Rotation, Sizes
from metaexp.tasks.data import cifar100 as files
from metaexp.tasks.data.augment import Change
from metaexp.tasks.data.class_lists import by_name, read_lists
from metaexp.tasks.data.download import find_root
from metaexp.tasks.data.labelled import Standardise
from metaexp.tasks.picture_classes import PictureClasses, check_unchanged


class CIFAR100(PictureClasses):
    """Episodes of the classes of CIFAR-100, x [3, size, size] in [0, 1], or encoded vectors.

    All 600 pictures of a class are used, those that CIFAR-100 has for training and those it has for testing.

    Args:
        root: folder with the authors' files (see `metaexp.tasks.data.cifar100`); None: $METAEXP_DATA/cifar100, else
            data/cifar100.
        split: cifar_fs (64 / 16 / 20 classes, drawn at random) | fc100 (60 / 20 / 20 classes, by superclass).
        class_file, fold: a JSON file with lists of classes, instead (see `Images`).
        size: pixels per side; other than 32 by Lanczos' filter.
        download: fetch CIFAR-100 if it is missing (169 MB, MD5 is checked).
        encoder, standardise, augment, ways, shots, queries, rotation, test: see `PictureClasses`.

    Raises:
        ValueError: a setting is out of range.
        DataError: files are missing or damaged, or the encoder does not take pictures.
    """

    @checked
    def __init__(
        self,
        root: str | None = None,
        split: Literal["cifar_fs", "fc100"] = "cifar_fs",
        class_file: str | None = None,
        fold: str | None = None,
        size: Annotated[int, Limit(least=1, most=224)] = 32,
        download: bool = False,
        encoder: Any = None,
        augment: Sequence[Change] = (),
        shots: Count = 1,
        queries: Natural = 15,
        ways: Annotated[int, Limit(least=2)] = 5,
        rotation: Rotation = "none",
        test: Sizes | None = None,
        seed: int = 0,
        eval_seed: int = 0,
        standardise: Standardise = "none",
    ):
        check_unchanged(encoder, augment, rotation)
        folder = find_root(root, "cifar100")
        table = files.read(folder, download)
        if class_file is not None:
            listed = read_lists(class_file, fold)
        else:
            listed = {"cifar_fs": files.cifar_fs, "fc100": files.fc100}[split](table, folder)
        parts = by_name(table.names, listed)
        self.protocol = {
            "split": split if class_file is None else "class_file",
            "size": size,
            "classes": [len(part) for part in parts.values()],
        }
        pixels = table.pixels if size == files.SIDE else _scaled(table.pixels, size)
        super().__init__(
            pixels, table.names, table.counts, parts, encoder, standardise, augment, "stretch", shots, queries, ways,
            rotation, test, seed, eval_seed,
        )  # fmt: skip


def _scaled(pixels: np.ndarray, size: int) -> np.ndarray:
    made = np.empty((len(pixels), 3, size, size), np.uint8)
    for i, picture in enumerate(pixels):
        image = Image.fromarray(picture.transpose(1, 2, 0)).resize((size, size), Image.Resampling.LANCZOS)
        made[i] = np.asarray(image).transpose(2, 0, 1)
    return made
