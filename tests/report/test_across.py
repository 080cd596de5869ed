"""Methods compared across task families: ranks by hand, tests by SciPy, what may not be claimed, and every form."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from metaexp.errors import ConfigError
from metaexp.evaluation.intervals import holm
from metaexp.report.command import report

METHODS = ("maml", "r2d2", "cnp", "scratch")
METRICS = {"accuracy": True, "mse": False}


def write(
    out: Path, algo: str, task: str, mean: float | None, metric: str = "mse", seed: int = 0, shots: int = 5, **more: Any
) -> None:
    """A finished run as far as the report reads it."""
    folder = out / f"{algo}_{task}_{seed}_{shots}"
    folder.mkdir(parents=True)
    told = {
        "mean": mean,
        "ci95": None if mean is None else 0.1,
        "tasks": 100,
        "diverged": 100 * (mean is None),
        "larger_is_better": METRICS.get(metric),
    } | more
    result = {"algo": algo, "task": task, "model": "mlp", "seed": seed, "steps": 9, "test": {metric: told}}
    result |= {"protocol": {"shots": shots, "eval_seed": 0, "query_sha256": f"{task}{shots}"}, "floors": {}}
    (folder / "result.json").write_text(json.dumps(result))
    settings = (
        f"choices: {{algo: {algo}, task: {task}, model: mlp}}\nseed: {seed}\nsteps: 9\ntask: {{shots: {shots}}}\n"
    )
    (folder / "config.yaml").write_text(settings)


def told(out: Path, *words: str) -> dict[str, Any]:
    """The comparison as JSON."""
    assert report([str(out), "--across", "task", "--json", str(out / "all.json"), *words]) == 0
    (part,) = json.loads((out / "all.json").read_text())["parts"]
    return dict(part)


@pytest.fixture
def level(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Nine families, two seeds and two numbers of shots: maml has about 0.7 of the error of the others."""
    draw = np.random.default_rng(0)
    scores = np.exp(draw.normal(0, 2, (9, 1, 1, 1)) + draw.normal(0, 0.1, (9, 4, 2, 2)))
    scores[:, 0] *= 0.7
    for place in np.ndindex(scores.shape):
        family, method, seed, shots = place
        write(tmp_path / "runs", METHODS[method], f"task{family}", scores[place], seed=seed, shots=1 + 4 * shots)
    return tmp_path / "runs", scores.mean(axis=(2, 3))


def test_seeds_and_shots_are_averaged_and_tests_are_those_of_scipy(
    level: tuple[Path, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, means = level
    found = told(runs)
    ranks = stats.rankdata(means, axis=1).mean(axis=0)
    order = np.argsort(ranks, kind="stable")
    assert [one["settings"]["algo"] for one in found["methods"]] == [METHODS[i] for i in order]
    assert [one["average_rank"] for one in found["methods"]] == pytest.approx(ranks[order])
    for family, row in zip(found["families"], means, strict=True):
        assert family["means"] == pytest.approx(row[order])
        assert (family["tests"], family["seeds"]) == (2, [2, 2, 2, 2])
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    sorted_means = means[:, order]
    relative = [(sorted_means[:, j] - sorted_means[:, i]) / (sorted_means[:, i] + sorted_means[:, j]) for i, j in pairs]
    alone = [stats.wilcoxon(one, method="exact").pvalue for one in relative]
    assert [one["p_alone"] for one in found["differences"]] == pytest.approx(alone)
    assert [one["p"] for one in found["differences"]] == pytest.approx(holm(alone))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    row = next(line for line in shown.splitlines() if line.startswith("maml "))
    assert row.split()[:2] == ["maml", f"{ranks[0]:.2f}"]
    wins = int((means[:, 0] < means[:, 1]).sum())
    pair = next(line for line in shown.splitlines() if re.match("maml - r2d2 ", line))
    assert pair.split()[3:6] == [str(wins), "of", "9"]
    assert pair.endswith("maml better")
    assert "corrected for all 6 pairs (Holm 1979); 9 families are the units" in " ".join(shown.split())


def test_ranks_by_hand_with_ties_and_metrics_of_opposite_direction(tmp_path: Path) -> None:
    values = {"a": ("mse", [0.1, 0.2, 0.2]), "b": ("accuracy", [0.9, 0.9, 0.8]), "c": ("mse", [3.0, None, 1.0])}
    for task, (metric, scores) in values.items():
        for algo, score in zip(METHODS, scores, strict=False):
            write(tmp_path, algo, task, score, metric)
    found = told(tmp_path)
    ranks = {one["family"]: one["ranks"] for one in found["families"]}
    assert [one["settings"]["algo"] for one in found["methods"]] == ["maml", "cnp", "r2d2"]  # 1.5, 2.17, 2.33
    assert ranks == {"a": [1, 2.5, 2.5], "b": [1.5, 3, 1.5], "c": [2, 1, 3]}
    assert [one["average_rank"] for one in found["methods"]] == pytest.approx([1.5, 13 / 6, 7 / 3])
    assert found["families"][2]["means"] == [3.0, 1.0, None]
    assert "c: r2d2 has a run without a finite score and is ranked last" in found["notes"]


@pytest.mark.parametrize(
    ("families", "methods", "said"),
    [
        (5, 2, "1 pair: their smallest p, 2^(1 - 5) = 0.0625, is not below 0.05; 6 are needed"),
        (6, 3, "3 pairs: their smallest p, 2^(1 - 6) = 0.0312, is not below 0.05 / 3 = 0.0167 (Holm); 7 are needed"),
        (8, 4, None),
        (6, 2, None),
    ],
)  # fmt: skip
def test_nothing_is_claimed_where_nothing_can_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], families: int, methods: int, said: str | None
) -> None:
    for family in range(families):
        for place, algo in enumerate(METHODS[:methods]):
            write(tmp_path, algo, f"t{family}", 1.0 + place + 0.1 * family)
    found = told(tmp_path)
    shown = capsys.readouterr().out
    assert ("better" in shown) == (said is None)
    assert {one["p"] is None for one in found["differences"]} == {said is not None}
    assert said is None or f"{families} families are too few for a claim about {said}" == found["test"]


def test_families_that_lack_a_method_are_named_and_left_out(
    level: tuple[Path, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, means = level
    write(runs, "maml", "alone", 1.0)
    write(runs, "maml", "task0", 99.0, shots=20)  # a test that the others lack
    found = told(runs)
    assert len(found["families"]) == 9
    assert found["notes"] == [
        "alone left out: no cnp, r2d2, scratch",
        "task0: 1 test that not all methods share, left out",
    ]
    place = [one["settings"]["algo"] for one in found["methods"]].index("maml")
    assert found["families"][0]["means"][place] == pytest.approx(means[0, 0])
    assert "alone left out: no cnp" in capsys.readouterr().out
    for words, says in (
        (["--across", "tsak"], "--across tsak: no run has such a setting; did you mean task?"),
        (["--across", "task", "--where", "algo=maml"], "one method only"),
        (["--across", "task", "--where", "task=alone,task0", "--by", "task.shots"], "no family has all"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=re.escape(says)):
            report([str(runs), *words])


def test_every_form_has_the_comparison(level: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    runs, means = level
    forms = {name: tmp_path / f"r.{name}" for name in ("html", "latex", "markdown")}
    told(runs, *(word for name, file in forms.items() for word in (f"--{name}", str(file))), "--plots", str(tmp_path))
    page, latex, marked = (file.read_text() for file in forms.values())
    rank = f"{stats.rankdata(means, axis=1)[:, 0].mean():.2f}"
    assert f"<td>maml</td><td>{rank}</td>" in page
    assert page.index("across 9 families") < page.index('<img alt="ranks"') < page.index("better in")
    assert f"maml & {rank} & " in latex
    assert latex.count("\\begin{tabular}") == latex.count("\\end{tabular}") == 3
    assert f"| maml | {rank} |" in marked
    with Image.open(tmp_path / "ranks.png") as image:
        assert image.width >= 900
