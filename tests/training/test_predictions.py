"""predictions.csv: every query of every test task; the metrics of the result come out of it again."""

import csv
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_omniglot import write_packed
from forks import Forks
from run_folders import only_run

import metaexp
from metaexp.storage.saved_result import read_result

TINY = "steps=4 val.every=2 val.tasks=5 test.tasks=12 test.curve_shots=[] compile=false device=cpu".split()


def lines(run: Path) -> list[dict[str, str]]:
    with (run / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def by_task(found: list[dict[str, str]], mode: str | None = None) -> dict[int, list[dict[str, str]]]:
    tasks = defaultdict(list)
    for line in found:
        if mode is None or line["mode"] == mode:
            tasks[int(line["task"])].append(line)
    return tasks


def run_of(forks: Forks, cwd: Path, *words: str) -> tuple[Path, dict[str, Any]]:
    ended = forks(*TINY, "test.predictions=true", *words, cwd=cwd)
    assert ended.code == 0, ended.err
    run = only_run(cwd)
    return run, read_result(run)[0]


def test_the_errors_of_functions_come_out_of_the_file(forks: Forks, tmp_path: Path) -> None:
    run, result = run_of(forks, tmp_path, "algo=maml", "task=sine", "task.test.queries=7")
    tasks = by_task(lines(run))
    assert sorted(tasks) == list(range(12))
    errors = [np.mean([(float(q["y"]) - float(q["prediction"])) ** 2 for q in task]) for task in tasks.values()]
    assert {len(task) for task in tasks.values()} == {7}
    assert np.mean(errors) == pytest.approx(result["test"]["mse"]["mean"], rel=1e-5)
    assert set(lines(run)[0]) == {"task", "query", "y", "prediction"}


def test_deviations_of_gaussian_predictions(forks: Forks, tmp_path: Path) -> None:
    run, result = run_of(forks, tmp_path, "algo=cnp", "task=sine", "task.test.queries=7")
    found = [
        -math.log(float(q["std"])) - 0.5 * math.log(2 * math.pi)
        - 0.5 * ((float(q["y"]) - float(q["prediction"])) / float(q["std"])) ** 2
        for q in lines(run)
    ]  # fmt: skip
    assert np.mean(found) == pytest.approx(result["test"]["log_likelihood"]["mean"], rel=1e-4)


def test_classes_in_every_mode(forks: Forks, tmp_path: Path) -> None:
    write_packed(tmp_path / "data")
    (tmp_path / "run").mkdir()
    words = f"algo=maml task=omniglot task.root={tmp_path}/data task.verify=false model.filters=4 meta_batch=2".split()
    small = "algo.test_steps=1 steps=1 val.every=1 val.tasks=2 test.tasks=4".split()
    run, result = run_of(forks, tmp_path / "run", *words, "task.test.queries=3", *small)
    found = lines(run)
    assert all(line["true"].startswith(("background", "evaluation")) for line in found)  # names of characters
    for mode in ("single", "queries", "support"):
        tasks = by_task(found, mode)
        assert len(tasks) == 4
        right = [np.mean([q["true"] == q["predicted"] for q in task]) for task in tasks.values()]
        name = next(n for n, m in result["protocol"]["normalise"].items() if m == mode and n.startswith("accuracy"))
        assert np.mean(right) == pytest.approx(result["test"][name]["mean"], abs=1e-7), mode
    chances = np.array([[float(value) for key, value in line.items() if key.startswith("p_")] for line in found])
    assert chances.sum(1) == pytest.approx(np.ones(len(found)), abs=1e-6)
    assert all(line[f"class_{np.argmax(p)}"] == line["predicted"] for line, p in zip(found, chances, strict=True))


def test_rows_of_a_file_are_in_its_own_units(forks: Forks, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 2))
    np.savez(tmp_path / "a.npz", x=x, y=1000 + 50 * x[:, 0], task=np.repeat(np.arange(30), 10))
    words = "algo=r2d2 task=arrays task.files=[a.npz] task.standardise=xy task.shots=6 task.queries=4".split()
    (tmp_path / "run").mkdir()
    words = [word.replace("a.npz", str(tmp_path / "a.npz")) for word in words]
    run, result = run_of(forks, tmp_path / "run", *words, "test.tasks=6")
    found = lines(run)
    true = {float(f"{value:.6g}") for value in 1000 + 50 * x[:, 0]}
    assert all(float(f"{float(line['y']):.6g}") in true for line in found)
    assert {line["name"] for line in found} <= {f"task {i} of {tmp_path / 'a.npz'}" for i in range(30)}
    errors = [np.mean([(float(q["y"]) - float(q["prediction"])) ** 2 for q in t]) for t in by_task(found).values()]
    unit = float(metaexp.load(run).learner.family.y_std)  # the metric of arrays is in standardised units
    assert np.mean(errors) == pytest.approx(result["test"]["mse"]["mean"] * unit**2, rel=1e-3)


def test_without_the_setting_there_is_no_file(forks: Forks, tmp_path: Path) -> None:
    assert forks(*TINY, "algo=mean", "task=sine", cwd=tmp_path).code == 0
    assert not (only_run(tmp_path) / "predictions.csv").exists()
