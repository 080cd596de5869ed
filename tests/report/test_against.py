"""A metric against a numeric setting: means and intervals by NumPy and SciPy, and what is drawn."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from metaexp.errors import ConfigError
from metaexp.evaluation.intervals import summary
from metaexp.report.command import report

SETTINGS = "choices: {{algo: {algo}, task: sine, model: mlp}}\nseed: {seed}\nsteps: 9\ntrain_tasks: {tasks}\n"


def write(out: Path, algo: str, tasks: int | str, seed: int, scores: np.ndarray, count: int | None = None) -> None:
    """A finished run with these scores, [tasks]; `count`: how many training tasks there were."""
    folder = out / f"{algo}_{tasks}_{seed}"
    folder.mkdir(parents=True)
    test = {"mse": summary(scores[:, None], False)}
    result: dict[str, Any] = {"algo": algo, "task": "sine", "model": "mlp", "seed": seed, "steps": 9, "test": test}
    result |= {"protocol": {"shots": 5, "query_sha256": f"{tasks}"}, "train_tasks": count}
    result |= {"floors": {"mean": {"mse": summary(np.full((100, 1), 3.0), False)}}}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "config.yaml").write_text(SETTINGS.format(algo=algo, seed=seed, tasks=tasks))
    np.savez(folder / "test_scores.npz", mse=scores[:, None])


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, dict[tuple[str, int | str, int], np.ndarray]]:
    """Two methods, 8, 32 and all training tasks, four seeds of one of them."""
    draw, found = np.random.default_rng(0), {}
    for algo, seeds in (("maml", 4), ("r2d2", 1)):
        for tasks, level in ((8, 2.0), (32, 1.0), ("all", 0.5)):
            for seed in range(seeds):
                scores = level * draw.uniform(0.8, 1.2, 100) * draw.uniform(0.9, 1.1)
                found[algo, tasks, seed] = scores
                write(tmp_path / "runs", algo, tasks, seed, scores)
    return tmp_path / "runs", found


def told(runs: Path, *words: str, key: str = "train_tasks") -> list[dict[str, Any]]:
    assert report([str(runs), "--against", key, "--json", str(runs / "all.json"), *words]) == 0
    return list(json.loads((runs / "all.json").read_text())["parts"])


def test_every_point_has_the_mean_and_the_interval_over_seeds_or_tasks(
    made: tuple[Path, dict[Any, np.ndarray]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, scores = made
    (part,) = told(
        runs, "--plots", str(tmp_path), "--html", str(tmp_path / "r.html"), "--latex", str(tmp_path / "r.tex")
    )
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    curves = {curve["settings"]["algo"]: curve["points"] for curve in part["curves"]}
    assert [point["value"] for point in curves["maml"]] == [8, 32, None]
    assert part["baselines"] == {"mean": 3.0}
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line[:3] in ("8  ", "32 ", "all")}
    place = shown.splitlines()[2].split().index("maml")
    for point, tasks in zip(curves["maml"], (8, 32, "all"), strict=True):
        means = np.array([scores["maml", tasks, seed].mean() for seed in range(4)])
        high = stats.ttest_1samp(means, 0.0).confidence_interval(0.95).high
        assert (point["mean"], point["seeds"]) == (pytest.approx(means.mean()), 4)
        assert point["seeds_half"] == pytest.approx(high - means.mean())
        value, sign, half = lines[str(tasks)][1 + 3 * (place - 1) :][:3]
        assert (sign, half) == ("±", f"{high - means.mean():.2g}")
        assert abs(float(value) - means.mean()) < 10 ** (1 - math.floor(math.log10(float(half))) - 2 + 1)
    alone = scores["r2d2", 8, 0]
    assert curves["r2d2"][0]["tasks_half"] == pytest.approx(1.96 * alone.std(ddof=1) / 10)
    assert "over seeds (Student's t) or, with fewer than 3 seeds, over test tasks" in " ".join(shown.split())
    assert (tmp_path / "r.html").read_text().count("<img") >= 1
    assert "train\\_tasks & " in (tmp_path / "r.tex").read_text()
    with Image.open(tmp_path / "against_train_tasks_sine_mse.png") as image:
        assert image.width >= 900


def test_all_tasks_of_a_finite_pool_are_their_number(tmp_path: Path) -> None:
    scores = np.linspace(1, 2, 100)
    for tasks, count in ((8, 8), (60, 60), ("all", 60)):
        write(tmp_path, "maml", tasks, 0, scores, count)
    (part,) = told(tmp_path)
    assert [(point["value"], point["seeds"]) for point in part["curves"][0]["points"]] == [(8, 1), (60, 1)]


def test_medians_are_drawn_where_few_tasks_carry_the_mean(
    made: tuple[Path, dict[Any, np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, _ = made
    scores = np.r_[np.linspace(1, 2, 99), 1e6]
    write(runs, "cnp", 8, 0, scores)
    told(runs)
    shown = capsys.readouterr().out
    assert "median mse against train_tasks" in shown
    place = shown.splitlines()[2].split().index("cnp")
    row = next(line for line in shown.splitlines() if line.startswith("8 "))
    assert float(row.split()[1 + 3 * (place - 1)]) == pytest.approx(float(np.median(scores)), rel=0.01)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("train_task", "--against train_task: no run has such a setting; did you mean train_tasks?"),
        ("algo", "--against algo: maml .* is no number"),
        ("steps", "--against steps: no runs that were tested equally differ in it"),
    ],
)
def test_what_is_no_curve_is_refused(made: tuple[Path, Any], key: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        report([str(made[0]), "--against", key])
