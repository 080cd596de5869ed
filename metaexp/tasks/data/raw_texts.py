"""Sentences of a new task -> the vectors of the run's encoder."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from metaexp.encoders.base import Texts
from metaexp.encoders.ngrams import NGrams
from metaexp.tasks.data.raw import ArrayInputs, EncodedInputs, as_list, is_frame


class TextInputs(EncodedInputs):
    """A list, array or series of strings, or a frame with the column of sentences; vectors [n, d] count as encoded.

    Args:
        encoder, arrays, encoded_by: see `EncodedInputs`; an encoder of None counts n-grams, as in the family.
        text: name of the column of sentences.
    """

    kind = "texts"

    def __init__(
        self,
        encoder: Any,
        arrays: ArrayInputs,
        encoded_by: Mapping[str, Any] | None = None,
        text: str = "text",
    ):
        super().__init__(encoder or NGrams(), arrays, encoded_by)
        self.text, self.names = text, [text]

    def __call__(self, raw: Any) -> Tensor:
        """See RawInputs."""
        if _is_numeric(raw):
            return self.arrays(raw)
        return self.encoded(Texts(_sentences(as_list(raw, self.text))))

    def settings(self) -> dict[str, Any]:
        """See RawInputs."""
        return super().settings() | {"text": self.text}


def _is_numeric(raw: Any) -> bool:
    if is_frame(raw):  # of vectors, or with a column of sentences
        kinds = [getattr(kind, "kind", "O") for kind in getattr(raw, "dtypes", ())]
        return len(kinds) > 1 and all(kind in "iuf" for kind in kinds)
    if hasattr(raw, "dtype"):
        kind = getattr(raw.dtype, "kind", None)
        return kind in tuple("biufc") or (kind is None and "torch" in str(raw.dtype))
    return isinstance(raw, Sequence) and len(raw) > 0 and isinstance(raw[0], Sequence) and not isinstance(raw[0], str)


def _sentences(items: list[Any]) -> list[str]:
    """Raises ValueError, with its place, for an item that is no sentence."""
    for place, item in enumerate(items):
        missing = item is None or (isinstance(item, float) and math.isnan(item))
        if not isinstance(item, str) or not item.strip():
            shown = "nothing" if missing or item == "" else f"{item!r}"[:40]
            raise ValueError(f"x: item {place} is {shown}; each must be a sentence, a text that is not empty")
    return [str(item) for item in items]
