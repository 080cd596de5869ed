"""Runs whose files were edited or damaged, and text that is meant for another program."""

import csv
import io
import json
from pathlib import Path

import pytest
import yaml
from report_tables import copied, finals, only

from metaexp.errors import DataError
from metaexp.report.command import report
from metaexp.report.reading import find


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("test.mse.mean", float("nan"), "test.mse.mean=NaN: not a number"),
        ("test.mse.mean", "0.31", 'test.mse.mean="0.31": not a number'),
        ("test.mse.mean", None, "test.mse.mean=null: not a number"),
        ("test.mse.mean", True, "test.mse.mean=true: not a number"),
        ("test.mse.mean", [0.3], "test.mse.mean=[0.3]: not a number"),
        ("test.mse.mean", 10**400, "test.mse.mean=1329 bits: not a number"),
        ("test.mse.mean", 1e305, "test.mse.mean=1e+305: not a number"),
        ("test.mse.ci95", float("inf"), "test.mse.ci95=Infinity: not a number"),
        ("test.mse.ci95", -0.1, "test.mse.ci95=-0.1: below 0"),
        ("test.mse.tasks", 40.5, "test.mse.tasks=40.5: not a number of tasks"),
        ("test.mse.diverged", "0", 'test.mse.diverged="0": not a number of tasks'),
        ("test.mse.larger_is_better", "no", 'larger_is_better="no": neither true nor false'),
        ("floors.mean.mse.mean", "x", 'floors.mean.mse.mean="x": not a number'),
    ],
)
def test_a_bad_number_takes_its_run_out_and_is_named(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, value: object, says: str
) -> None:
    folder = copied(runs, tmp_path / "runs", "_maml")
    file = only(folder, "_maml2_") / "result.json"
    result = node = json.loads(file.read_text())
    *above, last = place.split(".")
    for name in above:
        node = node[name]
    node[last] = value
    file.write_text(json.dumps(result))
    csv_file = tmp_path / "table.csv"
    assert report([str(folder), "--by", "algo", "--csv", str(csv_file)]) == DataError.exit_code
    (maml,) = (line for line in csv.DictReader(io.StringIO(csv_file.read_text())) if line["algo"] == "maml")
    assert float(maml["mean"]) == pytest.approx(finals(runs, "maml")[:2].mean(), rel=1e-12)  # of the other two
    assert maml["seeds"] == "2"
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("damaged: "))
    assert line.startswith(f"damaged: {file}: damaged, ")
    assert line.endswith(says)


@pytest.mark.parametrize(
    ("place", "column"),
    [("speed.seconds", "seconds"), ("memory.peak_mb", "peak_mb"), ("parameters", "parameters"), ("steps", "steps")],
)
@pytest.mark.parametrize("value", ["many", float("nan"), -1, 10**400])
def test_a_bad_number_beside_the_scores_is_left_out_and_named(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, column: str, value: object
) -> None:
    folder = copied(runs, tmp_path / "runs", "_maml0_", "_maml1_")
    file = only(folder, "_maml1_") / "result.json"
    result = json.loads(file.read_text())
    *above, last = place.split(".")
    (result[above[0]] if above else result)[last] = value
    file.write_text(json.dumps(result))
    csv_file = tmp_path / "table.csv"
    assert report([str(folder), "--by", "algo", "--csv", str(csv_file)]) == DataError.exit_code
    (maml,) = (line for line in csv.DictReader(io.StringIO(csv_file.read_text())) if line["algo"] == "maml")
    other = json.loads((only(folder, "_maml0_") / "result.json").read_text())
    assert float(maml[column]) == pytest.approx((other[above[0]] if above else other)[last])
    assert float(maml["mean"]) == pytest.approx(finals(runs, "maml")[:2].mean(), rel=1e-12)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("damaged: "))
    assert f"{file}: damaged, {place}=" in line
    assert line.endswith("not a number; left out")


EVIL = "a|b\n# x <img src=x onerror=alert(1)> \x1b[31mred\x1b[0m [bold]m[/] `c` [l](http://e) $\\frac$ \u202egpj"


def test_text_from_files_is_shown_as_text(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(runs, tmp_path / "runs", "_maml0_", "_r2d20_")
    for name, algo in (("_maml0_", f"=1+1{EVIL}"), ("_r2d20_", "@SUM(A1)")):
        for file, where in (
            (only(folder, name) / "config.yaml", ("choices",)),
            (only(folder, name) / "result.json", ()),
        ):
            read = yaml.safe_load if file.suffix == ".yaml" else json.loads
            data = read(file.read_text())
            (data[where[0]] if where else data)["algo"] = algo
            if not where:
                data["task"] = EVIL
                data["floors"][EVIL] = data["floors"]["mean"]
            file.write_text(yaml.safe_dump(data) if where else json.dumps(data))
    made = tmp_path / "killed"
    made.mkdir()
    (made / "status.json").write_text(json.dumps({"state": "failed", "step": EVIL, "error": EVIL}))
    typed = ["--csv", str(tmp_path / "t.csv"), "--markdown", str(tmp_path / "t.md"), "--plots", str(tmp_path / "p")]
    assert report([str(tmp_path), *typed]) == 0
    shown, markdown, table_text = (
        capsys.readouterr().out,
        (tmp_path / "t.md").read_text(),
        (tmp_path / "t.csv").read_text(),
    )
    for text in (shown, markdown, table_text):
        assert all(c.isprintable() or c == "\n" for c in text)
        assert not any(line.startswith("# x") for line in text.splitlines())
        assert r"\x1b[31mred" in text.replace(r"\[", "[").replace(r"\\", "\\")
    assert "<img" not in markdown
    assert "&lt;img src=x onerror=alert(1)&gt;" in markdown
    assert r"a\|b" in markdown
    assert r"\[l\](http://e)" in markdown
    cells = list(csv.reader(io.StringIO(table_text)))
    assert len({len(row) for row in cells}) == 1
    algos = {row[cells[0].index("algo")] for row in cells[1:]}
    assert {value[:6] for value in algos if value} == {"'=1+1a", "'@SUM("}
    formulas = [cell for row in cells for cell in row if cell[:1] in "=+-@" and cell not in ("", "-")]
    assert all(float(cell) < 0 for cell in formulas)
    assert len(list((tmp_path / "p").iterdir())) == 2


def test_a_damaged_metrics_line_is_named(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs, tmp_path / "runs", "_maml0_")
    file = only(folder, "_maml0_") / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[0], '{"kind": "val", "step": "2"}\n', *lines[1:]]))
    found = find([folder])
    assert len(found.runs) == 1
    assert found.damaged == [f"{file}: line 2 is damaged; it is left out of the pictures"]
