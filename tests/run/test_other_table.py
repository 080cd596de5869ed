"""A run on a table tested on another file: columns by name, numbers and categories as fitted to the run's own rows."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_table import HEADER, rows, write
from small_runs import train
from undrawn import undraw

from metaexp.config.command_line import exit_code
from metaexp.evaluate import evaluate
from metaexp.run.restore import open_config, restore

Run = tuple[Path, Path, list[str]]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    undraw(monkeypatch.setattr)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with predictions, its table, and the names of its test tasks."""
    folder = tmp_path_factory.mktemp("table")
    file = write(folder / "schools.csv", rows())
    words = ["task=table", f"task.file={file}", "task.by=school", "task.target=score", "task.shots=2", "algo=maml"]
    words += ["task.queries=3", "task.bucket=4", "test.curve_shots=[]", "test.predictions=true"]
    made = train(folder / "out", *words)
    family = restore(made, open_config(made)).parts.family
    return made, file, [family.names[task] for task in family.able["test"]]


def newest(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The last evaluation: its result and its predictions."""
    made = max((folder / "evaluations").iterdir(), key=lambda path: int(path.name))
    with (made / "predictions.csv").open(encoding="utf-8") as file:
        return json.loads((made / "result.json").read_text()), list(csv.DictReader(file))


def test_the_same_rows_in_another_file_give_the_same_predictions(run: Run, tmp_path: Path) -> None:
    folder, _, names = run
    order = [4, 0, 5, 2, 3, 1]  # of the columns: they are matched by name
    kept = [[row[place] for place in order] for row in rows() if row[0] in names]
    other = write(tmp_path / "later.csv", kept, [HEADER[place] for place in order])
    assert evaluate([f"run={folder}", f"task.file={other}", "test.tasks=40"]) == 0
    result, found = newest(folder)
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        before = list(csv.DictReader(file))
    pick = ("name", "query", "y", "prediction")
    assert [[row[key] for key in pick] for row in found] == [[row[key] for key in pick] for row in before]
    own = json.loads((folder / "result.json").read_text())
    assert result["test"]["rmse"] == own["test"]["rmse"]
    assert result["evaluation"]["mark"] == "cross-domain"
    assert result["evaluation"]["seen"] | {"which": []} == {"classes": 0, "of": len(names), "names": 0, "which": []}


def test_rows_that_were_trained_on_are_counted_and_unknown_categories_are_nothing(run: Run, tmp_path: Path) -> None:
    folder, _, names = run
    every = [row for row in rows() if row[0] not in names]
    made = [[*row[:2], "x", *row[3:]] if row[0] == every[0][0] else row for row in every]
    other = write(tmp_path / "old.csv", [[*row, 1] for row in made], [*HEADER, "further"])
    assert evaluate([f"run={folder}", f"task.file={other}", "test.tasks=40"]) == 0
    result, _ = newest(folder)
    trained = restore(folder, open_config(folder)).parts.family.able["train"]
    assert result["evaluation"]["seen"]["classes"] in (len(trained), len(trained) - 1)
    copy = tmp_path / "moved.csv"
    shutil.copy(run[1], copy)
    assert evaluate([f"run={folder}", f"task.file={copy}", "test.tasks=40"]) == 0
    again, _ = newest(folder)  # the same table elsewhere is the run's own test
    assert again["evaluation"].get("mark") is None
    assert again["test"] == json.loads((folder / "result.json").read_text())["test"]


def test_without_the_runs_own_table_another_one_is_tested(run: Run, tmp_path: Path) -> None:
    folder, file, names = run
    other = write(tmp_path / "later.csv", [row for row in rows() if row[0] in names])
    away = file.rename(file.with_suffix(".away"))
    try:
        assert evaluate([f"run={folder}", f"task.file={other}", "test.tasks=40"]) == 0
    finally:
        away.rename(file)
    result, _ = newest(folder)
    assert result["evaluation"]["seen"] is None  # what was trained on is not known
    mean = json.loads((folder / "result.json").read_text())["test"]["rmse"]["mean"]
    assert result["test"]["rmse"]["mean"] == mean
    assert np.isfinite(mean)


@pytest.mark.parametrize(
    ("head", "code", "says"),
    [
        (["school", "years", "sex", "day", "income", "score"], 2, "has no column age, an input of the run"),
        (["school", "age", "sex", "day", "income", "points"], 3, "has no column score"),
    ],
)
def test_another_table_without_a_column_is_one_line(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], head: list[str], code: int, says: str
) -> None:
    folder, _, names = run
    other = write(tmp_path / "bad.csv", [row for row in rows() if row[0] in names], head)
    assert exit_code(lambda: evaluate([f"run={folder}", f"task.file={other}"])) == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("metaexp: ")]
    assert says in line
