"""Runs in worlds from the command line to the result, and what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from forks import Forks
from run_folders import only_run
from small_runs import train
from undrawn import undraw

import metaexp
from metaexp.algos.optimal import solve
from metaexp.config.settings import load
from metaexp.errors import ConfigError
from metaexp.evaluate import evaluate
from metaexp.evaluation.scores import evaluate as scores_of
from metaexp.run.restore import open_config, restore
from metaexp.storage.saved_result import read_result
from metaexp.tasks.bandit import Bandit


def test_a_planner_runs_from_the_command_line(forks: Forks, tmp_path: Path) -> None:
    words = ("algo=optimal", "task=bandit", "task.pulls=6", "test.tasks=3000", "test.predictions=true", "device=cpu")
    ended = forks(*words, cwd=tmp_path)
    assert ended.code == 0, ended.err
    run = only_run(tmp_path)
    result, _ = read_result(run)
    found, exact = result["test"]["return"], solve(5, 6)[0]
    assert abs(found["mean"] - exact) < 2.5 * found["ci95"]
    assert result["finish"]["expected_return"] == exact
    assert found["larger_is_better"] is True
    assert result["test"]["regret"]["larger_is_better"] is False
    assert set(result["floors"]) == {"random", "informed"}
    protocol = {name: result["protocol"][name] for name in ("arms", "pulls", "kind", "prior")}
    assert protocol == {"arms": 5, "pulls": 6, "kind": "bernoulli", "prior": [1, 1]}
    assert result["shots"]["shots"] == []
    with np.load(run / "test_scores.npz") as arrays:
        assert arrays["within_Optimal"].shape == arrays["within_gittins"].shape == (2, 6)
        returns = arrays["return"][:, 0]
    with (run / "predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["task", "step", "reward"]
    rewards = np.array([float(line["reward"]) for line in lines]).reshape(3000, 6)
    assert np.array_equal(rewards.sum(1), returns)
    assert "in short     return" in ended.out
    with pytest.raises(ConfigError, match="algo=optimal has learned to act in a world and predicts nothing"):
        metaexp.load(run)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["algo=maml", "task=bandit"], "algo=maml needs kind regression or classification, task=bandit gives world"),
        (["algo=random", "task=sine"], "algo=random needs kind world, task=sine gives regression; use algo=acnp | "),
        (["algo=gittins", "task=mdp"], "algo=gittins needs world bandit, task=mdp gives mdp; use algo="),
    ],
)
def test_a_wrong_pair_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(words)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_learned_policy_meets_longer_trials_and_no_other_actions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undraw(monkeypatch.setattr)
    words = ["algo=rl2", "task=bandit", "task.pulls=4", "algo.hidden=4", "steps=2"]
    run = train(tmp_path, *words, "meta_batch=8", "test.tasks=40")
    typed = ["task.pulls=7", "task.kind=gaussian", "task.eval_seed=2", "test.tasks=50"]
    assert evaluate([f"run={run}", *typed]) == 0
    found = run / "evaluations" / "1"
    learner = restore(run, open_config(run)).parts.learner
    learner.load_state_dict(restore(run, open_config(run)).checkpoints.best()[0]["state_dict"])
    learner.family = Bandit(5, 7, kind="gaussian", eval_seed=2)
    expected = scores_of(learner, "test", 50, ["queries"]).arrays["return"]
    with np.load(found / "test_scores.npz") as arrays:
        assert np.array_equal(arrays["return"], expected)
    told = json.loads((found / "result.json").read_text())
    assert (told["protocol"]["pulls"], told["protocol"]["kind"], told["test"]["return"]["tasks"]) == (7, "gaussian", 50)
    for wrong, says in (
        ("task.arms=6", "task.arms: has 6 actions, and this run chooses among 5"),
        ("task=mdp", r"task=mdp: an input is \[10\], and this run takes \[1\]"),
    ):
        with pytest.raises(ConfigError, match=says):
            evaluate([f"run={run}", wrong])
    assert [path.name for path in (run / "evaluations").iterdir()] == ["1"]
