"""The base class of encoders, and the encoding of a whole data set through the cache."""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from metaexp.errors import ConfigError, DataError
from metaexp.system.cache import Cache
from metaexp.system.files import plain

Kind = Literal["text", "pictures"]
_VERSIONS = ("library", "torch")  # of an encoder's settings: versions, which move vectors by rounding alone
log = logging.getLogger(__name__)


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


def chosen(encoder: Any) -> Any:
    """The encoder; None for no settings at all.

    Raises ConfigError for settings of an encoder that was not chosen.
    """
    if isinstance(encoder, Mapping):
        for key, value in encoder.items():
            raise ConfigError(f"encoder.{key}={value}: no encoder is chosen; name it, too, e.g. encoder=ngrams")
        return None
    return encoder


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


def same_encoder(encoder: Encoder, before: Mapping[str, Any]) -> None:
    """Refuse an encoder that is not the one of `before`, its `settings` of then; another version of its library is a
    warning.

    Raises:
        DataError: its vectors are others: another network, other weights or settings.
    """
    now, name = plain(encoder.settings()), type(encoder).__name__
    before = plain(dict(before))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if other := [key for key in changed if key not in _VERSIONS]:
        raise DataError(
            f"encoder: {name} is not what this run was trained with, its {' and '.join(other)} changed since; "
            "put back what was there"
        )
    for key in changed:
        log.warning("encoder: %s was used with %s %s, now %s", name, key, before.get(key), now.get(key))


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
