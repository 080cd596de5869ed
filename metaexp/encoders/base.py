"""The base class of encoders, and the encoding of a whole data set through the cache."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from metaexp.errors import DataError
from metaexp.system.cache import Cache

Kind = Literal["text", "pictures"]


class Raw(Protocol):
    """Raw examples of one kind, in a fixed order."""

    kind: Kind
    digest: str  # SHA-256 of the content of all examples
    noun: str  # what they are, for messages: sentences, pictures

    def __len__(self) -> int: ...

    def batch(self, first: int, last: int) -> Any:
        """Examples first ... last - 1: a list of str, or bytes [n, channels, height, width]."""
        ...


class Encoder(ABC):
    """A frozen function from raw examples to vectors."""

    kind: ClassVar[Kind]  # what it encodes

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything its vectors depend on, as JSON data: settings, versions, the SHA-256 of its weights."""

    @abstractmethod
    def encode(self, examples: Any) -> np.ndarray:
        """A batch of raw examples (see `Raw.batch`) -> float32 [n, d]."""


def encode_all(raw: Raw, encoder: Encoder, cache: Cache, batch: int = 256) -> np.ndarray:
    """The vectors of all examples, float32 [len(raw), d], from the cache or computed.

    Raises:
        DataError: the encoder takes another kind of examples, or gives values that are not finite.
        SpaceError: no space for the cache.
    """
    if encoder.kind != raw.kind:
        raise DataError(f"encoder: {type(encoder).__name__} encodes {encoder.kind}, and these are {raw.kind}")

    def make(first: int, last: int) -> np.ndarray:
        parts = [encoder.encode(raw.batch(i, min(i + batch, last))) for i in range(first, last, batch)]
        vectors = np.concatenate(parts).astype(np.float32, copy=False)
        if not np.isfinite(vectors).all():
            row = first + int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])
            raise DataError(f"encoder: {type(encoder).__name__} gives inf or NaN for example {row}")
        return vectors

    key = {"vectors": type(encoder).__name__, "settings": encoder.settings(), "data": raw.digest}
    return cache.array(key, len(raw), make, f"encoding {len(raw):,} {raw.noun}")


class Texts:
    """Sentences as raw examples."""

    kind: Kind = "text"
    noun = "sentences"

    def __init__(self, texts: Sequence[str]):
        self.texts = list(texts)
        self.digest = hashlib.sha256("\0".join(self.texts).encode("utf-8", "surrogatepass")).hexdigest()

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, first: int, last: int) -> list[str]:
        """Sentences first ... last - 1."""
        return self.texts[first:last]
