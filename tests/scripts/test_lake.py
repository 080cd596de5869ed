"""The table of Lake's benchmark: errors counted in trials, runs made once, settings that must agree, rows to come."""

import json
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from fake_omniglot import write_packed, write_runs
from undrawn import undrawn

sys.path.insert(0, str(ROOT / "scripts"))

import lake


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> dict[str, lake.Row]:
    """A method that names no class, which is wrong in 19 of 20 trials, and one that is not run."""
    typed = "algo=mean task=omniglot_lake task.verify=false test.tasks=20 compile=false"
    made = {"mean": lake.Row("the mean", typed), "maml": lake.Row("MAML", "algo=maml meta_batch=4", 1000)}
    monkeypatch.setattr(lake, "ROWS", made)
    return made


def test_errors_are_counted_and_a_run_is_made_once(
    rows: dict[str, lake.Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, page, out = write_packed(tmp_path / "data"), tmp_path / "page.md", tmp_path / "lake.json"
    write_runs(data)
    page.write_text("before\n<!-- lake -->\nold\n<!-- /lake -->\nafter\n")
    words = ["--omniglot", str(data), "--runs", str(tmp_path / "runs"), "--only", "mean"]
    words += ["--out", str(out), "--page", str(page)]
    with undrawn():
        lake.main(words)
        made = page.read_text()
        lake.main(words)
    (_,) = (tmp_path / "runs" / "mean").glob("*/result.json")
    told = json.loads(out.read_text())
    assert list(told) == ["mean"]
    assert told["mean"]["test"]["accuracy"] == {"mean": pytest.approx(0.05), "ci95": pytest.approx(0), "tasks": 20}
    assert page.read_text() == made
    assert made.startswith("before\n<!-- lake -->\n\n| |")
    assert made.endswith("<!-- /lake -->\nafter\n")
    assert "| the mean | 95.00 (380 of 400 trials) ± 0.0 over the 20 runs | 20" in made
    assert "\n- maml: `algo=maml meta_batch=4 steps=1000` (not run yet)\n" in made
    rows["mean"].typed.append("seed=1")
    with pytest.raises(SystemExit, match=r".*: made without seed=1; move it away"):
        lake.main(words)
    monkeypatch.setattr(lake, "made", None)
    lake.main(["--render", "--out", str(out), "--page", str(page)])
    assert page.read_text() == made


def test_how_long_a_row_was_trained() -> None:
    told = {"steps": 300, "typed": ["algo=maml", "meta_batch=4"], "date": "2026-11-29"}
    words = lake.source(told | {"versions": {"torch": "2.13.0+cpu"}})
    assert words.startswith("a short training of 1,200 tasks; 2026-11-29, torch 2.13.0")
    assert lake.told({"mean": 0.66, "ci95": 0.0544}) == "34.00 (136 of 400 trials) ± 5.4 over the 20 runs"
    assert lake.Row("x", "a=1", 400).words(0.1) == ["a=1", "steps=40"]


def test_a_method_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        lake.main(["--only", "bpl"])
    assert "--only bpl: there are hausdorff, protonet, maml" in capsys.readouterr().err
