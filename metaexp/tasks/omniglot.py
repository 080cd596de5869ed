"""Omniglot, N-way K-shot: the few-shot classification benchmark of handwritten characters."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from metaexp.constraints import Count, Limit, Natural, checked
from metaexp.errors import DataError
from metaexp.tasks.classes import Classes, Rotation, Sizes
from metaexp.tasks.data import omniglot as files
from metaexp.tasks.data.raw import ArrayInputs
from metaexp.tasks.data.raw_pictures import DrawingInputs
from metaexp.tasks.data.splits import by_counts, digest

SPLIT_SEED = 1623  # seed of the fixed shuffle of `random1200`


def random1200(names: dict[str, list[str]], root: Path) -> dict[str, list[int]]:
    """A fixed shuffle of all 1623 characters into 1100 / 100 / 423, alphabets mixed, as in MAML's code (2017)."""
    count = sum(map(len, names.values()))
    if count != 1623:
        raise DataError(f"{root}: {count} characters; split=random1200 needs all 1623, split=lake takes any")
    return by_counts(count, (1100, 100, 423), SPLIT_SEED)


# Vinyals' split: whole alphabets, and for test also the last four characters of Gurmukhi; all others are for training.
VINYALS = {
    "val": ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"),
    "test": (
        "Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya", "Sylheti",
        "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG", *(f"Gurmukhi/character{i}" for i in range(42, 46)),
    ),
}  # fmt: skip


def vinyals(names: dict[str, list[str]], root: Path) -> dict[str, list[int]]:
    """1028 / 172 / 423 characters of Vinyals et al. (2016), as the authors of prototypical networks published them.

    A file `splits_vinyals.json` in the folder, which maps "train", "val", "test" to lists of "Alphabet/characterNN",
    takes precedence.
    """
    path = root / "splits_vinyals.json"
    place = {name: i for i, name in enumerate(name for part in names.values() for name in part)}
    if not path.exists():
        return _vinyals(place, root)
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        parts = {split: [place[name] for name in listed[split]] for split in ("train", "val", "test")}
    except KeyError as error:
        raise DataError(f"{path}: {error} is not among the characters or keys of this copy") from error
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error}); get a fresh copy") from error
    members = [c for part in parts.values() for c in part]
    if len(members) != len(set(members)):
        raise DataError(f"{path}: a character is listed twice; splits must be disjoint")
    return parts


def _vinyals(place: dict[str, int], root: Path) -> dict[str, list[int]]:
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for name in sorted(place):
        held_out = (s for s, members in VINYALS.items() if name in members or name.split("/")[0] in members)
        parts[next(held_out, "train")].append(place[name])
    if [len(part) for part in parts.values()] != [1028, 172, 423]:
        raise DataError(
            f"{root}: split=vinyals needs the authors' 1623 characters under their names, or a list of its own, "
            "splits_vinyals.json; split=lake takes any"
        )
    return parts


def lake(names: dict[str, list[str]], root: Path) -> dict[str, list[int]]:
    """The authors' split by alphabet: the background set for training, the evaluation set for test.

    For validation, every 6th background alphabet in alphabetical order (5 of 30) is held out from training.
    """
    alphabets = sorted({name.split("/")[0] for name in names["background"]})
    held_out = set(alphabets[5::6])
    parts: dict[str, list[int]] = {"train": [], "val": []}
    for i, name in enumerate(names["background"]):
        parts["val" if name.split("/")[0] in held_out else "train"].append(i)
    first = len(names["background"])
    return parts | {"test": list(range(first, first + len(names["evaluation"])))}


SPLITTERS = {"random1200": random1200, "vinyals": vinyals, "lake": lake}


def find_root(root: str | None, download: bool) -> Path:
    """The data folder: the given one, else $METAEXP_DATA/omniglot, else data/omniglot.

    If the data are missing and `download` is set, they are downloaded into the first of these.

    Raises DataError, which lists the ways to get the data.
    """
    if root is None:
        places = [Path(os.environ["METAEXP_DATA"], "omniglot")] if os.environ.get("METAEXP_DATA") else []
        places.append(Path("data", "omniglot").absolute())
    else:
        places = [Path(root).expanduser().absolute()]
    for place in places:
        if files.is_there(place):
            return place
    if download:
        files.download(places[0])
        return places[0]
    looked = " and ".join(map(str, places))
    raise DataError(
        f"no Omniglot in {looked}: fetch it from the authors' repository with task.download=true, "
        "or point task.root= at a folder with images_background and images_evaluation (folders, zips, or packed npz)"
    )


class Characters(Classes):
    """Abstract: the classes are the characters of a folder of Omniglot, drawn in ink on an empty background.

    Args:
        root, download, verify, resize, size, invert: see `Omniglot`.
        split: makes the class numbers of each split from the characters' names.
        by_alphabet: the classes of an episode are of one alphabet.
        rest: further arguments of `Classes`.

    Raises:
        DataError: the data are missing, incomplete or damaged.
    """

    def __init__(
        self,
        root: str | None,
        download: bool,
        verify: bool,
        resize: str,
        size: int,
        invert: bool,
        split: Callable[[dict[str, list[str]], Path], dict[str, list[int]]],
        by_alphabet: bool = False,
        **rest: Any,
    ):
        self.folder = find_root(root, download)
        names, images = files.read(self.folder, resize, size, verify)
        self.resize, self.invert = resize, invert
        self.names = [name for part in names.values() for name in part]  # of the classes, "Alphabet/characterNN"
        parts = split(names, self.folder)
        self.trained_on = digest(self.names[i] for i in parts["train"])
        alphabets = [name.split("/")[0] for name in self.names]
        numbers = {name: i for i, name in enumerate(dict.fromkeys(alphabets))}
        groups = [numbers[name] for name in alphabets] if by_alphabet else None
        super().__init__(self.drawn(images), [files.DRAWERS] * len(self.names), parts, groups=groups, **rest)

    def drawn(self, images: np.ndarray) -> Tensor:
        """Drawings uint8 [..., size, size], bright ink on 0 -> pictures [n, 1, size, size], inverted if asked for."""
        return torch.from_numpy(images if self.invert else 255 - images).view(-1, 1, *images.shape[-2:])

    def raw_inputs(self) -> DrawingInputs:
        """See TaskFamily.raw_inputs: drawings, black on white."""
        return DrawingInputs(ArrayInputs(self.x_shape, *self.units()), self.x_shape[-1], self.resize, self.invert)


class Omniglot(Characters):
    """Episodes of handwritten characters, x [1, size, size] in [0, 1]; characters are disjoint between the splits.

    "One shot learning of simple visual concepts", Lake, Salakhutdinov, Gross, Tenenbaum, 2011.

    Args:
        root: folder with the data (see `metaexp.tasks.data.omniglot`); None: see `find_root`.
        split: random1200 | vinyals | lake, see the functions of this module.
        resize: lanczos (grey) | nearest (binary: the result of resizing the 1-bit files, as the authors of MAML,
            Reptile and ProtoNet did, whichever filter they specified).
        size: pixels per side, at most 105.
        invert: ink is 1 on a background of 0; False: ink is 0 on 1, as in the files and in Reptile's code.
        download: fetch the data if they are missing.
        verify: reject an incomplete or changed copy.
        ways, shots, queries, rotation, test: see `Classes`.

    Raises:
        ValueError: a setting is out of range.
        DataError: the data are missing, incomplete or damaged.
    """

    @checked
    def __init__(
        self,
        shots: Count = 1,
        queries: Natural = 15,
        ways: Annotated[int, Limit(least=2)] = 5,
        root: str | None = None,
        split: Literal["random1200", "vinyals", "lake"] = "random1200",
        resize: Literal["lanczos", "nearest"] = "lanczos",
        size: Annotated[int, Limit(least=1, most=105)] = 28,
        invert: bool = True,
        rotation: Rotation = "per_class",
        download: bool = False,
        verify: bool = True,
        test: Sizes | None = None,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        self.split = split
        rest: dict[str, Any] = {"ways": ways, "rotation": rotation, "test": test, "seed": seed, "eval_seed": eval_seed}
        super().__init__(
            root, download, verify, resize, size, invert, SPLITTERS[split], shots=shots, queries=queries, **rest
        )
