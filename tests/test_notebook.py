"""The notebook of docs/ runs from top to bottom, and a run shows itself there."""

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

import metaexp

NOTEBOOK = json.loads((ROOT / "docs/quickstart.ipynb").read_text(encoding="utf-8"))
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_it_runs_cell_by_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """With the sizes of a debug run: the pictures of a full one are in the test below."""
    monkeypatch.chdir(tmp_path)
    installing = [cell for cell in CELLS if "%pip" in cell]
    assert len(installing) == 1
    names: dict[str, Any] = {}
    for cell in CELLS:
        if cell not in installing:
            short = cell.replace('"steps=2000"', '"steps=20", "debug=fast", "device.threads=1"')
            exec(compile(short, "cell", "exec"), names)
    run = names["run"]
    assert (run.result["steps"], run.result["debug"]) == (20, "fast")
    assert re.search(r"mean squared error \d+\.\d{4}; of predicting 0: 4\.\d{4}", capsys.readouterr().out)
    assert "NO RESULT (debug=fast cuts all sizes)" in run._repr_html_()
    assert len(names["figure"].axes[0].lines) == 3


def test_it_has_no_outputs_and_no_paths() -> None:
    assert not any(cell.get("outputs") for cell in NOTEBOOK["cells"])
    assert str(Path.home()) not in json.dumps(NOTEBOOK) or str(Path.home()) == os.sep


def test_a_run_shows_its_numbers_and_pictures(tmp_path: Path) -> None:
    saved = ROOT / "scripts/runs/sine_r2d2"
    (tmp_path / "figures").mkdir()
    for name in ("test_episodes", "train_curve", "val_episodes"):
        (tmp_path / f"figures/{name}.png").write_bytes(b"\x89PNG" + name.encode())
    result = json.loads((saved / "result.json").read_text())
    html = metaexp.Run(tmp_path, result)._repr_html_()
    assert "r2d2 on sine, mlp, seed 0: 20000 outer steps" in html
    assert "<td>0.001401 ± 0.00029</td>" in html
    shown = [base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)", html)]
    assert shown == [b"\x89PNGtest_episodes", b"\x89PNGtrain_curve"]
    assert html.count("<div") == html.count("</div>")
