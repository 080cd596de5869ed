"""Nested dictionaries and their dotted keys."""

import pytest

from metaexp.nested import at, flatten, leaves

TREE = {"a": {"b": 1, "c": {"d": [2]}}, "e": None, "f": {}, "g": {"h": {}}}


def test_every_leaf_has_its_dotted_key():
    assert flatten(TREE) == {"a.b": 1, "a.c.d": [2], "e": None, "f": {}, "g.h": {}}
    assert flatten(TREE, "/") == {"a/b": 1, "a/c/d": [2], "e": None, "f": {}, "g/h": {}}
    assert list(leaves({"x": 1}, "top")) == [("top.x", 1)]
    assert flatten({}) == {}


def test_at_walks_a_dotted_key():
    assert {key: at(TREE, key) for key in flatten(TREE)} == flatten(TREE)
    assert at(TREE, "a.c") == {"d": [2]}
    assert at(TREE, "a/c/d", separator="/") == [2]
    for key in ("a.x", "a.b.c", "e.f", "x"):
        assert at(TREE, key, None) is None
        with pytest.raises(KeyError, match=rf"^'{key}'$"):
            at(TREE, key)
