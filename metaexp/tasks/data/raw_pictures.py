"""Pictures of a new task -> pixels or vectors as the training made them."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metaexp.errors import DataError
from metaexp.tasks.data.items import as_item, reason, scaled, white_of
from metaexp.tasks.data.omniglot import drawing
from metaexp.tasks.data.pictures import Fit, Pictures, opened, prepared
from metaexp.tasks.data.raw import ArrayInputs, EncodedInputs, as_list

COLUMN = "filename"  # of a frame that lists files, as in `task.lists`


class _PictureInputs(EncodedInputs):
    # Abstract: a subclass turns one picture, which is open, into an input or its bytes.

    kind = "pictures"

    def __init__(self, encoder: Any, arrays: ArrayInputs, encoded_by: Mapping[str, Any] | None = None):
        super().__init__(encoder, arrays, encoded_by)
        self.names = [COLUMN]

    def __call__(self, raw: Any) -> Tensor:
        """See RawInputs."""
        if self._is_ready(raw):
            return self.arrays(raw)
        items = as_list(raw, COLUMN)
        if not items:
            return torch.zeros(0, *self.arrays.x_shape, dtype=torch.float64)
        return self.finished([self._one(place, item) for place, item in enumerate(items)])

    def picture(self, image: Image.Image) -> Any:
        """One picture as the training read it; raises ValueError for one that does not fit."""
        raise NotImplementedError

    def finished(self, made: list[Any]) -> Tensor:
        """All of them as inputs."""
        raise NotImplementedError

    def _is_ready(self, raw: Any) -> bool:
        """Whether these are arrays in the learner's own shape, or of numbers that no picture has."""
        array = raw.detach().cpu().numpy() if isinstance(raw, Tensor) else raw
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufc":
            return isinstance(raw, list | tuple) and len(raw) > 0 and isinstance(raw[0], list | tuple)
        pictures = array.dtype in (np.uint8, np.uint16) and array.ndim in (3, 4)
        return array.shape[1:] == self.arrays.x_shape or not pictures

    def _one(self, place: int, item: Any) -> Any:
        where = f"x: item {place}"
        if isinstance(item, str | PathLike):
            path = Path(item).expanduser()
            try:
                with opened(path) as image:
                    return self.picture(image)
            except ValueError as error:
                raise ValueError(f"{where}, {path}: {error}") from error
            except OSError as error:
                raise DataError(f"{path}: not a readable picture ({reason(error)})") from error
        try:
            return self.picture(_as_image(item))
        except (ValueError, OSError) as error:
            raise ValueError(f"{where}: {error}") from error


def _as_image(item: Any) -> Image.Image:
    if isinstance(item, Image.Image):
        return item
    array = item.detach().cpu().numpy() if isinstance(item, Tensor) else item
    if not isinstance(array, np.ndarray):
        raise ValueError(f"a {type(item).__name__}; each must be a picture (PIL), a file, or an array of bytes")
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.dtype not in (np.uint8, np.uint16) or array.ndim not in (2, 3):
        raise ValueError(
            f"{array.dtype} {list(array.shape)}; an array of a picture is uint8 [height, width] or [height, width, 3]"
        )
    return Image.fromarray(np.ascontiguousarray(array))


class ImageInputs(_PictureInputs):
    """Pictures (PIL), files, arrays of bytes of any size, or a frame with the column filename, as in `task=images`.

    Args:
        encoder, arrays, encoded_by: see `EncodedInputs`.
        size, fit, channels: see `metaexp.tasks.images.Images`.
    """

    def __init__(
        self,
        arrays: ArrayInputs,
        size: int,
        fit: Fit,
        channels: int,
        encoder: Any = None,
        encoded_by: Mapping[str, Any] | None = None,
    ):
        super().__init__(encoder, arrays, encoded_by)
        self.size, self.fit, self.channels = size, fit, channels

    def picture(self, image: Image.Image) -> np.ndarray:
        """Bytes [channels, size, size]."""
        return prepared(image, self.size, self.fit, self.channels)

    def finished(self, made: list[np.ndarray]) -> Tensor:
        """Pixels in [0, 1], or vectors."""
        pixels = np.stack(made)
        return self.encoded(Pictures(pixels)) if self.encoder else self.arrays(pixels)

    def settings(self) -> dict[str, Any]:
        """See RawInputs."""
        return super().settings() | {"size": self.size, "fit": self.fit, "channels": self.channels}


class DrawingInputs(_PictureInputs):
    """Drawings, dark on light, as Omniglot's: files, pictures (PIL), or arrays of bytes; square, of any size.

    Args:
        arrays: see `EncodedInputs`.
        size, resize, invert: see `metaexp.tasks.omniglot.Omniglot`.
    """

    def __init__(self, arrays: ArrayInputs, size: int, resize: str, invert: bool):
        super().__init__(None, arrays)
        self.size, self.resize, self.invert = size, resize, invert

    def picture(self, image: Image.Image) -> np.ndarray:
        """Bytes [1, size, size]."""
        if image.width != image.height:
            raise ValueError(f"{image.width} x {image.height} pixels; a drawing is square")
        made = drawing(np.asarray(image.convert("L")) < 128, self.resize, self.size)
        return (made if self.invert else 255 - made)[None]

    def finished(self, made: list[np.ndarray]) -> Tensor:
        """Pixels in [0, 1]."""
        return self.arrays(np.stack(made))

    def settings(self) -> dict[str, Any]:
        """See RawInputs."""
        return super().settings() | {"size": self.size, "resize": self.resize, "invert": self.invert}


class ItemInputs(_PictureInputs):
    """What the items of a user's data set were: pictures (PIL) and files of the same size and colours, or arrays."""

    def __init__(self, arrays: ArrayInputs):
        super().__init__(None, arrays)

    def picture(self, image: Image.Image) -> Tensor:
        """[*x_shape], pictures in [0, 1]."""
        item = as_item(image)
        if tuple(item.x.shape) != self.arrays.x_shape:
            raise ValueError(
                f"a picture [channels, height, width] of {list(item.x.shape)}; the run's are "
                f"{list(self.arrays.x_shape)}: convert and resize it as your data set did"
            )
        return scaled(item, self.arrays.white or white_of([item]))

    def finished(self, made: list[Tensor]) -> Tensor:
        """The inputs."""
        return torch.stack([x.double() for x in made])
