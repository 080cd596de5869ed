"""scripts/compare.py: equal budgets, the choice on validation tasks, and what it says of a claim."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import yaml
from conftest import ROOT
from undrawn import undrawn

from metaexp.config.settings import Settings, load
from metaexp.errors import MetaexpError
from metaexp.evaluate import evaluate
from metaexp.report.tables import number
from metaexp.run.single import run

sys.path.insert(0, str(ROOT / "scripts"))
from comparing import page, plan

SPEC = {
    "title": "Two methods",
    "about": "On few tasks.",
    "metrics": ["mse"],
    "common": [
        "task=sine",
        "compile=false",
        "val.tasks=20",
        "test.tasks=30",
        "test.curve_shots=[]",
        "model.hidden=[4]",
    ],
    "meta_batch": 5,
    "validations": 2,
    "tasks": 40,
    "seconds": 0.2,
    "seeds": [0, 1],
    "search": {"size": 2, "tasks": 20, "seed": 9, "settings": ["test.tasks=2"]},
    "methods": {
        "r2d2": {"settings": ["algo=r2d2"], "search": {"optimizer.lr": [0.001, 1.0]}},
        "reptile": {"settings": ["algo=reptile"], "search": {"optimizer.lr": [0.1, 0.0]}, "meta_batch": 2},
        "cnp": {"settings": ["algo=cnp", "algo.width=4"], "search": {"optimizer.lr": [0.1, 0.001]}},
        "mean": {"settings": ["algo=mean"]},
        "oracle": {"settings": ["algo=oracle"]},
    },
    "claims": [
        {"better": "r2d2", "than": "mean", "source": "somebody"},
        {"better": "mean", "than": "r2d2", "source": "nobody"},
        {"better": "maml", "than": "mean", "source": "not there"},
        {"better": "oracle", "than": "r2d2", "than_metric": "ms?", "source": "one metric of several"},
    ],
}


def compare(*words: object) -> None:
    """The command, in this process."""
    spec = importlib.util.spec_from_file_location("compare_script", ROOT / "scripts" / "compare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with patch.object(sys, "argv", ["compare.py", *map(str, words)]):
        module.main()


class Commands:
    """Stands for `subprocess`: the same commands in this process."""

    def __init__(self) -> None:
        self.typed: list[list[str]] = []
        self.again: list[list[str]] = []

    def run(self, words: list[str], **more: object) -> subprocess.CompletedProcess[str]:
        assert words[3] == "-m"
        error = ""
        if words[4] == "metaexp.evaluate":
            self.again.append(words[5:])
            try:
                evaluate(words[5:])
            except MetaexpError as problem:
                error = str(problem)
            return subprocess.CompletedProcess(words, 2 if error else 0, "", error)
        self.typed.append(words[5:])
        with undrawn():
            try:
                run(load([word for word in words[5:] if word != "resume=auto"]))
            except Exception as problem:
                error = f"a line before\n{problem}\n"
        return subprocess.CompletedProcess(words, 2 if error else 0, "", error)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Commands]:
    """A comparison that ran whole: its file, its folder of runs, the commands. Its tables stand beside the file."""
    place = tmp_path_factory.mktemp("comparison")
    file = place / "two.yaml"
    file.write_text(yaml.safe_dump(SPEC, sort_keys=False))
    commands = Commands()
    (place / "docs").mkdir()
    short = place / "docs" / "methods.md"
    short.write_text("Before\n<!-- two --><!-- /two -->\nafter\n")
    with patch.object(plan, "subprocess", commands):
        compare(file, place / "runs", "--jobs", 1, "--out", place, "--readme", short)
    return file, place / "runs", commands


def typed(words: list[str], key: str) -> str:
    return [word.split("=", 1)[1] for word in words if word.startswith(f"{key}=")][-1]


def of(commands: Commands, round_: str, method: str) -> list[list[str]]:
    return [words for words in commands.typed if f"/{round_}/{method}/" in typed(words, "out")]


def test_budgets_are_equal(made):
    _, _, commands = made
    for round_, seeds in (("search", ["9", "9"]), ("tasks", ["0", "1"]), ("time", ["0", "1"])):
        for method in ("r2d2", "reptile"):
            assert [typed(words, "seed") for words in of(commands, round_, method)] == seeds
    for method, batch in (("r2d2", 5), ("reptile", 2), ("mean", 5)):
        assert {typed(w, "steps") for w in of(commands, "tasks", method)} == {str(40 // batch)}
        assert {typed(w, "steps") for w in of(commands, "search", method)} <= {str(20 // batch)}
        assert {typed(w, "meta_batch") for w in commands.typed if f"/{method}/" in typed(w, "out")} == {str(batch)}
    assert of(commands, "search", "mean") == []  # nothing to choose


def test_runs_of_other_settings_are_not_taken_for_these(made, tmp_path):
    file, folder, _ = made
    changed = SPEC | {"common": [*SPEC["common"], "val.tasks=5"]}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    for more in ([], ["--render"]):
        with pytest.raises(SystemExit, match=r"/r2d2/0: made with other settings \(val.tasks=5\); move it away"):
            compare(tmp_path / "two.yaml", folder, "--jobs", 1, "--out", tmp_path, *more)
    grid = SPEC["methods"] | {"r2d2": {"settings": ["algo=r2d2"], "search": {"optimizer.lr": [0.001, 0.5]}}}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(SPEC | {"methods": grid}, sort_keys=False))
    for more in (["--rounds", "tasks,time"], ["--render"]):  # the same place in another grid
        with pytest.raises(SystemExit, match=r"search/r2d2/1: made with other settings \(optimizer.lr=0.5 optim"):
            compare(tmp_path / "two.yaml", folder, "--jobs", 1, "--out", tmp_path, *more)
    assert list(tmp_path.iterdir()) == [tmp_path / "two.yaml"]
    compare(file, folder, "--jobs", 1, "--out", tmp_path)  # as before it takes what is there


def test_equal_time_is_compiled_where_equal_tasks_were(made, tmp_path):
    file, folder, _ = made
    shutil.copytree(folder, tmp_path / "runs")
    results = sorted((tmp_path / "runs" / "tasks" / "reptile").glob("*/*/result.json"))
    for result in results:
        found = json.loads(result.read_text())
        assert found["compiled"] is False
        result.write_text(json.dumps(found | {"compiled": True}))
    comparison = plan.Comparison(file, tmp_path / "runs", None)
    words = {name: [job.words for job in jobs] for name, jobs in comparison.trained("time").items()}
    assert len(results) == len(words["reptile"]) == len(words["r2d2"]) == 2
    assert all("compile=true" in each for each in words["reptile"])
    assert not any("compile=true" in each for each in words["r2d2"])


def test_validation_tasks_choose(made):
    _, folder, commands = made
    record = json.loads((folder.parent / "two.json").read_text())
    key = "optimizer.lr"
    for method, best_of in (("r2d2", np.argmin), ("reptile", np.argmin), ("cnp", np.argmax)):
        found = []
        for file in sorted(folder.glob(f"search/{method}/*/*/result.json")):
            found.append(json.loads(file.read_text())["val"]["best"])
        best = SPEC["methods"][method]["search"][key][int(best_of(found))]
        assert record["search"][method]["scores"] == found
        assert record["search"][method]["chosen"] == [f"{key}={best}"]
        assert {typed(w, key) for w in of(commands, "tasks", method) + of(commands, "time", method)} == {str(best)}


def test_equal_time_is_speed_times_seconds(made):
    _, folder, commands = made
    results = [json.loads(f.read_text()) for f in folder.glob("tasks/r2d2/*/*/result.json")]
    expected = 0.2 * float(np.median([result["speed"]["meta_steps_per_s"] for result in results]))
    assert {int(typed(w, "steps")) for w in of(commands, "time", "r2d2")} == {max(20, int(expected) // 20 * 20)}


def test_tables(made):
    _, folder, _ = made
    assert "[All results](../two.md): " in (folder.parent / "docs/methods.md").read_text()
    shown = (folder.parent / "two.md").read_text()
    assert "## Equal numbers of training tasks: 40 training tasks each" in shown
    assert "## Equal training time: 0.2 s each" in shown
    assert str(folder) not in shown
    scores = [np.load(file)["mse"][:, -1] for file in folder.glob("tasks/r2d2/*/*/test_scores.npz")]
    line = next(line for line in shown.splitlines() if line.startswith("| r2d2 |"))
    assert line.split("|")[2].strip() == f"{np.mean(scores):.4g}"
    assert "mean better than r2d2 (nobody): **" in shown
    assert "maml better than mean (not there): not measured" in shown
    assert "oracle better than the best of r2d2's ms? (one metric of several): **holds**, difference -" in shown
    results = [json.loads(f.read_text()) for f in folder.glob("time/r2d2/*/*/result.json")]
    took = np.mean([result["steps"] / result["speed"]["meta_steps_per_s"] for result in results])
    assert f"Seconds that the outer steps took in these runs (the mean): r2d2 {took:.3g}" in shown


class Scored(NamedTuple):
    """A run as far as claims look at it."""

    config: dict[str, Any]
    scores: dict[str, np.ndarray]
    result: dict[str, Any]


def scored(method: str, values: np.ndarray, queries: str = "a", metric: str = "mse") -> Scored:
    return Scored({"algo": method}, {metric: values[:, None]}, {"protocol": {"query_sha256": queries}, "test": {}})


def test_claims_are_corrected_for_their_number_and_tell_what_they_leave_out():
    draw = np.random.default_rng(0)
    base = draw.normal(size=400) + 5
    runs = [scored("one", base + 0.02 * draw.normal(size=400)), scored("same", base + 0.02 * draw.normal(size=400))]
    noise = draw.normal(size=400)
    noise = 0.9 * (noise - noise[np.arange(400) != 7].mean()) / noise.std()  # 1.96 * 0.9 / 20 = 0.088
    better = runs[0].scores["mse"][:, 0] - 0.1 + noise  # by its own interval alone just better
    better[7] = np.nan
    runs.append(scored("better", better))
    one = {"better": "better", "than": "one", "source": "s"}
    spec = {"claims": [one, *[{"better": "one", "than": "same", "source": "s"}] * 5]}
    alone, among = page.claims(spec | {"claims": [one]}, runs, "mse"), page.claims(spec, runs, "mse")
    assert "**holds**" in alone[0]
    assert "**not shown**" in among[0]
    assert "399 tasks, 1 not finite left out" in alone[0]
    runs[0] = scored("one", base, queries="b")
    told = "better better than one (s): not comparable, tested on different queries"
    assert page.claims({"claims": [one]}, runs, "mse") == [told]


def test_a_metric_that_is_not_finite_is_nobodys_best():
    bad, good = np.array([np.nan, 1.0]), np.array([0.2, 0.3])
    for pattern, names in (("accuracy*", ("accuracy", "accuracy_support")), ("*mse", ("mse", "x_mse"))):
        run = scored("m", bad, metric=names[0])
        run.scores[names[1]] = good[:, None]
        (found,) = page._scores([run], "m", pattern)
        assert found.tolist() == good.tolist()


def test_a_full_disk_is_no_failure_of_a_method(tmp_path):
    class Full(Commands):
        def run(self, words, **more):
            return subprocess.CompletedProcess(words, 7, "", "a line before\nmetaexp: no space left\n")

    methods = {"mean": {"settings": ["algo=mean"]}}
    (tmp_path / "full.yaml").write_text(yaml.safe_dump(SPEC | {"methods": methods, "claims": []}, sort_keys=False))
    with patch.object(plan, "subprocess", Full()), pytest.raises(SystemExit, match=r"/mean/0: metaexp: no space left"):
        compare(tmp_path / "full.yaml", tmp_path / "r", "--jobs", 1, "--out", tmp_path)
    assert not list(tmp_path.glob("r/**/failed.txt"))


def test_what_is_there_is_not_made_again(made):
    file, folder, commands = made
    before = len(commands.typed)
    with patch.object(plan, "subprocess", commands):
        compare(file, folder, "--jobs", 2, "--out", file.parent)
    assert len(commands.typed) == before


def test_a_candidate_that_fails_is_told_and_not_taken(tmp_path):
    methods = {"r2d2": {"settings": ["algo=r2d2"], "search": {"optimizer.lr": [-1.0, 0.001]}}}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(SPEC | {"methods": methods, "claims": []}, sort_keys=False))
    with patch.object(plan, "subprocess", Commands()):
        compare(tmp_path / "bad.yaml", tmp_path / "r", "--jobs", 1, "--out", tmp_path, "--rounds", "search,tasks")
    record = json.loads((tmp_path / "bad.json").read_text())
    assert record["search"]["r2d2"]["scores"][0] is None
    assert record["search"]["r2d2"]["chosen"] == ["optimizer.lr=0.001"]
    assert "optimizer.lr=-1.0: failed" in (tmp_path / "bad.md").read_text()
    assert "time" not in record


def test_a_second_test_is_made_once_and_its_failure_is_told(tmp_path):
    methods = {
        "mean": {"settings": ["algo=mean"], "again": ["task.shots=3"]},
        "bad": {"settings": ["algo=mean"], "again": ["task.ways=3"]},
    }
    spec = SPEC | {"methods": methods, "claims": [], "seeds": [0]}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    commands = Commands()
    for _ in range(2):
        with patch.object(plan, "subprocess", commands):
            compare(tmp_path / "again.yaml", tmp_path / "r", "--jobs", 1, "--out", tmp_path, "--rounds", "tasks")
    assert (len(commands.typed), len(commands.again)) == (2, 2)
    assert "ways" in (tmp_path / "r/tasks/bad/0/failed.txt").read_text()
    shown = (tmp_path / "again.md").read_text()
    assert "### sine: 3 shots" in shown
    assert "### sine: 10 shots" in shown
    assert "- failed: tasks/bad/0: " in shown
    spec["methods"]["mean"]["again"] = ["task.shots=4"]
    (tmp_path / "other" / "again.yaml").parent.mkdir()
    (tmp_path / "other" / "again.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    with pytest.raises(SystemExit, match=r"mean/0: made with other settings \(task.shots=3 task.shots=4\)"):
        compare(tmp_path / "other" / "again.yaml", tmp_path / "r", "--out", tmp_path, "--render")
    # Interrupted between the two: the second test is made up for, the training is not made again.
    shutil.rmtree(next((tmp_path / "r/tasks/mean/0").glob("*/evaluations")))
    with patch.object(plan, "subprocess", commands):
        compare(tmp_path / "again.yaml", tmp_path / "r", "--jobs", 1, "--out", tmp_path, "--rounds", "tasks")
    assert (len(commands.typed), len(commands.again)) == (2, 3)
    (short := tmp_path / "methods.md").write_text("<!-- again --><!-- /again -->")
    compare(tmp_path / "again.yaml", tmp_path / "r", "--out", tmp_path, "--render", "--readme", short)
    folder = next((tmp_path / "r/tasks/mean/0").glob("2*"))
    own, second = (
        json.loads(file.read_text())["test"]["mse"]
        for file in (folder / "result.json", *folder.glob("evaluations/*/result.json"))
    )
    assert own["mean"] != second["mean"]
    values = [f"{number(one['mean'])} ± {number(one['ci95'], 2)}" for one in (own, second)]
    assert "| method | mse, 40 training tasks each | mse, shots 3 | steps |\n" in short.read_text()
    assert f"| `mean` | {values[0]} | {values[1]} | 0 |\n" in short.read_text()


def test_uneven_budgets_are_refused(tmp_path):
    methods = {"r2d2": {"settings": ["algo=r2d2"], "search": {"optimizer.lr": [0.1, 0.01, 0.001]}}}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(SPEC | {"methods": methods}))
    with pytest.raises(SystemExit, match=r"every method has search.size candidates .*'r2d2': 3"):
        plan.Comparison(tmp_path / "bad.yaml", tmp_path, None)


@pytest.mark.parametrize("name", [file.stem for file in sorted((ROOT / "scripts" / "comparisons").glob("*.yaml"))])
def test_every_command_of_a_comparison_is_accepted(tmp_path, name):
    c = plan.Comparison(ROOT / "scripts" / "comparisons" / f"{name}.yaml", tmp_path, None)
    settings = Settings([])
    for method in c.methods:
        options = list(c.candidates(method))
        for chosen in (options[0], options[-1])[: len(options)]:
            config = settings.load(c.words(method, 40, 3, chosen))
            assert (config["steps"], config["seed"], config["val"]["every"]) == (
                40,
                3,
                40 // c.spec.get("validations", 20),
            )
