"""Paths as people type them."""

import random
from pathlib import Path

import pytest

from metaexp.config.overrides import parse, typed_path
from metaexp.config.settings import load
from metaexp.errors import ConfigError

TYPED = [
    "a b",
    "ü/ä [1] {2}",
    "it's",
    'say "hi"',
    "x,y=z",
    "\\",
    "a\\",
    'a\\"b',
    '\\\\"',
    "a:b",
    "$HOME",
    "(1)",
    "#x",
    "%20",
    "日本",
    "a;b & c | d ! ? * <x>",
    "two  spaces",
    "a\tb",
]


@pytest.mark.parametrize("key", ["out", "resume", "task.root", "++task.dataset.root", "task.files"])
def test_any_path_is_read_as_typed(key: str) -> None:
    made = random.Random(0)
    some = ["".join(made.choices("ab \\\"',=[]{}()~ü$:#%", k=made.randint(2, 12))) for _ in range(40)]
    for text in [*TYPED, *some]:
        free = text.strip() and text[0] not in "\"'" and "${" not in text
        if not free or (key == "task.files" and text[0] == "["):
            continue
        (found,) = parse([f"{key}={text}"]).parsed
        assert found.value() == text
        assert not found.is_sweep_override()
        (again,) = parse([str(found.input_line)]).parsed  # as a sweep's job, and Hydra, read it once more
        assert again.value() == text


def test_quotes_that_were_needed_may_be_typed() -> None:
    for typed, wanted in (('out="a b"', "a b"), ("out='a b'", "a b"), (r'out="a \"b\""', 'a "b"'), ("out=a", "a")):
        assert parse([typed]).parsed[0].value() == wanted
    for typed, value in (("resume=auto", "auto"), ("resume=false", False), ("task.files=[a,b]", ["a", "b"])):
        assert parse([typed]).parsed[0].value() == value


@pytest.mark.parametrize("typed", ["out=", "resume=", "task.root=", 'out=""', "out= ", "task.files="])
def test_an_empty_path_is_refused(typed: str) -> None:
    with pytest.raises(ConfigError, match="empty; name a f"):
        load([typed])


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(["out=~/my runs"])["out"] == str(tmp_path / "my runs")
    assert load(["resume=~/run"])["resume"] == str(tmp_path / "run")
    assert load(["out=a~b/"])["out"] == "a~b/"
    assert typed_path("run", "~") == tmp_path
    with pytest.raises(ConfigError, match="out=~nobody_here/x: no such user"):
        load(["out=~nobody_here/x"])
