"""docs/run_folder.md names every key of result.json."""

import ast
import inspect
import json
import re
from pathlib import Path

from conftest import ROOT

from metaexp.run import retest
from metaexp.training import final_test, result, train_and_test

PAGE = (ROOT / "docs/run_folder.md").read_text(encoding="utf-8")


def named(key: str) -> bool:
    """Whether the page has the key in code, alone or before a dot."""
    return re.search(rf"`{re.escape(key)}[`.]", PAGE) is not None


def written() -> set[str]:
    """The keys that the code writes: those of `make_result`, of its further arguments, and of result[...] = ..."""
    source = "\n".join(inspect.getsource(module) for module in (final_test, train_and_test, retest))
    (made,) = [node for node in ast.parse(inspect.getsource(result)).body if getattr(node, "name", "") == "make_result"]
    (told,) = [node.value for node in ast.walk(made) if isinstance(node, ast.Return)]
    assert isinstance(told, ast.Dict)
    keys = {key.value for key in told.keys if isinstance(key, ast.Constant)}
    return {*map(str, keys), *re.findall(r'result\["(\w+)"\] =', source)}


def test_every_key_of_a_result_is_on_the_page(runs: Path) -> None:
    found = set().union(*(json.loads(file.read_text()) for file in runs.glob("*/result.json")))
    assert {"test", "speed", "train_tasks", "adapted_parameters"} <= found
    assert {"evaluation", "memory", "doubt", "processes"} <= written()
    assert [key for key in sorted(found | written()) if not named(key)] == []


def test_every_key_of_an_evaluation_is_on_the_page() -> None:
    source = inspect.getsource(retest)
    (own,) = re.findall(r"    own = \{(.*)\}", source)
    (more,) = re.findall(r'result\["evaluation"\] \|= \{(.*)\}', source)
    keys = re.findall(r'"(\w+)": ', own + more)
    assert keys == ["state", "changed", "seconds", "peak_mb", "mark", "trained_on", "seen"]
    assert [key for key in keys if not named(key)] == []
