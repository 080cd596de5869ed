"""Means over folds: the folds are the units of Student's t, differences are paired within each fold."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_tables import write
from scipy import stats

from metaexp.config.overrides import parse
from metaexp.errors import ConfigError
from metaexp.evaluation.intervals import over_seeds
from metaexp.report.command import report
from metaexp.report.over import apart, lines_of, over_parts
from metaexp.report.parts import part_text
from metaexp.report.reading import Run

FOLDS = ["01", "02", "03", "04", "05"]


def over_text(runs: list[Run], key: str) -> str:
    return "\n".join(map(part_text, over_parts(runs, key)))


Drawn = dict[tuple[str, str, int], np.ndarray]


def run(algo: str, fold: str, seed: int, scores: np.ndarray, queries: str | None = None) -> Run:
    test = {"accuracy": {"mean": float(scores.mean()), "ci95": 0.01, "larger_is_better": True, "tasks": len(scores)}}
    protocol = {"ways": 5, "shots": 1, "queries": 15, "eval_seed": 0, "query_sha256": queries or f"sha{fold}"}
    result: dict[str, Any] = {"task": "text", "seed": seed, "test": test, "protocol": protocol, "floors": {}}
    config = {"algo": algo, "task": "text", "task.fold": fold, "tested": "own tasks"}
    return Run(Path(f"{algo}{fold}{seed}"), result, config, {"accuracy": scores[:, None].copy()}, ("", 0.0))


@pytest.fixture
def drawn() -> Drawn:
    """Accuracies of 40 tasks: every fold has a level of its own, and maml is about 0.05 better in each."""
    draw, found = np.random.default_rng(0), {}
    for fold in FOLDS:
        base = draw.normal(0.7, 0.08) + draw.normal(0, 0.05, 40)
        for algo, gain in (("maml", 0.05), ("r2d2", 0.0)):
            for seed in range(2):
                found[algo, fold, seed] = base + gain + draw.normal(0, 0.02, 40)
    return found


def test_means_and_differences_are_those_of_scipy_over_folds(drawn: Drawn) -> None:
    runs = [run(*place, scores) for place, scores in drawn.items()]
    lines = lines_of(runs, "task.fold", ["algo"], "accuracy")
    means = {a: np.array([np.mean([drawn[a, f, s].mean() for s in range(2)]) for f in FOLDS]) for a in ("maml", "r2d2")}
    assert [line.names for line in lines] == [("maml",), ("r2d2",)]
    assert np.allclose(lines[0].means, means["maml"])
    found, wanted = apart(*lines), stats.ttest_rel(means["maml"], means["r2d2"])
    assert found is not None
    low, high = wanted.confidence_interval(0.95)
    assert (found.mean, found.half) == pytest.approx(((low + high) / 2, (high - low) / 2))
    assert (found.p, found.units) == (pytest.approx(wanted.pvalue), 5)
    single = stats.ttest_1samp(means["maml"], 0.0).confidence_interval(0.95)
    shown = over_text(runs, "task.fold")
    row = next(line for line in shown.splitlines() if line.startswith("maml  "))
    assert row.split()[1:4] == [f"{means['maml'].mean():.4g}", f"{(single[1] - single[0]) / 2:.2g}", "5"]
    assert "text: 5 ways, 1 shots, 15 queries, over task.fold (01, 02, 03, 04, 05)" in shown
    assert "maml better" in shown
    assert "Tasks are nested in each fold" in " ".join(shown.split())
    assert "Folds share training classes" in " ".join(shown.split())


def test_only_equal_query_sets_of_one_fold_are_paired(drawn: Drawn) -> None:
    runs = [run(*place, scores, "other" if place[:2] == ("r2d2", "01") else None) for place, scores in drawn.items()
            if place[:2] != ("r2d2", "05")]  # fmt: skip
    found = apart(*lines_of(runs, "task.fold", ["algo"], "accuracy"))
    assert found is not None
    assert found.units == 3  # 02, 03, 04
    assert "not in 05" in over_text(runs, "task.fold")


def test_a_task_without_a_score_in_some_run_is_left_out_of_the_pair(drawn: Drawn) -> None:
    runs = [run(*place, scores) for place, scores in drawn.items() if place[1] == "01"]
    runs[0].scores["accuracy"][3] = np.nan
    found = apart(*lines_of(runs, "task.fold", ["algo"], "accuracy"))
    one, two = (np.stack([drawn[a, "01", s] for s in range(2)]).mean(0) for a in ("maml", "r2d2"))
    assert found is not None
    assert found.mean == pytest.approx(np.delete(one - two, 3).mean())
    assert (found.half, found.p) == (None, None)  # of one fold there is no interval


def test_over_seeds_the_interval_is_the_reports_own(drawn: Drawn) -> None:
    runs = [run(*place, scores) for place, scores in drawn.items() if place[:2] == ("maml", "01")]
    shown = over_text(runs, "seed")
    half = over_seeds([one.result["test"]["accuracy"]["mean"] for one in runs]).half
    assert half is not None
    assert f"{half:.2g}" in shown
    with pytest.raises(ConfigError, match=r"--over fold: no run has such a setting; did you mean task\.fold\?"):
        over_text(runs, "fold")


@pytest.mark.parametrize(
    ("typed", "values"),
    [("task.fold=01,02,03", ["01", "02", "03"]), ("task.fold=1,2", ["1", "2"]), ("task.fold=10", ["10"]),
     ("task.fold='01'", ["01"])],
)  # fmt: skip
def test_names_of_folds_stay_text(typed: str, values: list[str]) -> None:
    (one,) = parse([typed]).parsed
    found = list(one.sweep_iterator()) if one.is_sweep_override() else [one.value()]
    assert [getattr(value, "text", value) for value in found] == values


def test_every_form_has_the_means_over_folds(drawn: Drawn, tmp_path: Path) -> None:
    for (algo, fold, seed), scores in drawn.items():
        write(tmp_path / fold, algo, scores[:, None], seed, larger=True)
        file = tmp_path / fold / f"{algo}{seed}" / "config.yaml"
        file.write_text(file.read_text() + f"task: {{fold: '{fold}'}}\n")
        result = file.with_name("result.json")
        told = json.loads(result.read_text())
        result.write_text(json.dumps(told | {"protocol": {"query_sha256": fold}}))
    forms = {name: tmp_path / f"r.{name}" for name in ("html", "latex", "json", "markdown")}
    words = (word for name, file in forms.items() for word in (f"--{name}", str(file)))
    assert report([str(tmp_path), "--over", "task.fold", *words]) == 0
    page, latex, found, marked = (file.read_text() for file in forms.values())
    (part,) = json.loads(found)["parts"]
    means = np.array([[np.mean([drawn[a, f, s].mean() for s in range(2)]) for f in FOLDS] for a in ("maml", "r2d2")])
    wanted = stats.ttest_rel(*means)
    low, high = wanted.confidence_interval(0.95)
    assert part["rows"][0]["mean"] == pytest.approx(means[0].mean())
    assert part["rows"][1]["units"] == {fold: pytest.approx(mean) for fold, mean in zip(FOLDS, means[1], strict=True)}
    (pair,) = part["differences"]
    assert (pair["p"], pair["half"]) == (pytest.approx(wanted.pvalue), pytest.approx((high - low) / 2))
    alone = stats.ttest_1samp(means[0], 0).confidence_interval(0.95)
    mean, half = f"{means[0].mean():.4g}", f"{(alone.high - alone.low) / 2:.2g}"
    assert f"<td>maml</td><td>{mean}</td><td>{half}</td><td>5</td>" in page
    assert f"maml & {mean} & {half} & 5 & " in latex
    assert latex.count("\\begin{tabular}") == 2
    assert f"| maml | {mean} | {half} | 5 |" in marked
    assert all("Tasks are nested in each fold" in text for text in (page, latex, marked))
