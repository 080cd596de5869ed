"""Hashed n-grams against scikit-learn's counts, and the encoding of a whole data set."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from metaexp.encoders.base import Encoder, Texts, encode_all
from metaexp.encoders.ngrams import NGrams
from metaexp.errors import DataError
from metaexp.system.cache import Cache

SENTENCES = ["please book a table for two", "Book a TABLE for four please", "what is my balance", "the cat sat", "  "]


def test_inner_products_are_those_of_exact_counts() -> None:
    """With many dimensions collisions are rare: cosines of damped counts of words and word pairs."""
    counts = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+").fit_transform(SENTENCES).toarray()
    damped = np.log1p(counts)
    length = np.linalg.norm(damped, axis=1, keepdims=True)
    exact = damped / np.where(length > 0, length, 1)
    found = NGrams(dimensions=1 << 20, characters=[]).encode(SENTENCES).astype(np.float64)
    np.testing.assert_allclose(found @ found.T, exact @ exact.T, atol=1e-6)


def test_hashing_is_unbiased() -> None:
    """The mean of inner products over many pairs of other words is 0, not the 1/sqrt(d) of unsigned hashing."""
    left = NGrams(dimensions=16, words=1, characters=[]).encode(
        [" ".join(f"a{i}_{j}" for j in range(20)) for i in range(400)]
    )
    right = NGrams(dimensions=16, words=1, characters=[]).encode(
        [" ".join(f"b{i}_{j}" for j in range(20)) for i in range(400)]
    )
    products = (left * right).sum(1)
    assert abs(products.mean()) < 4 * products.std() / np.sqrt(len(products))
    assert products.std() > 0.1


def test_length_one_and_characters_mark_the_ends_of_words() -> None:
    made = NGrams().encode(SENTENCES)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), [1, 1, 1, 1, 0], atol=1e-6)
    grams = NGrams(words=0, characters=[3, 3])._grams("Cat")
    assert grams == ["#<ca", "#cat", "#at>"]
    assert (made[0] @ made[1]) > 0.5 > (made[0] @ made[2])


def test_settings_are_checked() -> None:
    for bad, message in (
        ({"characters": [5, 3]}, r"characters=\[5, 3\]: must be \[shortest, longest\] or \[\]"),
        ({"words": 0, "characters": []}, "words=0"),
        ({"dimensions": 1}, "dimensions"),
    ):
        with pytest.raises(ValueError, match=message):
            NGrams(**bad)


class Broken(NGrams):
    """NaN for one sentence."""

    def encode(self, examples):
        made = super().encode(examples)
        made[[text == "the cat sat" for text in examples]] = np.nan
        return made


class Counted(NGrams):
    calls = 0

    def encode(self, examples):
        type(self).calls += len(examples)
        return super().encode(examples)


def test_a_whole_set_is_encoded_once(tmp_path: Path) -> None:
    for _ in range(2):
        made = encode_all(Texts(SENTENCES), Counted(), Cache(tmp_path), batch=2)
        np.testing.assert_array_equal(made, NGrams().encode(SENTENCES))
    assert Counted.calls == len(SENTENCES)
    encode_all(Texts(SENTENCES), Counted(dimensions=64), Cache(tmp_path))
    encode_all(Texts([*SENTENCES[:-1], "other"]), Counted(), Cache(tmp_path))
    assert Counted.calls == 3 * len(SENTENCES)
    with pytest.raises(DataError, match="Broken gives inf or NaN for example 3"):
        encode_all(Texts(SENTENCES), Broken(), Cache(None))


def test_kinds_must_fit() -> None:
    class Eyes(Encoder):
        kind = "pictures"

        def settings(self):
            return {}

        def encode(self, examples):
            raise AssertionError

    with pytest.raises(DataError, match="Eyes encodes pictures, and these are text"):
        encode_all(Texts(SENTENCES), Eyes(), Cache(None))
