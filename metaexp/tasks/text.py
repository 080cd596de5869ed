"""Labelled sentences as N-way K-shot episodes."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

from metaexp.constraints import Count, Limit, Natural, checked
from metaexp.encoders.base import Encoder, Texts, chosen
from metaexp.encoders.ngrams import NGrams
from metaexp.tasks.classes import Classes, Sizes
from metaexp.tasks.data.labelled import Division, Standardise, by_label, encoded
from metaexp.tasks.data.raw import ArrayInputs
from metaexp.tasks.data.raw_texts import TextInputs
from metaexp.tasks.data.splits import digest
from metaexp.tasks.data.text import read_texts


class Text(Classes):
    """Episodes over the labels of a file of sentences; each sentence is a vector, computed once by an encoder.

    Args:
        file: a CSV, TSV, JSON or JSON-lines file, or several.
        text, label: names of its columns.
        encoder: sentences -> vectors; None: hashed n-grams.
        drop: labels to leave out.
        split: fractions of the classes for train, val and test; the assignment is drawn with `eval_seed`.
        classes: labels (or groups of labels) of "train", "val" and "test", instead of the fractions.
        class_file: a JSON file with these three lists, or several such splits by the name of a fold.
        fold: the split of `class_file`.
        groups: a JSON file group -> labels; `classes` may then name groups.
        ways, shots, queries, test: see `Classes`.
        standardise: none (vectors as they are) | centre (see `encoded`: mean 0, root mean square 1 over the training
            classes; `x_mean` and `x_std` convert them back).

    Raises:
        ValueError: a setting is out of range, or a class is listed twice or is not in the data.
        DataError: a file cannot be read, or the encoder does not take sentences.
    """

    @checked
    def __init__(
        self,
        file: str | Sequence[str] | None = None,
        text: str = "text",
        label: str = "label",
        encoder: Any = None,
        shots: Count = 1,
        queries: Natural = 15,
        ways: Annotated[int, Limit(least=2)] = 5,
        drop: Sequence[str] = (),
        split: Sequence[float] = (0.6, 0.2, 0.2),
        classes: dict[str, Sequence[Any] | None] | None = None,
        class_file: str | None = None,
        fold: str | None = None,
        groups: str | None = None,
        test: Sizes | None = None,
        seed: int = 0,
        eval_seed: int = 0,
        standardise: Standardise = "none",
    ):
        if not file:
            raise ValueError("file=null: name a CSV, TSV, JSON or JSON-lines file of sentences, file=sentences.csv")
        division = Division(split, eval_seed, classes, class_file, fold, groups)
        self.texts, labels = read_texts([file] if isinstance(file, str) else file, text, label, drop)
        self.names, counts = by_label(labels)
        parts = division.parts(self.names)
        self.encoder: Encoder = chosen(encoder) or NGrams()
        self.text = text
        raw = Texts(self.texts)
        self.raw_sha256 = raw.digest
        data, self.x_mean, self.x_std = encoded(raw, self.encoder, standardise, counts, parts)
        self.trained_on = digest(self.names[i] for i in parts["train"])
        super().__init__(data, counts, parts, shots, queries, ways, "none", test, seed, eval_seed)

    def raw_inputs(self) -> TextInputs:
        """See TaskFamily.raw_inputs: sentences, by the same encoder."""
        return TextInputs(self.encoder, ArrayInputs(self.x_shape, *self.units()), text=self.text)

    def _digest(self, row: int) -> bytes:
        return hashlib.blake2b(self.texts[row].encode("utf-8", "surrogatepass"), digest_size=16).digest()
