"""Published picture sets as their authors lay them out: which files belong to which class and split.

The class lists of mini-ImageNet and tiered-ImageNet lie beside this file, in `lists/`, with their sources; those of
CUB are a rule. Nothing else is asserted: a list that is not here must come with the data.
"""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from metaexp.errors import DataError
from metaexp.random import SPLITS
from metaexp.tasks.data.download import fetch_checked, sum_of
from metaexp.tasks.data.pictures import SPLIT_FOLDERS, Picture, folders_of, pictures_of

Preset = Literal["mini_imagenet", "tiered_imagenet", "cub"]
Lists = dict[str, list[str]]
_LISTS = Path(__file__).parent / "lists"
_TRAIN = ("", "train", "images", "data", "ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train")  # places of class folders
_IMAGENET = "the training pictures of ILSVRC-2012 from image-net.org"


def find_published(preset: Preset, root: Path, download: bool) -> tuple[list[Picture], Lists]:
    """The pictures of a published set, and the labels of its classes for training, validation and test.

    Raises:
        DataError: no such folder, another layout, classes or pictures that are missing; the message says what to fetch.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; task.root= names the folder of {preset}")
    finder = {"mini_imagenet": _mini_imagenet, "tiered_imagenet": _tiered_imagenet, "cub": _cub}[preset]
    found, listed = finder(root, download)
    order = {label: split for split in SPLITS for label in listed[split]}
    kept = [picture._replace(split=order[picture.label]) for picture in found if picture.label in order]
    return sorted(kept, key=lambda picture: picture.label), listed  # equal tasks from every layout


def read_list(name: str) -> dict[str, Any]:
    """The content of one file in `lists/`."""
    found: dict[str, Any] = json.loads((_LISTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def tiered_lists() -> Lists:
    """The classes of tiered-ImageNet, 351 / 97 / 160; in the file they stand by category."""
    content = read_list("tiered_imagenet")
    return {split: [label for members in content[split].values() for label in members] for split in SPLITS}


# -- mini-ImageNet -----------------------------------------------------------------------------------------------------


def _mini_imagenet(root: Path, download: bool) -> tuple[list[Picture], Lists]:
    """The split of "Optimization as a Model for Few-Shot Learning", Ravi and Larochelle, 2017: 64 / 16 / 20 classes of
    600 pictures, listed in train.csv, val.csv and test.csv."""
    content = read_list("mini_imagenet")
    listed = {split: content[split] for split in SPLITS}
    files = {split: root / f"{split}.csv" for split in SPLITS}
    if download and not all(path.is_file() for path in files.values()):
        for path in files.values():
            fetch_checked(f"{content['source']}/{path.name}", path, "sha256", content["files_sha256"][path.name])
    if all(path.is_file() for path in files.values()):
        for path in files.values():
            if (digest := sum_of(path, "sha256")) != content["files_sha256"][path.name]:
                raise DataError(
                    f"{path}: sha256 is {digest}, that of Ravi and Larochelle's file is "
                    f"{content['files_sha256'][path.name]}; get it from {content['source']}, or use task=images"
                )
        return [picture for path in files.values() for picture in _csv(root, path)], listed
    found = _by_class(root, listed, f"{_IMAGENET}, or the 60,000 pictures of mini-ImageNet")
    counts = {label: 0 for members in listed.values() for label in members}
    for picture in found:
        counts[picture.label] += 1
    label, most = max(counts.items(), key=lambda pair: pair[1])
    if most > 600:
        raise DataError(
            f"{root}: class {label} has {most} pictures, mini-ImageNet takes 600 of them; the lists train.csv, val.csv "
            f"and test.csv say which: task.download=true, or fetch them from {content['source']} into {root}"
        )
    return found, listed


def _csv(root: Path, file: Path) -> list[Picture]:
    """Rows (filename, label). nXXXXXXXX00000005.jpg is a file of that name, or the 5th of that class in ILSVRC-2012."""
    places = [place for place in (root / "images", root) if place.is_dir()]
    ranked: dict[str, list[Path]] = {}
    found = []
    with file.open(encoding="utf-8", newline="") as text:
        for row in csv.DictReader(text):
            name, label = row["filename"], row["label"]
            path = next((place / name for place in places if (place / name).is_file()), None)
            if path is None:
                if label not in ranked:
                    ranked[label] = _ranked(root, label, name)
                number = int(name.removeprefix(label).partition(".")[0])
                if number > len(ranked[label]):
                    raise DataError(
                        f"{file}: {name} is picture {number} of {label}, and {root} has {len(ranked[label])} of them; "
                        f"it needs all of {_IMAGENET}"
                    )
                path = ranked[label][number - 1]
            found.append(Picture(path, label, None))
    return found


def _ranked(root: Path, label: str, name: str) -> list[Path]:
    """The pictures of a class folder, by the number in their names (n01440764_10026.JPEG)."""
    folder = next((root / place / label for place in _TRAIN if (root / place / label).is_dir()), None)
    if folder is None:
        raise DataError(f"{root}: has neither {name} (or images/{name}) nor a folder {label}; it needs {_IMAGENET}")

    def number(path: Path) -> int:
        digits = path.stem.rpartition("_")[2]
        if not digits.isdecimal():
            raise DataError(f"{path}: not a name of ILSVRC-2012 ({label}_10026.JPEG), so its number is not known")
        return int(digits)

    return sorted(pictures_of(folder), key=number)


# -- tiered-ImageNet, CUB ----------------------------------------------------------------------------------------------


def _tiered_imagenet(root: Path, download: bool) -> tuple[list[Picture], Lists]:
    """ "Meta-Learning for Semi-Supervised Few-Shot Classification", Ren and others, 2018: 351 / 97 / 160 classes."""
    if any(root.glob("*_images*.pkl")) or any(root.glob("*_images.npz")):
        raise DataError(f"{root}: the archive of pickled pictures is not read; point task.root= at {_IMAGENET}")
    listed = tiered_lists()
    return _by_class(root, listed, _IMAGENET), listed


def _cub(root: Path, download: bool) -> tuple[list[Picture], Lists]:
    """Caltech-UCSD Birds 200 2011, divided as in "A Closer Look at Few-shot Classification", Chen, Liu, Kira, Wang,
    Huang, 2019: of the 200 classes in order, every second one is for training (100), the others alternate between
    validation and test (50 each)."""
    base = next((place for place in (root, root / "CUB_200_2011") if (place / "images").is_dir()), None)
    if base is None:
        raise DataError(
            f"{root}: has no images/ or CUB_200_2011/images/; unpack CUB_200_2011.tgz from "
            "https://data.caltech.edu/records/65de6-vp158 there"
        )
    names = [folder.name for folder in folders_of(base / "images")]
    expected = [f"{i:03d}." for i in range(1, 201)]
    if [name[:4] for name in names] != expected:
        odd = next((name for name, start in zip([*names, ""], expected, strict=False) if name[:4] != start), names[-1])
        raise DataError(
            f"{base}/images: {len(names)} folders, expected 001. to 200.; the first that differs is {odd!r}"
        )
    listed: Lists = {"train": names[0::2], "val": names[1::4], "test": names[3::4]}
    found = _by_class(base / "images", listed, "CUB_200_2011.tgz")
    if (base / "images.txt").is_file():
        _complete(base, found)
    return found, listed


def _complete(base: Path, found: Sequence[Picture]) -> None:
    """Raises DataError if a picture that the authors' index names is not there."""
    there = {os.path.relpath(picture.path, base / "images") for picture in found}
    for number, line in enumerate((base / "images.txt").read_text(encoding="utf-8").splitlines(), 1):
        name = line.partition(" ")[2].strip()
        if name and name not in there:
            raise DataError(f"{base}/images.txt: line {number}: no file {base}/images/{name}; unpack the archive again")


def _by_class(root: Path, listed: Lists, needs: str) -> list[Picture]:
    """The pictures of class folders, in root/LABEL or a usual place below it, or in root/train|val|test/LABEL."""
    split_of = {label: split for split in SPLITS for label in listed[split]}
    parts = [folder for folder in folders_of(root) if folder.name in SPLIT_FOLDERS]
    bases = [root / place for place in _TRAIN] + parts
    places: dict[str, Path] = {}
    for base in bases:
        for folder in folders_of(base) if base.is_dir() else ():
            label = folder.name
            if label in split_of and label in places and not folder.samefile(places[label]):
                raise DataError(f"{folder}: class {label} is also in {places[label]}; keep one of them")
            if label in split_of:
                places[label] = folder
    used = {folder.parent for folder in places.values() if folder.parent in parts}
    if len(used) > 1:  # folders of splits must say what the authors' lists say
        for label, folder in places.items():
            if folder.parent in used and SPLIT_FOLDERS[folder.parent.name] != split_of[label]:
                raise DataError(f"{folder}: the authors' list has class {label} in {split_of[label]}; move it there")
    if missing := [label for label in split_of if label not in places]:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(f"{root}: {len(missing)} of {len(split_of)} classes have no folder ({some}); it needs {needs}")
    found: list[Picture] = []
    for label, folder in places.items():
        pictures = pictures_of(folder)
        if not pictures:
            raise DataError(f"{folder}: no pictures in it; it needs {needs}")
        found.extend(Picture(path, label, None) for path in pictures)
    return found
