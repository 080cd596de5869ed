"""The curve against the number of support examples, and whole runs with it."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import Fault

from metaexp.algos.joint import Joint
from metaexp.algos.maml import MAML
from metaexp.algos.mother import Mother
from metaexp.algos.scratch import Scratch
from metaexp.config.declared import check_ranges
from metaexp.config.settings import load
from metaexp.contract import new, pictures
from metaexp.errors import ConfigError, Interrupted
from metaexp.evaluation.baselines import baselines
from metaexp.evaluation.intervals import summary
from metaexp.evaluation.scores import evaluate
from metaexp.evaluation.shots_curve import ShotsCurve, series, shots_curve, worse_than
from metaexp.loggers.result_table import baseline_label
from metaexp.models.mlp import MLP
from metaexp.tasks.sine import Sine

F64 = torch.float64
NET = partial(MLP, hidden=[6])


def quiet(done: int) -> None:
    pass


def test_the_series_of_shots():
    assert series(1) == [1, 2]
    assert series(5) == [1, 2, 5, 10]
    assert series(15, beyond=2) == [1, 2, 5, 10, 15, 20, 50]
    assert series(100, beyond=0) == [1, 2, 5, 10, 20, 50, 100]


def by_shots(scores):
    """[tasks, k], all finite: what result.json says of each column."""
    return [{**row, "diverged": 0} for row in summary(scores)["per_step"]]


def test_a_column_is_a_test_with_so_many_shots():
    family = Sine(3, 10, noise=0.1).to("cpu", F64)
    learner = new(lambda f: MAML(f, NET, test_steps=2), family)
    curve = shots_curve(learner, None, 12, "queries", quiet)
    assert curve.shots == [1, 2, 3, 5]
    alone = [evaluate(learner, "test", 12, ["queries"], shots=n) for n in curve.shots]
    assert len({one.query_sha256 for one in alone}) == 1
    assert curve.arrays["mse"].shape == (12, 4)
    for column, one in enumerate(alone):
        assert abs(curve.arrays["mse"][:, column] - one.arrays["mse"][:, -1]).max() < 1e-12
    assert set(curve.floors) == {"mean", "neighbour", "oracle"}
    assert np.ptp(curve.floors["oracle"]["mse"], axis=1).max() == 0  # the same queries in every column
    assert (curve.floors["mean"]["mse"][:, 2] == baselines(family, "test", 12)["mean"]["mse"][:, 0]).all()
    told = curve.result()
    assert told["tasks"] == 12
    assert told["metrics"]["mse"][1]["mean"] == pytest.approx(curve.arrays["mse"][:, 1].mean(), rel=1e-12)
    floor = summary(curve.floors["mean"]["mse"][:, 3:])["per_step"][0]
    assert told["floors"]["mean"]["mse"][3] == floor | {"diverged": 0}


def test_a_task_that_diverged_at_one_number_of_shots_counts_at_the_others():
    scores = np.array([[1.0, 2.0], [np.inf, 4.0], [3.0, 9.0]])
    one, two = ShotsCurve([1, 5], {"mse": scores}, {}, {}).result()["metrics"]["mse"]
    assert (one["mean"], one["median"], one["diverged"]) == (2.0, 2.0, 1)
    assert (two["mean"], two["median"], two["diverged"]) == (5.0, 4.0, 0)
    assert worse_than(scores[:, 0], np.array([0.5, 1.0, 3.0]), larger_is_better=False) == 2
    assert worse_than(np.array([0.5, np.nan]), np.array([0.6, 0.1]), larger_is_better=True) == 2


@pytest.mark.parametrize("make", [Joint, Scratch])
def test_epochs_are_those_of_the_support_set_at_hand(make):
    """A column is what the method scores that was made for so many shots."""

    def made(shots: int):
        family = Sine(shots, 10).to("cpu", F64)
        return new(lambda f: make(f, NET, test_lr=0.02, test_epochs=3, test_batch=4), family)

    curve = shots_curve(made(8), [2, 8, 21], 12, "queries", quiet)
    for column, shots in enumerate(curve.shots):
        learner = made(shots)
        assert learner.test_steps == {2: 3, 8: 6, 21: 18}[shots]
        own = evaluate(learner, "test", 12, ["queries"]).arrays["mse"][:, -1]
        assert abs(curve.arrays["mse"][:, column] - own).max() < 1e-12


@pytest.mark.parametrize("make", [MAML, Mother])
@pytest.mark.parametrize("shots", [[1, 3, 4], [3]])
def test_the_tests_own_scores_are_a_column_as_any_other(make, shots):
    """Also of a learner that scores more than its metrics: each child of the mother, and other weights than hers."""
    learner = new(lambda f: make(f, NET, test_steps=2), Sine(3, 10).to("cpu", F64))
    known = evaluate(learner, "test", 12, ["queries", "single"]).arrays
    made = shots_curve(learner, shots, 8, "queries", quiet, known).arrays
    anew = shots_curve(learner, shots, 8, "queries", quiet).arrays
    assert list(made) == list(anew)
    assert ("child_2_mse" in made) == (make is Mother)
    assert all(np.abs(made[name] - anew[name]).max() < 1e-12 for name in made)


def test_shots_that_cannot_be_are_left_out_with_the_reason():
    class Few(MAML):
        def path(self, support, key, steps):
            if len(support.x) > 4:
                raise ValueError(f"support: {len(support.x)} examples, at most 4")
            return super().path(support, key, steps)

    learner = new(lambda f: Few(f, NET), pictures(side=4, ways=2, shots=2, queries=8))
    curve = shots_curve(learner, [4, 1, 2, 1, 20], 3, "queries", quiet)
    assert curve.shots == [1, 2]
    assert curve.skipped[4] == "support: 8 examples, at most 4"
    assert "shots=20" in curve.skipped[20]
    assert "together more than the 12 examples" in curve.skipped[20]
    assert curve.arrays["accuracy"].shape == curve.floors["mean"]["accuracy"].shape == (3, 2)
    unasked = shots_curve(learner, None, 3, "queries", quiet)  # 5 shots and 8 queries would be more than the data have
    assert (unasked.shots, unasked.skipped) == ([1, 2], {})
    nothing = shots_curve(learner, [], 3, "queries", quiet)
    assert (nothing.shots, nothing.arrays, nothing.floors) == ([], {}, {})
    assert nothing.result()["tasks"] == 0


class Fixed(Sine):
    """Gives 5 support examples, whatever is asked for."""

    def sample(self, split, indices, shots=None, queries=None, ways=None):
        return super().sample(split, indices, 5, queries)


def test_a_family_that_does_not_listen_has_no_curve():
    curve = shots_curve(new(lambda f: MAML(f, NET), Fixed(5, 5).to("cpu", F64)), [2, 5], 3, "queries", quiet)
    assert curve.shots == [5]
    assert curve.skipped == {2: "the family gives 5 support examples instead of 2"}


def test_the_curve_can_be_stopped():
    seen = []

    def stop(done: int) -> None:
        seen.append(done)
        if done > 250:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        shots_curve(new(lambda f: MAML(f, NET), Sine(2, 5).to("cpu", F64)), [1, 2, 3], 150, "queries", stop)
    assert seen == [100, 150, 250, 300]


def test_settings_of_the_curve():
    config = load(["test.curve_shots=[3,7]"])
    assert config["test"] == config["test"] | {"curve_shots": [3, 7], "curve_tasks": 200}
    for good in (None, [], [0], 5):
        config["test"]["curve_shots"] = good
        check_ranges(config)
    for bad in (-1, [1, 2.5], ["a"], True):
        config["test"]["curve_shots"] = bad
        with pytest.raises(ConfigError, match=r"test\.curve_shots=.+ must be "):
            check_ranges(config)
    config["test"] |= {"curve_shots": None, "curve_tasks": 0}
    with pytest.raises(ConfigError, match=r"test\.curve_tasks=0: must be at least 1"):
        check_ranges(config)
    del config["test"]["curve_shots"], config["test"]["curve_tasks"]  # a run begun before they were there
    check_ranges(config)


# --- whole runs -------------------------------------------------------------------------------------------------------

TINY = "task=sine device=cpu model.hidden=[8] meta_batch=4 steps=4 val.tasks=5 test.tasks=7 test.curve_tasks=6".split()


def ended_run(cwd: Path) -> tuple[Path, dict, dict]:
    (run,) = (cwd / "outputs").iterdir()
    with np.load(run / "test_scores.npz") as scores:
        return run, json.loads((run / "result.json").read_text()), dict(scores)


def test_a_run_that_is_stopped_in_the_curve_ends_with_the_same_result(forks, tmp_path):
    found = []
    for name in ("straight", "stopped"):
        cwd = tmp_path / name
        cwd.mkdir()
        if name == "stopped":
            fault = Fault("metaexp.evaluation.shots_curve:evaluate", 2, 15)
            assert forks(*TINY, "algo=metasgd", cwd=cwd, fault=fault).code == 143
            assert forks(f"resume={next((cwd / 'outputs').iterdir())}", cwd=cwd).code == 0
        else:
            ended = forks(*TINY, "algo=metasgd", cwd=cwd)
            assert ended.code == 0, ended.err
            for floor in ("mean", "neighbour", "oracle", "scratch"):
                assert f"mse, {baseline_label(floor)}" in ended.out
        _, result, scores = ended_run(cwd)
        found.append({key: result[key] for key in ("test", "floors", "shots")})
    assert found[0] == found[1]
    assert list(result["floors"]) == ["mean", "neighbour", "oracle", "scratch"]
    assert result["adapted_parameters"] == 8 + 8 + 8 + 1
    assert result["parameters"] == 2 * result["adapted_parameters"]
    assert result["shots"]["shots"] == scores["shots"].tolist() == [1, 2, 5, 10, 20]
    assert result["shots"]["metrics"]["mse"] == by_shots(scores["shots_curve_mse"])
    assert list(result["shots"]["floors"]) == ["mean", "neighbour", "oracle"]
    for floor, values in result["shots"]["floors"].items():
        assert values["mse"] == by_shots(scores[f"shots_curve_floor_{floor}_mse"])
    assert np.array_equal(scores["shots_curve_mse"][:, 3], scores["mse"][:6, -1])


def test_an_oracle_as_a_method_is_its_own_floor(forks, tmp_path):
    ended = forks(*TINY, "algo=oracle", "test.curve_shots=[]", cwd=tmp_path, pictures=True)
    assert ended.code == 0, ended.err
    run, result, scores = ended_run(tmp_path)
    assert np.array_equal(scores["mse"], scores["floor_oracle_mse"])
    assert result["test"]["mse"]["mean"] == result["steps"] == result["parameters"] == 0
    assert result["shots"]["shots"] == []
    assert (run / "figures" / "test_episodes.png").exists()
