"""Annotations read from source say the same as at run time, and what they allow."""

import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, get_type_hints

import pytest
import yaml
from conftest import ROOT

from metaexp.config.annotations import parameters
from metaexp.config.compose import config_dir
from metaexp.config.declared import TRAIN
from metaexp.config.settings import Settings, load
from metaexp.constraints import (
    Count,
    Filled,
    Interval,
    Limit,
    Misfit,
    NonNegative,
    Positive,
    Share,
    checked,
    described,
    fields,
    fitted,
)
from metaexp.errors import ConfigError


class Sizes(TypedDict, total=False):
    """As a task family's `test`."""

    shots: Count | None
    rotation: Literal["none", "turned"] | None


FITS: list[tuple[Any, Any, Any]] = [
    (1e4, Count, 10000),
    (3, Positive, 3.0),
    (None, Count | None, None),
    ([1, 2], tuple[float, float], [1.0, 2.0]),
    ((1, 2), Sequence[Count], [1, 2]),
    (2, Positive | Sequence[Positive], 2.0),
    ("64-true", Literal[32, "64-true"], "64-true"),
    ("32", Literal[32, "64-true"], 32),
    (7, Literal["auto"] | Count, 7),
    (5, str, "5"),
    ({"shots": 3.0}, Sizes, {"shots": 3}),
    (object, Any, object),
    ([], Sequence[Count], []),
]


@pytest.mark.parametrize(("value", "kind", "made"), FITS, ids=str)
def test_what_fits_takes_the_type_meant(value: Any, kind: Any, made: Any) -> None:
    found = fitted(value, kind)
    assert found == made
    assert type(found) is type(made)


REFUSED: list[tuple[Any, Any, str]] = [
    (0, Count, "must be at least 1"),
    (0, Count | None, "must be at least 1, or null"),
    (True, Count, "must be a whole number of at least 1"),
    (float("nan"), Positive, "must be a number above 0"),
    (2.5, Count, "must be a whole number of at least 1"),
    (1.5, Share, "must be from 0 to 1"),
    (1, Annotated[float, Limit(above=0, below=1)], "must be above 0 and below 1"),
    ([3, 1], Interval, "must be two finite numbers, [low, high], low not above high"),
    ([1, 2, 3], Interval, "must be two numbers, [low, high]"),
    ("abc", Interval, "must be two numbers, [low, high]"),
    ([0], Sequence[Count], "each must be at least 1"),
    ([], Annotated[list[int], Filled()], "must be a list with at least one entry"),
    ("sofd", Literal["soft", "top1"], "must be soft | top1; did you mean soft?"),
    ({"rotation": "x"}, Sizes, "must be none | turned | null"),
    (3, Sizes, "must be a group of settings"),
    (False, str, "must be text"),
]


@pytest.mark.parametrize(("value", "kind", "why"), REFUSED, ids=str)
def test_what_is_refused_and_why(value: Any, kind: Any, why: str) -> None:
    with pytest.raises(Misfit) as caught:
        fitted(value, kind)
    assert str(caught.value) == why


def test_the_same_annotation_guards_the_constructor() -> None:
    class Thing:
        @checked
        def __init__(self, size: Count, *, test: Sizes | None = None, rest: Any = None):
            self.size = size

    assert Thing(3, rest="x").size == 3
    with pytest.raises(ValueError, match=r"^size=0: must be at least 1$"):
        Thing(0)
    with pytest.raises(ValueError, match=r"^test\.shots=0: must be at least 1, or null$"):
        Thing(size=1, test={"shots": 0})
    with pytest.raises(TypeError, match="size"):
        Thing()  # type: ignore[call-arg]


def test_source_and_run_time_agree_for_every_class_of_conf() -> None:
    for file in sorted(config_dir().glob("*/*.yaml")):
        target = str((yaml.safe_load(file.read_text()) or {}).get("_target_", ""))
        if not target.startswith("metaexp."):
            continue
        made = getattr(importlib.import_module(target.rpartition(".")[0]), target.rpartition(".")[2])
        hints = get_type_hints(made.__init__, include_extras=True)
        read = parameters(target)
        assert read, target
        for name, kind in read.items():
            if described(kind):  # where the source is understood it says what Python says
                assert described(kind) == described(hints[name]), (target, name)
                assert {n: described(k) for n, k in fields(kind).items()} == {
                    n: described(k) for n, k in fields(hints[name]).items()
                }


def test_every_plain_setting_has_a_type() -> None:
    settings = Settings([])
    untyped = []
    for group in ("algo", "task", "model"):
        for choice in settings.composer.options(group):
            node = settings.composer.content(f"{group}/{choice}")
            if "_target_" in node:
                kinds = parameters(node["_target_"])
                parts = {"inner", "rule", "dataset", "encoder", "make"}  # nodes of their own
                names = set(node) - {"_target_", "_partial_", "gives", "needs", *parts}
                untyped += [f"{group}/{choice}.{name}" for name in names if not described(kinds[name])]
    assert untyped == []


def test_the_declared_settings_are_those_of_train_yaml() -> None:
    def names(kinds: Any) -> Any:
        return {name: names(fields(kind)) for name, kind in kinds.items() if name != "*"}

    def there(node: Any) -> Any:
        return {name: there(value) for name, value in node.items()} if isinstance(node, dict) else {}

    train = yaml.safe_load((config_dir() / "train.yaml").read_text())
    devices = [yaml.safe_load(file.read_text()) for file in (config_dir() / "device").glob("*.yaml")]
    device = {name: value for choice in devices for name, value in choice.items()}  # one has a `timeout`
    optimizer = {"schedule": None}
    del train["defaults"]
    assert names(TRAIN) == there(train | {"device": device, "optimizer": optimizer})


def test_comments_are_prose() -> None:
    for file in config_dir().rglob("*.yaml"):
        comments = [line.partition("#")[2] for line in file.read_text().splitlines()]
        assert not any(" | " in comment for comment in comments), file


def test_a_class_of_the_users_own_is_read_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mine_read"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "parts.py").write_text(
        "from typing import NamedTuple\nfrom metaexp.algos.maml import MAML\nimport metaexp.constraints as c\n"
        "from .words import Word\nNumber = float | list[float]\n"
        "class Base:\n    def __init__(self, size: c.Count = 1, other: 'int | None' = None): ...\n"
        "class Own(Base):\n"
        "    def __init__(self, word: Word = 'a', lr: Number = 1.0, unknown: 'Odd[int]' = 0, **kwargs): ...\n"
        "class Tuned(MAML): ...\n"
        "class Point(NamedTuple):\n    x: float = 0.0\n"
        "def make(depth: int = 2): ...\n"
    )
    (package / "words.py").write_text("from typing import Literal\nWord = Literal['a', 'b']\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    read = {name: described(kind) for name, kind in parameters("mine_read.parts.Own").items()}
    assert read == {
        "size": "a whole number of at least 1",
        "other": "a whole number or null",
        "word": "a | b",
        "lr": "a number or a list of numbers",
        "unknown": "",
    }
    assert parameters("mine_read.parts.Tuned") == parameters("metaexp.algos.maml.MAML")
    assert parameters("mine_read.parts.Point") == {"x": float}
    assert parameters("mine_read.parts.make") == {"depth": int}
    assert parameters("mine_read.parts.Nothing") == parameters("mine_read.nowhere.X") == parameters(3) == {}
    groups = tmp_path / "groups/algo"
    groups.mkdir(parents=True)
    (groups / "own.yaml").write_text("# Mine\n_target_: mine_read.parts.Own\nword: a\nlr: 1\nunknown: 0\n")
    with pytest.raises(ConfigError, match=r"algo\.word=c: must be a \| b"):
        load(["algo=own", "algo.word=c"], str(groups.parent))
    assert load(["algo=own", "algo.lr=0.5"], str(groups.parent))["algo"]["lr"] == 0.5
    assert "mine_read" not in sys.modules


def test_types_need_no_torch() -> None:
    code = (
        "import sys; from metaexp.config.settings import load; load(['algo=mother', 'task=gp']); "
        "from metaexp.config.settings_page import page; page(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "False\n"


def test_numbers_of_at_least_0_in_words() -> None:
    assert described(NonNegative | None) == "a number of at least 0 or null"
    assert described(Sequence[Positive]) == "a list of numbers above 0"
    assert described(Sequence[Positive], short=True) == "a list of numbers"
