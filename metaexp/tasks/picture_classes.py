"""What families of pictures share: classes divided by lists or fractions, encoders, augmentation."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaexp.random import fold
from metaexp.tasks.classes import Classes, Rotation, Sizes
from metaexp.tasks.data.augment import Change, augment
from metaexp.tasks.data.labelled import Standardise, encoded
from metaexp.tasks.data.pictures import Fit, Pictures
from metaexp.tasks.data.raw import ArrayInputs
from metaexp.tasks.data.raw_pictures import ImageInputs
from metaexp.tasks.data.splits import digest
from metaexp.types import Episode, Examples


class PictureClasses(Classes):
    """Abstract: N-way K-shot episodes of pictures, x [channels, size, size] in [0, 1], or of their encoded vectors.

    Args:
        pixels: bytes [rows, channels, size, size], with the rows of a class together.
        names: the labels of the classes, in the order of their rows; `counts`: their numbers of rows.
        parts: class numbers of "train", "val" and "test".
        encoder: pictures -> vectors; None: the model gets the pixels.
        standardise: units of the vectors, see `metaexp.tasks.data.labelled.encoded`.
        augment: random changes of training pictures; not together with an encoder.
        fit: how a user's own pictures of another size are brought to this one: crop | pad | stretch.
        groups, sources: see `Classes`.
        ways, shots, queries, rotation, test: see `Classes`.

    Raises:
        ValueError: a setting is out of range, or pictures that are encoded are to be changed.
        DataError: the encoder does not take pictures.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        names: Sequence[str],
        counts: Sequence[int],
        parts: Mapping[str, list[int]],
        encoder: Any,
        standardise: Standardise,
        augment: Sequence[Change],
        fit: Fit,
        shots: int,
        queries: int,
        ways: int,
        rotation: Rotation,
        test: Sizes | None,
        seed: int,
        eval_seed: int,
        groups: Sequence[int] | None = None,
        sources: Sequence[int] | None = None,
    ):
        check_unchanged(encoder, augment, rotation)
        self.augment, self.names, self.encoder = tuple(augment), list(names), encoder
        self.reading: tuple[int, Fit, int] = (pixels.shape[2], fit, pixels.shape[1])
        data, self._pixels = torch.from_numpy(pixels), pixels
        if encoder:
            raw = Pictures(pixels)
            self.raw_sha256 = raw.digest
            data, self.x_mean, self.x_std = encoded(raw, encoder, standardise, counts, parts)
        self.trained_on = digest(self.names[i] for i in parts["train"])
        super().__init__(
            data, list(counts), dict(parts), shots, queries, ways, rotation, test, seed, eval_seed, groups, sources
        )

    def raw_inputs(self) -> ImageInputs:
        """See TaskFamily.raw_inputs: pictures, scaled and cropped and encoded as those of training."""
        return ImageInputs(ArrayInputs(self.x_shape, *self.units()), *self.reading, encoder=self.encoder)

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

    def _digest(self, row: int) -> bytes:
        return hashlib.blake2b(self._pixels[row].tobytes(), digest_size=16).digest()

    def _changed(self, x: Tensor, key: Tensor) -> Tensor:
        """Pictures [a, b, *x_shape] with keys [a]."""
        own = fold(key.unsqueeze(-1), torch.arange(x.shape[1], device=x.device))  # [a, b]
        return augment(x.flatten(0, 1), own.flatten(), self.augment).view(x.shape)


def check_unchanged(encoder: Any, augment: Sequence[Change], rotation: Rotation) -> None:
    """Raises ValueError if encoded pictures are to be changed: they were encoded once, as they are."""
    if encoder and augment:
        raise ValueError(f"augment={list(augment)}: encoded pictures do not change; leave augment=[]")
    if encoder and rotation != "none":
        raise ValueError(f"rotation={rotation}: encoded pictures cannot be rotated; leave rotation=none")
