"""Medians, sign tests and heavy tails in the report, on runs whose scores are made up."""

import csv
import io
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from report_tables import write

from metaexp.evaluation.intervals import holm, middle, sign_test, summary, worst_share
from metaexp.report.command import report
from metaexp.report.grouping import compare
from metaexp.report.medians import of_result
from metaexp.report.reading import find
from metaexp.report.tables import blocks


def tails(n: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Log-normal errors of two methods: the first is better on most tasks and worse on average."""
    random = np.random.default_rng(0)
    one, two = np.exp(random.normal(-1, 1, n)), np.exp(random.normal(0, 1, n))
    one[:10] = 500.0  # explodes on one task of a hundred
    return one[:, None], two[:, None]


def test_medians_stand_beside_means(tmp_path: Path) -> None:
    one, two = tails()
    write(tmp_path / "runs", "maml", one)
    write(tmp_path / "runs", "anil", two, old=True)
    assert report([str(tmp_path / "runs"), "--csv", str(tmp_path / "t.csv")]) == 0
    lines = {
        line["algo"] or line["floor"]: line for line in csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text()))
    }
    for name, scores in (("maml", one[:, 0]), ("anil", two[:, 0])):
        median, ends = middle(scores)
        found = lines[name]
        assert [float(found[key]) for key in ("median", "median_low", "median_high")] == [median, *(ends or ())]
        assert float(found["worst_share"]) == pytest.approx(worst_share(scores, False))
    assert float(lines["mean"]["median"]) == pytest.approx(9 * np.median(two))  # the best of the two runs


@pytest.mark.parametrize("larger", [False, True])
def test_nothing_is_claimed_on_a_mean_that_few_tasks_carry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], larger: bool
) -> None:
    sign = -1 if larger else 1
    one, two = tails()
    write(tmp_path, "maml", sign * one, larger=larger)
    write(tmp_path, "anil", sign * two, larger=larger)
    (block,) = blocks(compare(find([tmp_path]).runs))
    assert block.rows[0].names == ("maml",)  # by the median; its mean is the worse one
    assert abs(block.rows[0].mean or 0) > 2 * abs(block.rows[1].mean or 0)
    (pair,) = block.pairs
    found = sign_test(sign * (one - two)[:, 0])
    assert (pair.barred, pair.p, pair.signs) == (True, None, (found.larger, found.smaller))
    assert pair.sign_p == pytest.approx(found.p)
    assert pair.verdict == "no claim on the mean; sign test: maml better"
    assert report([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    share = worst_share(one[:, 0], False) or 0
    assert (
        f"more than a quarter of the mean of maml ({100 * share:.0f} %): no claim on it, and rows are ordered by"
        in " ".join(shown.split())
    )
    (line,) = (line for line in shown.splitlines() if line.startswith("maml - anil"))
    assert f"{min(found[:2]) if larger == (found.larger < found.smaller) else max(found[:2])} of 1000" in line
    assert not any(" better" in line and "sign test" not in line for line in shown.splitlines() if " - " in line)


def test_light_tails_are_judged_by_the_mean_with_the_sign_test_beside(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    level = random.uniform(1, 2, 400)
    scores = {
        name: (level + shift + random.normal(0, 0.1, 400))[:, None]
        for name, shift in zip("abc", (0, 0.1, 0.1), strict=True)
    }
    for name, values in scores.items():
        write(tmp_path, name, values)
    (block,) = blocks(compare(find([tmp_path]).runs))
    raw = [sign_test((scores[pair.one] - scores[pair.two])[:, 0]).p for pair in block.pairs]
    assert [pair.sign_p for pair in block.pairs] == pytest.approx(holm(raw))
    assert not any(pair.barred for pair in block.pairs)
    assert [pair.verdict for pair in block.pairs][:2] == ["a better", "a better"]
    assert block.pairs[2].verdict.startswith("no difference shown")
    assert block.pairs_note == ""


def test_differences_that_few_tasks_carry_are_barred_too(tmp_path: Path) -> None:
    """Neither mean is carried by few tasks, their difference is."""
    random = np.random.default_rng(0)
    one = random.uniform(1, 2, 1000)
    two = one.copy()
    two[:8] += 1.5
    write(tmp_path, "maml", one[:, None])
    write(tmp_path, "anil", two[:, None])
    (block,) = blocks(compare(find([tmp_path]).runs))
    (pair,) = block.pairs
    assert abs(pair.mean) > (pair.half or 0)
    assert (pair.barred, pair.signs) == (True, (0, 8))
    assert pair.sign_p == pytest.approx(2 / 2**8)
    assert pair.verdict == "no claim on the mean; sign test: maml better"


def test_several_seeds(tmp_path: Path) -> None:
    one, two = tails(500)
    for seed in range(3):
        factor = 1 + 0.1 * seed
        write(tmp_path, "maml", one * factor, seed)
        write(tmp_path, "anil", two * factor, seed)
    (block,) = blocks(compare(find([tmp_path]).runs))
    (maml,) = (row for row in block.rows if row.names == ("maml",))
    assert maml.median == pytest.approx(1.1 * np.median(one))
    (pair,) = block.pairs
    assert (pair.claim, pair.barred) == ("algorithms", True)
    assert sum(pair.signs) == 500


def test_tasks_that_adaptation_made_worse_are_counted_over_all_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of runs older than the key as well: their scores are there."""
    random = np.random.default_rng(0)
    scores = random.uniform(1, 2, (2, 200, 4))
    for seed in range(2):
        write(tmp_path, "maml", scores[seed], seed, old=seed == 0)
    write(tmp_path, "r2d2", random.uniform(1, 2, (200, 1)))
    expected = int((scores[:, :, -1] > scores[:, :, 0]).sum())
    (block,) = blocks(compare(find([tmp_path]).runs))
    assert {row.names[0]: row.made_worse for row in block.rows if not row.floor} == {"maml": expected, "r2d2": None}
    for file in tmp_path.glob("*/test_scores.npz"):
        file.unlink()
    (block,) = blocks(compare(find([tmp_path]).runs))
    (maml,) = (row for row in block.rows if row.names == ("maml",))
    assert maml.made_worse == int((scores[1, :, -1] > scores[1, :, 0]).sum())
    assert report([str(tmp_path)]) == 0
    assert "made worse: test tasks of all seeds" in capsys.readouterr().out


def test_results_without_scores_of_tasks_say_what_they_know(tmp_path: Path) -> None:
    one, two = tails()
    write(tmp_path, "maml", one)
    write(tmp_path, "anil", two, old=True)
    for file in tmp_path.glob("*/test_scores.npz"):
        file.unlink()
    (block,) = blocks(compare(find([tmp_path]).runs))
    rows = {row.names[0]: row for row in block.rows}
    assert rows["maml"].median == np.median(one)
    assert rows["maml"].median_low is not None
    assert (rows["anil"].median, rows["anil"].median_low, rows["anil"].worst_share) == (None, None, None)
    assert block.pairs == []


@pytest.mark.parametrize("bad", ["x", None, [1], {}, math.nan, True, [1, "2"]])
def test_what_is_no_number_is_left_out(bad: object) -> None:
    assert of_result({"median": bad, "median_ci": bad, "worst_share": bad}) == (None,) * 4 or bad == [1, "2"]
    assert of_result({"median": 2, "median_ci": [bad, 3.0]}).low is None


def test_one_exploding_task_of_few_is_a_heavy_tail(tmp_path: Path) -> None:
    values = np.r_[np.ones(39), 1e6][:, None]
    write(tmp_path, "maml", values)
    shutil.copytree(tmp_path / "maml0", tmp_path / "other")
    assert summary(values, False)["heavy_tailed"]
    (block,) = blocks(compare(find([tmp_path]).runs))
    assert "(100 %): no claim" in block.pairs_note
