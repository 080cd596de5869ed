"""Reading, checking and fetching Omniglot: 1623 handwritten characters, each drawn once by 20 people.

"Human-level concept learning through probabilistic program induction", Lake, Salakhutdinov, Tenenbaum, Science, 2015.
A folder holds two parts, background and evaluation, each in one of these forms (tried in this order):
`omniglot28_PART.npz` (images, only for 28 pixels by Lanczos), `omniglot105_PART.npz` (packed bits), the authors'
folder `images_PART/Alphabet/characterNN/*.png`, or the authors' zip of that folder, `images_PART.zip`. Archives are
read in place and never extracted, and no pickle is ever loaded.
"""

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from metaexp.errors import DataError, SpaceError
from metaexp.tasks.data.download import UNWRITABLE, fetch

PARTS = {"background": 964, "evaluation": 659}  # characters
DRAWERS, SIDE = 20, 105  # drawings per character, pixels
# sha256 of the packed bits of all drawings (background before evaluation, sorted by name, then by drawer)
CONTENT = "75a36f7ce605ee617d0c45021613841aec979e079f71594e885aba52a7c003ce"
SOURCE = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
_PNG = re.compile(r"(?:images_\w+/)?([^/]+/character\d\d)/(\d+_\d\d\.png)")


class Part(NamedTuple):
    """The characters of one part, sorted by name."""

    names: list[str]  # "Alphabet/characterNN"
    packed: bool  # whether the pixels are packed bits (else images)
    # images: uint8 [characters, 20, 28, 28], bright ink on 0
    # bits: uint8 [characters, 20, 1379], 105 x 105 pixels row by row, 8 per byte, high bit first, 1 is ink
    pixels: np.ndarray


def read(root: Path, resize: str, size: int, verify: bool) -> tuple[dict[str, list[str]], np.ndarray]:
    """Names by part, and all images, background first: uint8 [characters, 20, size, size], bright ink on 0.

    Args:
        root: the folder.
        resize: nearest (of the 1-bit drawing: binary images) | lanczos (of the drawing in grey: anti-aliased).
        size: pixels per side.
        verify: reject a copy that lacks characters, or whose drawings differ from the authors'. For images that are
            already resized (omniglot28), only the number of characters is checked.

    Raises:
        DataError: a part is missing, incomplete or damaged.
    """
    parts = {part: _read_part(root, part, resize == "lanczos" and size == 28) for part in PARTS}
    if verify:
        _verify(str(root), parts)
    images = [_shrink(p.pixels, resize, size) if p.packed else p.pixels for p in parts.values()]
    return {part: p.names for part, p in parts.items()}, np.concatenate(images)


def is_there(root: Path) -> bool:
    """Whether the folder holds both parts in any form."""
    return all(any((root / name).exists() for name in _forms(part)) for part in PARTS)


def _forms(part: str) -> dict[str, Callable[[Path], Part]]:
    return {
        f"omniglot28_{part}.npz": _read_images,
        f"omniglot105_{part}.npz": _read_bits,
        f"images_{part}": lambda path: _read_pngs(path, _folder_pngs(path)),
        f"images_{part}.zip": lambda path: _read_pngs(path, _zip_pngs(path)),
    }


def _read_part(root: Path, part: str, ready: bool) -> Part:
    forms = {name: reader for name, reader in _forms(part).items() if ready or reader is not _read_images}
    for name, reader in forms.items():
        if (root / name).exists():
            return reader(root / name)
    raise DataError(f"{root}: the {part} characters are in none of the usable forms {', '.join(forms)}; put one there")


def _verify(source: str, parts: dict[str, Part]) -> None:
    for part, content in parts.items():
        if len(content.names) != PARTS[part]:
            raise DataError(
                f"{source}: {len(content.names)} {part} characters, expected {PARTS[part]}: an incomplete copy; "
                "complete it, or take it as it is with task.verify=false"
            )
    bits = [content.pixels for content in parts.values() if content.packed]
    if len(bits) == len(parts):
        digest = hashlib.sha256()
        for part_bits in bits:
            digest.update(np.ascontiguousarray(part_bits).tobytes())
        if digest.hexdigest() != CONTENT:
            raise DataError(
                f"{source}: sha256 of the drawings is {digest.hexdigest()}, expected {CONTENT}: damaged or changed; "
                "get a fresh copy, or take it as it is with task.verify=false"
            )


def _load(path: Path, key: str, shape: tuple[int, ...]) -> tuple[list[str], np.ndarray]:
    """Sorted names and the array `key` of an npz; `shape` is that of one character."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names, array = [str(name) for name in file["names"]], file[key]
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds on damaged bytes
        raise DataError(f"{path}: damaged or not an Omniglot npz ({error}); get a fresh copy") from error
    if array.dtype != np.uint8 or array.shape != (len(names), *shape):
        raise DataError(f"{path}: {key} is {array.dtype} {list(array.shape)}, expected uint8 {[len(names), *shape]}")
    if len(set(names)) < len(names):
        raise DataError(f"{path}: a character appears twice; get a fresh copy")
    order = sorted(range(len(names)), key=names.__getitem__)
    return [names[i] for i in order], array[order]


def _read_images(path: Path) -> Part:
    names, images = _load(path, "images", (DRAWERS, 28, 28))
    return Part(names, False, images)


def _read_bits(path: Path) -> Part:
    names, bits = _load(path, "bits", (DRAWERS, (SIDE * SIDE + 7) // 8))
    return Part(names, True, bits)


def _folder_pngs(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    for path in folder.glob("*/character*/*.png"):
        yield f"{path.parts[-3]}/{path.parts[-2]}", path.name, path.read_bytes()


def _zip_pngs(path: Path) -> Iterator[tuple[str, str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename
            if name.startswith("/") or "\\" in name or ".." in name.split("/") or member.file_size > 1 << 16:
                raise DataError(f"{path}: refused, its member {name!r} ({member.file_size} bytes) is not a drawing")
            if match := _PNG.fullmatch(name):
                yield match[1], match[2], archive.read(member)


def _read_pngs(path: Path, files: Iterator[tuple[str, str, bytes]]) -> Part:
    """Build a part from (character, file name, content) of every drawing, in any order."""
    found: dict[str, dict[str, np.ndarray]] = {}
    name, file = "", ""
    try:
        for name, file, content in files:
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                if image.size != (SIDE, SIDE):
                    raise ValueError(f"{image.size[0]}x{image.size[1]} pixels, expected {SIDE}x{SIDE}")
                ink = np.asarray(image.convert("L")) < 128  # the authors draw black on white
            found.setdefault(name, {})[file] = np.packbits(ink)
    except DataError:
        raise
    except Exception as error:  # Pillow, zipfile and zlib raise a dozen kinds on damaged bytes
        raise DataError(f"{path}: damaged at or after {name}/{file} ({error}); get a fresh copy") from error
    if not found:
        raise DataError(f"{path}: no drawings Alphabet/characterNN/*.png in it")
    for name, drawings in found.items():
        if len(drawings) != DRAWERS:
            raise DataError(f"{path}: {name} has {len(drawings)} drawings, expected {DRAWERS}: an incomplete copy")
    names = sorted(found)
    return Part(names, True, np.stack([np.stack([found[n][f] for f in sorted(found[n])]) for n in names]))


def _shrink(bits: np.ndarray, resize: str, size: int) -> np.ndarray:
    """Packed drawings [characters, 20, 1379] -> uint8 [characters, 20, size, size]."""
    result = np.empty((*bits.shape[:2], size, size), np.uint8)
    for i, character in enumerate(bits):  # one at a time: all at once would take 360 MB
        for j, ink in enumerate(np.unpackbits(character, axis=-1)[:, : SIDE * SIDE].reshape(-1, SIDE, SIDE)):
            result[i, j] = drawing(ink, resize, size)
    return result


def drawing(ink: np.ndarray, resize: str, size: int) -> np.ndarray:
    """One drawing [side, side], where ink is not 0 -> uint8 [size, size], bright ink on 0; `resize` as for `read`."""
    pixels = (ink != 0) * np.uint8(255)
    if resize == "nearest":
        nearest = ((np.arange(size) + 0.5) * len(ink) / size).astype(int)  # the pixel that Pillow's NEAREST takes
        return np.asarray(pixels[nearest[:, None], nearest])
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS))


def download(root: Path, source: str = SOURCE, timeout: float = 60.0) -> None:
    """Fetch the authors' two zips (16 MB) into `root`, and give them their final names after checking every drawing.

    Raises:
        DataError: no network, a broken transfer, or drawings that are not the authors' (sha256); no file is kept.
        SpaceError: the folder cannot be written.
    """
    partial = {part: root / f"images_{part}.zip.part-{os.getpid()}" for part in PARTS}
    try:
        root.mkdir(parents=True, exist_ok=True)
        for part, path in partial.items():
            fetch(f"{source}/images_{part}.zip", path, timeout)
        _verify(source, {part: _read_pngs(path, _zip_pngs(path)) for part, path in partial.items()})
        for part, path in partial.items():
            path.replace(root / f"images_{part}.zip")
    except OSError as error:
        kind = SpaceError if error.errno in UNWRITABLE else DataError
        raise kind(f"{source}: download into {root} failed ({error}); or point task.root= at a copy") from error
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
