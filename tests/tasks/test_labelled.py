"""The division of a user's classes, and encoded vectors in units of the training classes."""

import numpy as np
import pytest
import torch

from metaexp.encoders.base import Encoder, Texts
from metaexp.system import cache
from metaexp.tasks.data.labelled import Division, by_label, encoded

NAMES = ["a", "b", "c", "d"]


class Lengths(Encoder):
    """Word lengths as vectors of two numbers."""

    kind = "text"

    def settings(self):
        return {}

    def encode(self, examples):
        return np.array([[len(word) for word in text.split()] for text in examples], np.float32)


def test_centred_vectors_are_in_units_of_the_training_classes_alone():
    cache.choose("off")
    texts = ["aa b", "aaaa bbb", "a b", "aaaaaaaaa bbbbbbbbbbb", "a bbbbbbb"]
    raw, counts, parts = Texts(texts), [2, 1, 1, 1], {"train": [0, 1], "val": [2], "test": [3]}
    plain = np.array([[2, 1], [4, 3], [1, 1], [9, 11], [1, 7]], np.float64)
    data, mean, std = encoded(raw, Lengths(), "centre", counts, parts)
    np.testing.assert_allclose(mean, [7 / 3, 5 / 3])
    scale = np.sqrt(np.square(plain[:3] - [7 / 3, 5 / 3]).mean())
    np.testing.assert_allclose(std, [scale, scale])
    np.testing.assert_allclose(data, (plain - [7 / 3, 5 / 3]) / scale, rtol=1e-6)
    assert data.dtype == torch.float32
    data, mean, std = encoded(raw, Lengths(), "none", counts, parts)
    np.testing.assert_array_equal(data, plain)
    assert (mean.tolist(), std.tolist()) == ([0, 0], [1, 1])
    cache.choose(None)


def test_lists_come_before_what_the_data_bring_along_and_that_before_fractions():
    def never():
        raise AssertionError("asked although classes are listed")

    listed = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    assert Division((0.5, 0.25, 0.25), 0, listed).parts(NAMES, never) == {"train": [0, 1], "val": [2], "test": [3]}
    found = {"train": ["d"], "val": ["c"], "test": ["a", "b"]}
    assert Division((0.5, 0.25, 0.25), 0).parts(NAMES, lambda: found) == {"train": [3], "val": [2], "test": [0, 1]}
    drawn = Division((0.5, 0.25, 0.25), 0).parts(NAMES)
    assert [len(drawn[part]) for part in ("train", "val", "test")] == [2, 1, 1]
    assert by_label(["b", "a", "b"]) == (["a", "b"], [1, 2])
    for settings, message in (
        ({"split": (0.5, 0.5)}, "split="),
        ({"split": (1, 0, 0), "fold": "1"}, "fold=1: a fold is one of the splits in class_file"),
        ({"split": (1, 0, 0), "classes": listed, "class_file": "x"}, "class_file=x: classes are listed too"),
    ):
        with pytest.raises(ValueError, match=message):
            Division(**{"eval_seed": 0, **settings})
