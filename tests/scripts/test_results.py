"""scripts/results.py: the numbers of its tables, from run folders made by hand."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from metaexp.config.settings import load
from metaexp.evaluation.intervals import summary
from metaexp.storage.saved_config import dump_yaml


@pytest.fixture(scope="module")
def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", ROOT / "scripts" / "results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(folder: Path, typed: list[str], scores: dict[str, np.ndarray]) -> None:
    """A finished run with these scores [tasks, steps + 1] of each metric."""
    folder.mkdir(parents=True)
    config = {key: value for key, value in load(typed).items() if key != "typed"}
    larger = config["task"]["gives"]["kind"] == "classification"
    result = {
        "algo": config["choices"]["algo"],
        "task": config["choices"]["task"],
        "experiment": config["choices"]["experiment"],
        "seed": config["seed"],
        "steps": config["steps"],
        "weights": {"kind": "last", "step": config["steps"]},
        "test": {name: summary(values, larger) for name, values in scores.items()},
        "protocol": {},
        "speed": {"seconds": 12.0, "meta_steps_per_s": 34.5},
        "memory": {"peak_mb": 400},
        "device": "cpu",
        "threads": 1,
        "versions": {"torch": "2.13.0"},
        "commit": "0123456789abcdef+",
        "config_sha256": "0",
    }
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "status.json").write_text(json.dumps({"started": "2026-01-02T03:04:05+00:00", "host": "elsewhere"}))
    (folder / "config.yaml").write_text(dump_yaml(config))
    np.savez(folder / "test_scores.npz", **scores)


def sine(seed: int, tasks: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 1.5, size=(tasks, 11)) - np.arange(11) / 20


@pytest.fixture
def tables(results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command writes for three seeds of one experiment, one Omniglot run and one that is not finished."""
    for seed in range(3):
        make(tmp_path / f"sweep/{seed}", ["experiment=maml_sine", f"seed={seed}", "device=cpu"], {"mse": sine(seed)})
    rising = np.tile(np.array([0.2, 0.5, 0.75, 0.9]), (8, 1))
    rising[3] = [0.2, 0.1, 0.1, 0.1]
    names = ("accuracy_transductive", "accuracy", "accuracy_support")
    make(tmp_path / "one", ["algo=maml", "task=omniglot", "steps=7", "task.root=/x"], dict.fromkeys(names, rising))
    (tmp_path / "two").mkdir()
    (tmp_path / "two/status.json").write_text("{}")
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- results -->\nold\n<!-- end of results -->\nbelow\n")
    command = ["results.py", str(tmp_path), "--out", str(tmp_path / "out"), "--readme", str(page)]
    monkeypatch.setattr(sys, "argv", command)
    results.main()
    texts = {name: (tmp_path / "out" / name).read_text() for name in ("results.json", "runs.md", "summary.md")}
    return {**texts, "data": json.loads(texts["results.json"]), "page": page.read_text()}


def test_tables_do_not_drop_what_they_report(
    results: ModuleType, tables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    command = ["results.py", str(tmp_path / "one"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        results.main()
    assert ended.value.code == 2
    assert "its tables have maml_sine, of which there is no run here" in capsys.readouterr().err
    assert (tmp_path / "out/results.json").read_text() == tables["results.json"]
    monkeypatch.setattr(sys, "argv", [*command, "--replace"])
    results.main()
    assert [run["experiment"] for run in json.loads((tmp_path / "out/results.json").read_text())["runs"]] == [None]


def test_each_seed_stands_for_itself_and_their_mean_has_its_own_interval(tables: dict[str, Any]) -> None:
    runs = [run for run in tables["data"]["runs"] if run["experiment"] == "maml_sine"]
    assert [run["seed"] for run in runs] == [0, 1, 2]
    for run in runs:
        values = sine(run["seed"])
        assert [row["step"] for row in run["metrics"]["mse"]] == [1, 5, 10]
        for row in run["metrics"]["mse"]:
            column = values[:, row["step"]]
            assert row["mean"] == pytest.approx(column.mean(), rel=1e-12)
            assert row["ci95"] == pytest.approx(1.96 * column.std(ddof=1) / math.sqrt(40), rel=1e-12)
            assert (row["median"], row["worst"]) == (np.median(column), column.max())
            assert row["worse"] == (column > values[:, 0]).sum()
    (group,) = [group for group in tables["data"]["groups"] if group["experiment"] == "maml_sine"]
    means = [sine(seed)[:, 10].mean() for seed in range(3)]
    last = group["metrics"]["mse"][-1]
    assert last["mean"] == pytest.approx(np.mean(means), rel=1e-12)
    assert last["ci95_over_seeds"] == pytest.approx(4.302652729749462 * np.std(means, ddof=1) / math.sqrt(3), rel=1e-12)
    assert last["ci95_over_tasks"] is None
    assert last["tasks"] == 120
    shown = f"| 10 | 0.35 | {np.mean(means):.3f} ± {last['ci95_over_seeds']:.3f} over seeds |"
    assert shown in tables["summary.md"]


def test_commands_are_those_that_made_the_runs(results: ModuleType, tables: dict[str, Any]) -> None:
    assert "`scripts/run.sh -m experiment=maml_sine seed=0,1,2`" in tables["summary.md"]
    assert "`scripts/run.sh algo=maml task=omniglot steps=7 seed=0`" in tables["summary.md"]
    assert "0123456789+" in tables["runs.md"]
    assert "unknown (host elsewhere)" in tables["runs.md"]
    assert results.cpu({"machine": {"cpu": "Abacus"}}, "elsewhere") == "Abacus"


def test_classification_has_a_column_for_every_way_to_normalise(tables: dict[str, Any]) -> None:
    half = 1.96 * np.std([90] * 7 + [10], ddof=1) / math.sqrt(8)
    cell = f"80.00 ± {half:.2f} over tasks"
    assert f"| `maml omniglot` | 7 | 1 | - | {cell} | - | {cell} | - | {cell} |" in tables["summary.md"]
    (run,) = [run for run in tables["data"]["runs"] if run["classification"]]
    last = run["metrics"]["accuracy"][-1]
    assert (last["step"], last["worst"], last["worse"], last["median"]) == (3, 0.1, 1, 0.9)


def test_the_page_gets_the_summary(tables: dict[str, Any]) -> None:
    middle = tables["page"].removeprefix("above\n<!-- results -->\n").removesuffix("<!-- end of results -->\nbelow\n")
    assert middle.strip() == tables["summary.md"].strip()


def test_tasks_that_are_not_finite_are_counted_and_left_out(results: ModuleType) -> None:
    values = np.array([[1.0, 2.0], [3.0, np.inf], [5.0, 4.0]])
    row = results.numbers(values, -1, larger_is_better=False)
    assert (row["step"], row["mean"], row["diverged"], row["tasks"], row["worse"]) == (1, 3.0, 1, 3, 1)
    nothing = results.numbers(np.full((2, 2), np.nan), -1, larger_is_better=False)
    assert (nothing["mean"], nothing["diverged"]) == (None, 2)
    assert results.interval(None, None, percent=False) == "not finite"


def test_scores_that_contradict_the_result_are_refused(results: ModuleType, tmp_path: Path) -> None:
    make(tmp_path / "run", ["experiment=maml_sine"], {"mse": sine(0)})
    np.savez(tmp_path / "run/test_scores.npz", mse=sine(1))
    with pytest.raises(ValueError, match=r"mse is .* in result.json"):
        results.read_run(tmp_path / "run")
