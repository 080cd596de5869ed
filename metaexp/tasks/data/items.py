"""Items of a data set as tensors: pictures of any mode, arrays, tensors; and the file that a damaged one is from."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_PLAIN = {"1": "L", "P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA"}  # palette indices are not colours
_BITS, _FORMAT = 258, 339  # tags of TIFF: bits per sample; kind of number, 1 unsigned (the default), 2 signed
_LISTS = ("samples", "imgs", "images", "paths", "files", "filenames", "image_paths", "image_files")  # of file names


class Item(NamedTuple):
    """One input.

    Attributes:
        x: [channels, height, width] for a picture.
        white: the value that means 1. None: the numbers are taken as they are; 0: a whole number that only the whole
            data set tells, see `white_of`.
    """

    x: Tensor
    white: int | None


def as_item(x: Any) -> Item:
    """An image, array or tensor as an input.

    An image [height, width(, channels)] becomes [channels, height, width], and so does an array of 8 or 16 bits without
    a sign whose last dimension is the only one that can be the channels. Raises whatever decoding raises.
    """
    if isinstance(x, Image.Image):
        return _picture(x)
    if isinstance(x, np.ndarray):
        x = x.astype(x.dtype.newbyteorder("="), copy=False)
        colours = (1, 3, 4)
        if x.dtype in (np.uint8, np.uint16) and x.ndim == 3:
            x = x.transpose(2, 0, 1) if x.shape[2] in colours and x.shape[0] not in colours else x
    x = torch.as_tensor(x)
    white = {torch.uint8: 255, torch.uint16: 65535}.get(x.dtype)
    x = x.to(torch.int32) if white == 65535 else x  # torch computes little with uint16
    return Item(x.unsqueeze(0) if white and x.dim() == 2 else x, white)


def _picture(image: Image.Image) -> Item:
    tags: Any = getattr(image, "tag_v2", {})
    bits, form = (int(value[0] if isinstance(value := tags.get(tag, 0), tuple) else value) for tag in (_BITS, _FORMAT))
    pixels = np.array(image.convert(_PLAIN[image.mode]) if image.mode in _PLAIN else image)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)  # I;16B is stored high byte first
    white: int | None = {"u1": 255, "u2": 65535}.get(pixels.dtype.str[1:])
    if image.mode == "I":  # 32 bits with a sign in memory, whatever they were in the file
        white = 0
        if bits == 32 and form != 2:
            pixels, white = pixels.view(np.uint32).astype(np.int64), 2**32 - 1
        elif bits in (16, 32):
            white = 2 ** (bits - (form == 2)) - 1
    made = torch.from_numpy(pixels.astype(np.int32) if white == 65535 and pixels.dtype == np.uint16 else pixels)
    return Item(made.unsqueeze(0) if made.dim() == 2 else made.permute(2, 0, 1), white)


def white_of(items: Sequence[Item]) -> int:
    """What means 1 in pictures of whole numbers that do not say it: 16 bits if all their values fit, else 31."""
    largest = max((int(item.x.max()) for item in items if item.white == 0 and item.x.numel()), default=0)
    return 65535 if largest <= 65535 else 2**31 - 1


def scaled(item: Item, unknown: int) -> Tensor:
    """The input as floats, pictures in [0, 1]; computed in double precision, so that every value is the nearest."""
    if item.white is None:
        return item.x if item.x.is_floating_point() else item.x.float()
    return (item.x.double() / (item.white or unknown)).float()


def file_of(dataset: Any, index: int, *clues: Any) -> str:
    """', FILE' if it is known from which file an item comes, else nothing.

    Args:
        clues: the exception or the image, which may know it.
    """
    for clue in clues:
        name = getattr(clue, "filename", None)
        if isinstance(name, str | os.PathLike) and str(name):
            return f", {os.fspath(name)}"
    indices = getattr(dataset, "indices", None)  # a torch.utils.data.Subset
    if hasattr(dataset, "dataset") and isinstance(indices, Sequence) and index < len(indices):
        return file_of(dataset.dataset, int(indices[index]))
    for attribute in _LISTS:
        names = getattr(dataset, attribute, None)
        if isinstance(names, Sequence) and not isinstance(names, str) and index < len(names):
            name = names[index]
            name = name[0] if isinstance(name, tuple | list) and name else name
            if isinstance(name, str | os.PathLike):
                return f", {os.fspath(name)}"
    return ""


def reason(error: Exception) -> str:
    """An exception's text in one line; its type if it has none, or one that says nothing alone."""
    text = " ".join(str(error).split())[:200]
    return (
        text
        if isinstance(error, OSError) and text
        else f"{type(error).__name__}: {text}"
        if text
        else type(error).__name__
    )
