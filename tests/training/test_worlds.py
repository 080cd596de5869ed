"""Runs in worlds from the command line to the result, and what is refused."""

import csv
from pathlib import Path

import numpy as np
import pytest
from forks import Forks
from run_folders import only_run

import metaexp
from metaexp.algos.optimal import solve
from metaexp.config.settings import load
from metaexp.errors import ConfigError
from metaexp.storage.saved_result import read_result


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
