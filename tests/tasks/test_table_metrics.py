"""Metrics and forecasts on tables: as scikit-learn has them, in the unit of the target, from every origin."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from made_table import regression_and_classes, rows, table, write
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from metaexp import metrics
from metaexp.algos.forecasts import Drift, Last
from metaexp.algos.maml import MAML
from metaexp.algos.mean import Mean
from metaexp.algos.r2d2 import R2D2
from metaexp.evaluation.baselines import baselines
from metaexp.evaluation.scores import evaluate
from metaexp.models.linear import Linear
from metaexp.models.mlp import MLP
from metaexp.outer.loaders import Span
from metaexp.outer.meta_training import MetaTraining
from metaexp.types import Examples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return regression_and_classes(tmp_path_factory.mktemp("tables"))


@pytest.mark.parametrize("ways", [2, 3])
def test_auc_and_balanced_accuracy_are_those_of_scikit_learn(ways):
    draw = torch.Generator().manual_seed(ways)
    for n in (5, 40, 300):
        logits = torch.randn(n, ways, generator=draw, dtype=torch.float64).round(decimals=1)  # with ties
        labels = torch.cat([torch.arange(ways), torch.randint(ways, (n - ways,), generator=draw)])
        target = torch.eye(ways, dtype=torch.float64)[labels]
        chance = torch.softmax(logits, -1)
        scores = (logits[:, 1] - logits[:, 0]) if ways == 2 else chance
        wanted = roc_auc_score(labels, scores, multi_class="ovr") if ways > 2 else roc_auc_score(labels, scores)
        assert float(metrics.auc(logits, target)) == pytest.approx(wanted, abs=1e-12)
        wanted = balanced_accuracy_score(labels, logits.argmax(-1))
        assert float(metrics.balanced_accuracy(logits, target)) == pytest.approx(wanted, abs=1e-12)
    mapped = torch.func.vmap(metrics.auc)(torch.stack([logits] * 3), torch.stack([target] * 3))
    assert mapped.tolist() == pytest.approx([float(metrics.auc(logits, target))] * 3)
    assert metrics.auc(logits, target[:1].expand(n, ways)).isnan()  # one class
    logits[0, 0] = torch.nan
    assert metrics.auc(logits, target).isnan()
    assert metrics.balanced_accuracy(logits, target).isnan()


def test_mase_is_the_error_over_that_of_as_before():
    support = torch.tensor([[1.0], [3.0], [2.0], [6.0]])  # steps 2, 1, 4
    prediction, target = torch.tensor([[5.0], [9.0]]), torch.tensor([[7.0], [6.0]])  # errors 2, 3
    assert float(metrics.mase(prediction, target, support)) == pytest.approx(2.5 / (7 / 3))
    assert metrics.mase(prediction, target, support[:1]).isnan()
    assert metrics.mase(prediction, target, torch.ones(3, 1)).isnan()
    assert float(metrics.in_units(metrics.mae, 3.0)(prediction, target)) == pytest.approx(7.5)


def test_metrics_are_in_the_unit_of_the_target(folder):
    family = table(folder / "reg.csv")
    learner = Mean(family)
    scores = evaluate(learner, "test", 100, ["queries"])
    frame = pd.read_csv(folder / "reg.csv")
    index = {i: task for run in family.runs("test", 100) for i, task in
             zip(run.tolist(), family.sample("test", run).info["task"].tolist(), strict=True)}  # fmt: skip
    assert scores.indices.tolist() == sorted(index)
    for run in family.runs("test", 100):
        used = family.sample("test", run).info["rows"]
        for i, places in zip(run.tolist(), used.tolist(), strict=True):
            y = frame[frame.school == family.names[index[i]]].score.to_numpy()[places]
            error = y[5:] - y[:5].mean()
            for name, value in (("mse", (error**2).mean()), ("rmse", np.sqrt((error**2).mean())),
                                ("mae", np.abs(error).mean())):  # fmt: skip
                assert scores.arrays[name][i, 0] == pytest.approx(value, rel=1e-4)
    with pytest.raises(ValueError, match="metric=auc: must be one of mse, rmse, mae"):
        table(folder / "reg.csv", metric="auc")
    assert next(iter(table(folder / "cls.csv", metric="auc").metrics)) == "auc"


def test_a_default_method_beats_pooled_regression_with_an_offset(tmp_path):
    family = table(write(tmp_path / "t.csv", rows(tasks=140, seed=5)), bucket=16)
    pooled = Ridge(1.0).fit(family.x[family.rows].numpy(), family.y[family.rows].numpy())
    torch.manual_seed(0)
    learner = R2D2(family, partial(MLP, hidden=[40, 40]))
    adam = torch.optim.Adam(learner.parameters(), 3e-3)
    MetaTraining(learner, adam, None, steps=200, meta_batch=16).run(Span(0, 200))
    scores = evaluate(learner, "test", 1000, ["queries"]).arrays["mse"][:, -1]
    floor = np.zeros(len(scores))
    for run in family.runs("test", 1000):
        episode = family.sample("test", run)
        for place, x, y, asked, true in zip(
            run, *map(torch.Tensor.numpy, [*episode.support, *episode.query]), strict=False
        ):
            offset = (y - pooled.predict(x).reshape(-1, 1)).mean()
            error = pooled.predict(asked).reshape(-1, 1) + offset - true
            floor[place] = (error**2).mean() * float(family.y_std) ** 2
    assert scores.mean() < 0.9 * floor.mean()
    assert (scores < floor).mean() > 0.6


# --- forecasts --------------------------------------------------------------------------------------------------------


def test_forecasts_from_every_origin_against_a_loop_by_hand(tmp_path):
    draw = np.random.default_rng(3)
    made = [[t, year, f"{draw.normal():.4f}", f"{t + 0.1 * year * (t % 3) + draw.normal():.4f}"]
            for t in range(12) for year in draw.permutation(7 + t % 4)]  # fmt: skip
    path = write(tmp_path / "t.csv", made, ["land", "year", "noise", "y"])
    family = table(path, by="land", target="y", order="year", horizon=2, shots=3)
    found = baselines(family, "test", 100, names=("last", "drift", "mean"))
    assert set(found) == {"last", "drift", "mean"}
    frame = pd.read_csv(path)
    for place, unit in enumerate(family._units["test"]):
        y = frame[frame.land == int(family.names[unit.task])].sort_values("year").y.to_numpy()
        errors = {"last": [], "drift": [], "mean": []}
        for origin in range(3, len(y) - 1):
            known, asked = y[origin - 3 : origin], y[origin : origin + 2]
            guesses = {
                "last": known[-1],
                "drift": known[-1] + (known[-1] - known[0]) / 2 * np.array([1, 2]),
                "mean": known.mean(),
            }
            naive = np.abs(np.diff(known)).mean()
            for name, guess in guesses.items():
                errors[name].append((np.abs(asked - guess).mean(), np.abs(asked - guess).mean() / naive))
        for name, values in errors.items():
            mae, mase = np.mean(values, axis=0)
            assert found[name]["mae"][place, 0] == pytest.approx(mae, rel=1e-3)
            assert found[name]["mase"][place, 0] == pytest.approx(mase, rel=1e-3)
    episode = family.sample("train", torch.arange(200))
    starts = episode.info["rows"][:, 0]
    assert torch.equal(episode.info["rows"], starts[:, None] + torch.arange(5))
    assert starts.max() > 3
    learner = MAML(family, Linear(family.x_shape, 1))
    scores = evaluate(learner, "test", 100, ["queries"], final=True)
    assert scores.indices.tolist() == list(range(len(family._units["test"])))
    loss, logs = learner(episode)
    assert loss.isfinite()
    assert "mase" not in logs
    for learner in (Last(family), Drift(family)):
        nothing = learner.adapt(Examples(episode.support.x[0, :0], episode.support.y[0, :0]), episode.key[0])
        assert learner.predict(nothing, episode.query.x[0]).abs().sum() == 0
    with pytest.raises(ValueError, match=r"horizon=2: a forecast needs task.order"):
        table(path, by="land", target="y", horizon=2)


def test_no_shots_are_legal_and_give_a_loss_of_zero_or_the_prior(folder):
    family = table(folder / "cls.csv", shots=[0, 6], queries=4, bucket=2, test={"queries": 2})
    learner = R2D2(family, Linear(family.x_shape, 2))
    for first in range(0, 40, 2):
        loss, _ = learner(family.sample("train", torch.arange(first, first + 2)))
        assert loss.isfinite()
    scores = evaluate(learner, "test", 100, ["queries"], shots=0)
    assert np.isfinite(scores.arrays["accuracy"]).all()
    assert (scores.arrays["log_likelihood"] == scores.arrays["log_likelihood"][0]).all()  # nothing is known of any task
