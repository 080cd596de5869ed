"""The forms of a report: 80 columns, LaTeX, HTML, JSON; which runs stand in it, and in which order."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from report_tables import write

from metaexp.errors import ConfigError
from metaexp.report.command import report
from metaexp.report.latex import escaped
from metaexp.report.narrow import carried


@pytest.mark.parametrize(
    ("value", "half", "said"),
    [
        (2.644123, 0.2312, "2.64"),
        (2.644123, 2.312, "2.6"),
        (1234.5, 23.0, "1234"),
        (1234.5, 2300.0, "1200"),
        (0.000123456, 0.0000023, "0.0001235"),
        (1.3812e-11, 9.2e-12, "1.38e-11"),
        (1e-12, 9.2e-12, "1.0e-12"),
        (0.0, 9.2e-12, "0"),
        (-0.0001, 0.23, "0.00"),
        (2.644123, None, "2.644"),
        (2.644123, 0.0, "2.644"),
        (2.644123, float("inf"), "2.644"),
        (None, 0.1, ""),
    ],
)
def test_digits_are_those_that_the_interval_carries(value: float | None, half: float | None, said: str) -> None:
    assert carried(value, half) == said


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Runs of three methods: a and b alike, c clearly worse; three seeds each."""
    random = np.random.default_rng(0)
    tasks = random.normal(1.0, 0.1, 400)
    for seed in range(3):
        for algo, shift in (("a_lgo", 0.0), ("b", 0.001), ("c", 0.5)):
            write(tmp_path / "runs", algo, (tasks + shift + random.normal(0, 0.02, 400))[:, None], seed)
    return tmp_path / "runs"


def test_a_report_fits_80_columns_and_marks_the_best(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report([str(made)]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    lines = {line.split()[0]: line for line in reversed(shown.splitlines()) if line.strip()}  # the first of each
    assert re.search(r"\bbest\b", lines["a_lgo"])
    assert "not shown worse" in lines["b"]
    assert not re.search("best|not shown", lines["c"])
    assert "seeds 3, tasks 400" in " ".join(shown.split())
    assert report([str(made), "--wide"]) == 0
    assert "in all rows" not in capsys.readouterr().out


def test_latex_has_the_numbers_and_escapes_text(made: Path, tmp_path: Path) -> None:
    assert report([str(made), "--latex", str(tmp_path / "t.tex")]) == 0
    text = (tmp_path / "t.tex").read_text()
    (row,) = re.findall(r"^a\\_lgo & \$\\mathbf\{(\S+) \\pm (\S+)\}\$", text, re.M)
    means = [np.load(made / f"a_lgo{seed}" / "test_scores.npz")["mse"][:, -1].mean() for seed in range(3)]
    half = 4.302653 * np.std(means, ddof=1) / np.sqrt(3)  # Student's t, two degrees of freedom
    assert float(row[1]) == pytest.approx(half, rel=0.05)
    assert float(row[0]) == pytest.approx(np.mean(means), abs=half)
    assert re.search(r"^b & \$\\underline\{", text, re.M)
    assert text.count("\\begin{") == text.count("\\end{")
    assert escaped("50 % of $x_i$ & \\ ~ ^ {}") == (
        r"50 \% of \$x\_i\$ \& \textbackslash{} \textasciitilde{} \textasciicircum{} \{\}"
    )


def test_the_page_and_the_json_have_every_number(made: Path, tmp_path: Path) -> None:
    words = [str(made), "--html", str(tmp_path / "r.html"), "--json", str(tmp_path / "r.json")]
    assert report(words) == 0
    page = (tmp_path / "r.html").read_text()
    assert page.count("<table>") >= 2
    after = [page.index(part) for part in (">a_lgo</td>", "<img", "settings of all runs")]
    assert after == sorted(after)  # a picture stands below its table
    for folder in made.iterdir():
        assert f"<td>{folder}</td>" in page
    assert not re.search(r"<(script|link|iframe)\b|src=\"(?!data:)", page)
    (table,) = json.loads((tmp_path / "r.json").read_text())["tables"]
    rows = {row["settings"]["algo"]: row for row in table["rows"] if "settings" in row}
    means = [np.load(made / f"c{seed}" / "test_scores.npz")["mse"][:, -1].mean() for seed in range(3)]
    assert rows["c"]["mean"] == pytest.approx(np.mean(means), rel=1e-12)
    assert [row["settings"]["algo"] for row in table["rows"] if "settings" in row] == ["a_lgo", "b", "c"]
    assert len(table["differences"]) == 3


def test_runs_are_selected_and_rows_ordered(made: Path, tmp_path: Path) -> None:
    def algos(*words: str) -> list[str]:
        assert report([str(made), "--json", str(tmp_path / "r.json"), *words]) == 0
        (table,) = json.loads((tmp_path / "r.json").read_text())["tables"]
        return [row["settings"]["algo"] for row in table["rows"] if "settings" in row]

    assert algos("--where", "algo=c,b") == ["b", "c"]
    assert algos("--where", "algo=c,b", "--where", "seed=1,2", "--sort", "name") == ["b", "c"]
    assert algos("--sort", "mean") == ["a_lgo", "b", "c"]
    for words, said in (
        (["--where", "algo"], "--where algo: must be KEY=VALUE"),
        (["--where", "alg=b"], "--where alg=b: no run has such a setting; did you mean algo?"),
        (["--where", "algo=d"], "--where algo=d: no run has algo=d; there are a_lgo, b, c"),
        (["--where", "algo=b", "--where", "algo=c"], "--where algo=b --where algo=c: no run meets all of these"),
        (["--sort", "size"], "--sort size: must be mean, median, seconds, MB, steps, name"),
    ):
        with pytest.raises(ConfigError) as found:
            report([str(made), *words])
        assert str(found.value) == said
