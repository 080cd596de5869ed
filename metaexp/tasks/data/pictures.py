"""Folders and lists of pictures, decoded once into an array of bytes in the cache."""

import csv
import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from metaexp.encoders.base import Kind
from metaexp.errors import DataError
from metaexp.system.cache import Cache
from metaexp.tasks.data.items import as_item, reason, white_of
from metaexp.tasks.data.text import no_column

Fit = Literal["crop", "pad", "stretch"]
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".jp2", ".tga"}
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LARGEST = 1 << 27  # pixels; a larger picture is refused before it is decoded


class Picture(NamedTuple):
    """One file, its class, and its split where folders or lists say it."""

    path: Path
    label: str
    split: str | None


def find(root: Path, lists: Sequence[str] = (), skip: bool = False) -> tuple[list[Picture], list[Path]]:
    """The pictures under a folder, sorted by class and name, and with `skip` the class folders without any.

    Without lists, root/CLASS/*, or root/train/CLASS/*, root/val/CLASS/*, root/test/CLASS/*; pictures may lie in
    folders below that of their class (links to folders there are not followed), and hidden files and files that are no
    pictures by their ending are passed over. With lists, each is a CSV file with the columns filename and label; the
    list's own name (train.csv, val.csv, test.csv) is the split.

    Raises:
        DataError: no such folder, no picture in it, without `skip` a class folder without pictures, a list that does
            not fit.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; task.root= names a folder with one folder of pictures per class")
    empty: list[Path] = []
    if lists:
        found = [picture for name in lists for picture in _listed(root, Path(name).expanduser())]
    else:
        folders = folders_of(root)
        if folders and all(path.name in SPLIT_FOLDERS for path in folders):
            pairs = [(SPLIT_FOLDERS[part.name], folder) for part in folders for folder in folders_of(part)]
        else:
            pairs = [("", folder) for folder in folders]
        found = []
        for split, folder in pairs:
            there = [Picture(path, folder.name, split or None) for path in pictures_of(folder)]
            found += there
            empty += [] if there else [folder]
    if found and empty and not skip:
        raise DataError(f"{empty[0]}: no pictures in it; remove this folder, or task.unreadable=skip")
    if not found:
        raise DataError(f"{root}: no pictures; there must be one folder of pictures per class, e.g. {root}/cat/1.png")
    owners: dict[str, str | None] = {}
    for picture in found:
        if owners.setdefault(picture.label, picture.split) != picture.split:
            where = f"{owners[picture.label]} and {picture.split}"
            raise DataError(f"{root}: class {picture.label} is in {where}; its tasks would test on what was trained on")
    return sorted(found, key=lambda picture: (picture.label, str(picture.path))), empty


def folders_of(part: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones."""
    return sorted(path for path in part.iterdir() if path.is_dir() and not path.name.startswith("."))


def pictures_of(folder: Path) -> list[Path]:
    """The pictures in a folder and below it, sorted; hidden files and folders are passed over."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in files if Path(name).suffix.lower() in ENDINGS and name[0] != "."]
    return sorted(found)


def _listed(root: Path, file: Path) -> list[Picture]:
    path = file if file.is_file() else root / file
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); task.lists= names CSV files") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8; save the file as UTF-8") from error
    reader = csv.DictReader(text.splitlines())
    header = [name.strip() for name in reader.fieldnames or []]
    for name in ("filename", "label"):
        if name not in header:
            raise DataError(no_column(path, header, (text.splitlines() or [""])[0], ",", "lists", name))
    split = SPLIT_FOLDERS.get(path.stem.lower())
    pictures = []
    for row in reader:
        name, label = (row["filename"] or "").strip(), (row["label"] or "").strip()
        if not name or not label:
            raise DataError(f"{path}: line {reader.line_num} lacks filename or label")
        places = [root / name, root / "images" / name, root / label / name]
        there = next((place for place in places if place.is_file()), None)
        if there is None:
            raise DataError(f"{path}: line {reader.line_num}: no file {places[0]}")
        pictures.append(Picture(there, label, split))
    if not pictures:
        raise DataError(f"{path}: has no rows")
    return pictures


def decode(path: Path, size: int, fit: Fit, channels: int) -> np.ndarray:
    """One picture as bytes [channels, size, size].

    Grey values of 16 bits are scaled to 8; a palette becomes its colours; transparency is laid on white; the
    orientation that a camera noted is applied.

    Raises:
        DataError: the file cannot be read, is damaged, or has more than 2^27 pixels; the message names it.
    """
    try:
        with _no_warnings(), Image.open(path) as image:
            return prepared(image, size, fit, channels)
    except Exception as error:  # decoders raise errors of many kinds
        raise DataError(
            f"{path}: not a readable picture ({reason(error)}); mend it, or task.unreadable=skip"
        ) from error


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Without Pillow's warnings of many pixels (the limit is LARGEST) and of damaged metadata (they are not used)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture of which every pixel could be read; raises DataError, which names the file."""
    try:
        with _no_warnings():
            image = Image.open(path)
            with image:
                _check_size(image)
                image.load()
    except Exception as error:
        raise DataError(f"{path}: not a readable picture ({reason(error)})") from error
    yield image


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > LARGEST:
        raise ValueError(f"{width} x {height} pixels are too many")


def prepared(image: Image.Image, size: int, fit: Fit, channels: int) -> np.ndarray:
    """An open picture as `decode` gives it; raises whatever decoding raises."""
    _check_size(image)
    image.load()
    return _sized(_plain(ImageOps.exif_transpose(image) or image, channels), size, fit, channels)


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """In mode L or RGB."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        item = as_item(image)
        if item.white is not None:
            values = item.x.double() / (item.white or white_of([item]))
        else:
            values = item.x.double()
        if not bool(((values >= 0) & (values <= 1)).all()):  # NaN too
            raise ValueError("grey values outside [0, 1]; save it with 8 or 16 bits")
        image = Image.fromarray((values[0] * 255).round().to(torch.uint8).numpy())
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("L" if channels == 1 else "RGB")


def _sized(image: Image.Image, size: int, fit: Fit, channels: int) -> np.ndarray:
    target, filter_ = (size, size), Image.Resampling.LANCZOS
    if fit == "crop":
        image = ImageOps.fit(image, target, filter_)
    elif fit == "pad":
        image = ImageOps.pad(image, target, filter_)
    else:
        image = image.resize(target, filter_)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def read(
    pictures: Sequence[Picture], size: int, fit: Fit, channels: int, skip: bool, cache: Cache
) -> tuple[np.ndarray, list[int]]:
    """All pictures as bytes [n, channels, size, size], memory-mapped where there is a cache; places of bad files.

    Files are known by path, size and times, so that a second start does not read them. One of the times is that of the
    last change of the file's state, which no program can set: a file with other content but the old size and date is
    noticed, unless it was changed in the same tick of the file system's clock (some milliseconds) in which it was read.

    Args:
        skip: whether a file that cannot be read is listed and its row left out, instead of ending the run.

    Raises:
        DataError: a file cannot be read.
        SpaceError: no space for the cache.
    """
    length = channels * size * size

    def make(first: int, last: int) -> np.ndarray:
        rows = np.zeros((last - first, length + 1), np.uint8)  # the last byte: whether the file could be read
        for row, picture in zip(rows, pictures[first:last], strict=True):
            try:
                row[:length] = decode(picture.path, size, fit, channels).reshape(-1)
                row[length] = 1
            except DataError:
                if not skip:
                    raise
        return rows

    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(_state(picture.path))
    key = {"pictures": digest.hexdigest(), "size": size, "fit": fit, "channels": channels, "skip": skip}
    table = cache.array(key, len(pictures), make, f"decoding {len(pictures):,} pictures", block=512)
    bad = np.flatnonzero(table[:, length] == 0)
    if len(bad) and len(bad) < len(table):
        good = np.flatnonzero(table[:, length])  # as an entry of its own: the rows are never in memory all at once
        what = f"leaving out {len(bad):,} pictures"
        table = cache.array({**key, "kept": True}, len(good), lambda a, b: table[good[a:b]], what, block=512)
    return table[:, :length].reshape(len(table), channels, size, size), bad.tolist()


def _state(path: Path) -> bytes:
    """What a file is known by."""
    try:
        about = path.stat()
        entry = f"{path.resolve()}\0{about.st_size}\0{about.st_mtime_ns}\0{about.st_ctime_ns}\n"
    except (OSError, RuntimeError):  # a link to nothing, or to itself
        entry = f"{path.absolute()}\0\n"
    return entry.encode("utf-8", "surrogateescape")


class Pictures:
    """Decoded pictures as raw examples for an encoder."""

    kind: Kind = "pictures"
    noun = "pictures"

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels
        digest = hashlib.sha256(repr(pixels.shape).encode())
        for first in range(0, len(pixels), 1024):
            digest.update(np.ascontiguousarray(pixels[first : first + 1024]).data.cast("B"))
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, first: int, last: int) -> np.ndarray:
        """Bytes [last - first, channels, size, size]."""
        return np.ascontiguousarray(self.pixels[first:last])
