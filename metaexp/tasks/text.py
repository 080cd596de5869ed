"""Labelled sentences as N-way K-shot episodes."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch

from metaexp.constraints import Count, Limit, Natural, checked
from metaexp.encoders.base import Encoder, Texts, encode_all
from metaexp.encoders.ngrams import NGrams
from metaexp.system.cache import default_cache
from metaexp.tasks.classes import Classes, Sizes
from metaexp.tasks.data.class_lists import by_name, read_groups, read_lists
from metaexp.tasks.data.raw import ArrayInputs
from metaexp.tasks.data.raw_texts import TextInputs
from metaexp.tasks.data.splits import by_fractions, digest
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
    ):
        if not file:
            raise ValueError("file=null: name a CSV, TSV, JSON or JSON-lines file of sentences, file=sentences.csv")
        by_fractions(1, split, eval_seed)  # checks the setting before reading the data
        listed = {name: list(members) for name, members in (classes or {}).items() if members is not None}
        if listed and class_file:
            raise ValueError(f"class_file={class_file}: classes are listed too; leave one of them out")
        if fold is not None and class_file is None:
            raise ValueError(f"fold={fold}: a fold is one of the splits in class_file; name that file too")
        self.texts, labels = read_texts([file] if isinstance(file, str) else file, text, label, drop)
        self.names: list[str] = sorted(set(labels))
        places = {name: i for i, name in enumerate(self.names)}
        counts = torch.bincount(torch.tensor([places[one] for one in labels])).tolist()
        if class_file is not None:
            listed = dict(read_lists(class_file, fold))
        parts = (
            by_name(self.names, listed, read_groups(groups) if groups else None)
            if listed
            else by_fractions(len(counts), split, eval_seed)
        )
        self.encoder: Encoder = encoder or NGrams()
        self.text = text
        vectors = encode_all(Texts(self.texts), self.encoder, default_cache())
        self.trained_on = digest(self.names[i] for i in parts["train"])
        super().__init__(torch.from_numpy(vectors), counts, parts, shots, queries, ways, "none", test, seed, eval_seed)

    def raw_inputs(self) -> TextInputs:
        """See TaskFamily.raw_inputs: sentences, by the same encoder."""
        return TextInputs(self.encoder, ArrayInputs(self.x_shape), text=self.text)
