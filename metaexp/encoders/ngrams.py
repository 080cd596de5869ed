"""Hashed n-grams of words and characters."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import numpy as np

from metaexp.constraints import Count, Limit, Natural, checked
from metaexp.encoders.base import Encoder, Kind

_WORD = re.compile(r"\w+|[^\w\s]")


class NGrams(Encoder):
    """Counts of word and character n-grams, hashed to a fixed number of dimensions; needs no download and no training.

    "Feature Hashing for Large Scale Multitask Learning", Weinberger, Dasgupta, Langford, Smola, Attenberg, 2009,
    equation 2: dimension h(g) gets xi(g) = +1 or -1 for each n-gram g, so that inner products are unbiased. Counts are
    damped (sign(c) log(1 + |c|)) and vectors have length 1. Text is normalised (NFKC) and case-folded.

    Args:
        dimensions: length of the vectors.
        words: n-grams of up to this many words; 0: none.
        characters: shortest and longest character n-gram, within words, whose ends are marked; []: none.

    Raises:
        ValueError: neither words nor characters, or a shortest above the longest.
    """

    kind: ClassVar[Kind] = "text"

    @checked
    def __init__(
        self,
        dimensions: Annotated[int, Limit(least=2)] = 1024,
        words: Natural = 2,
        characters: Sequence[Count] = (3, 5),
    ):
        characters = tuple(characters)
        if len(characters) not in (0, 2) or list(characters) != sorted(characters):
            raise ValueError(f"characters={list(characters)}: must be [shortest, longest] or []")
        if not words and not characters:
            raise ValueError("words=0: without character n-grams too there is nothing to count")
        self.dimensions, self.words, self.characters = dimensions, words, characters
        self._place = lru_cache(1 << 20)(self._hashed)

    def settings(self) -> dict[str, Any]:
        """See Encoder.settings."""
        return {"version": 1, "dimensions": self.dimensions, "words": self.words, "characters": list(self.characters)}

    def encode(self, examples: Sequence[str]) -> np.ndarray:
        """Sentences [n] -> float32 [n, dimensions], each of length 1 (0 for a sentence without any n-gram)."""
        places, signs = [], []
        for row, text in enumerate(examples):
            for gram in self._grams(text):
                place, sign = self._place(gram)
                places.append(row * self.dimensions + place)
                signs.append(sign)
        size = len(examples) * self.dimensions
        counts = np.bincount(np.array(places, np.int64), np.array(signs, np.float64), size)
        counts = (np.sign(counts) * np.log1p(np.abs(counts))).reshape(len(examples), self.dimensions)
        length = np.linalg.norm(counts, axis=1, keepdims=True)
        vectors: np.ndarray = (counts / np.where(length > 0, length, 1)).astype(np.float32)
        return vectors

    def _grams(self, text: str) -> list[str]:
        tokens = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
        grams = [" ".join(tokens[i : i + n]) for n in range(1, self.words + 1) for i in range(len(tokens) - n + 1)]
        if self.characters:
            shortest, longest = self.characters
            for token in tokens:
                marked = f"<{token}>"
                grams += [
                    f"#{marked[i : i + n]}" for n in range(shortest, longest + 1) for i in range(len(marked) - n + 1)
                ]
        return grams

    def _hashed(self, gram: str) -> tuple[int, int]:
        number = int.from_bytes(
            hashlib.blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
        )
        return (number >> 1) % self.dimensions, 1 if number & 1 else -1
