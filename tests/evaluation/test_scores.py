"""Testing a learner: intervals, diverged tasks, floors, frozen tasks; losses and metrics by hand."""

import hashlib
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from metaexp.algos.maml import MAML
from metaexp.algos.protonet import ProtoNet
from metaexp.algos.reptile import Reptile
from metaexp.contract import new, pictures, task
from metaexp.evaluation.baselines import baselines
from metaexp.evaluation.calibration import calibration
from metaexp.evaluation.intervals import summary
from metaexp.evaluation.scores import Scores, evaluate
from metaexp.losses import cross_entropy, mse
from metaexp.metrics import accuracy, coverage
from metaexp.models.linear import Linear
from metaexp.models.mlp import MLP
from metaexp.tasks.sine import Sine

F64 = torch.float64

# --- losses and metrics ---------------------------------------------------------------------------------------------


def test_losses_by_hand():
    torch.manual_seed(0)
    a, b = torch.randn(7, 3, dtype=F64), torch.randn(7, 3, dtype=F64)
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 0])
    one_hot = torch.eye(3, dtype=F64)[labels]
    assert abs(float(mse(a, b) - F.mse_loss(a, b))) < 1e-15
    assert abs(float(cross_entropy(a, one_hot) - F.cross_entropy(a, labels))) < 1e-15
    soft = torch.softmax(b, -1)
    assert abs(float(cross_entropy(a, soft) - F.cross_entropy(a, soft))) < 1e-15
    assert accuracy(a, one_hot) == (a.argmax(-1) == labels).double().mean()
    assert accuracy(one_hot, one_hot) == 1
    assert accuracy(-one_hot, one_hot) == 0


@pytest.mark.parametrize("loss", [mse, cross_entropy, accuracy])
def test_over_no_examples_a_loss_is_0(loss):
    assert loss(torch.zeros(0, 3), torch.zeros(0, 3)) == 0


# --- summaries ------------------------------------------------------------------------------------------------------


def test_summary_by_hand():
    values = np.array([[4.0, 1.0], [5.0, 2.0], [9.0, 6.0]])
    found = summary(values)
    assert found["tasks"] == 3
    assert found["diverged"] == 0
    assert found["mean"] == 3.0
    assert found["ci95"] == pytest.approx(1.96 * math.sqrt(7) / math.sqrt(3), rel=1e-15)  # s^2 = (4 + 1 + 9) / 2
    assert found["median"] == 2.0
    assert [summary(values, way)["worst"] for way in (False, True, None)] == [6.0, 1.0, 1.0]
    assert [summary(values, way)["larger_is_better"] for way in (False, True, None)] == [False, True, None]
    assert [point["mean"] for point in found["per_step"]] == [6.0, 3.0]
    assert found["per_step"][0]["ci95"] == pytest.approx(1.96 * math.sqrt(7) / math.sqrt(3), rel=1e-15)
    assert found["per_step"][1] == {key: found[key] for key in ("mean", "ci95", "median", "median_ci")}


def test_interval_covers_95_percent():
    """Of 2000 samples of 200 tasks each, between 93.5 and 96.5 % of the intervals hold the true mean."""
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        found = summary(draw.exponential(size=(200, 1)))
        hits += abs(found["mean"] - 1) < found["ci95"]
    assert 0.93 < hits / 2000 < 0.965


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_diverged_tasks_are_counted_and_left_out(bad):
    values = np.array([[4.0, 1.0], [bad, 100.0], [100.0, bad], [9.0, 6.0]])
    found = summary(values, False)
    assert (found["tasks"], found["diverged"]) == (4, 2)
    assert (found["mean"], found["median"], found["worst"]) == (3.5, 3.5, 6.0)
    assert found["per_step"][0]["mean"] == 6.5
    kept = summary(values[[0, 3]])
    assert found["ci95"] == kept["ci95"]
    none = summary(np.full((3, 2), bad))
    assert (none["mean"], none["ci95"], none["median"], none["worst"], none["diverged"]) == (None, None, None, None, 3)
    assert none["per_step"] == [dict.fromkeys(("mean", "ci95", "median", "median_ci"))] * 2


def test_a_classifier_that_diverged_is_no_lucky_guess():
    """Logits of NaN have a largest one for argmax: the class 0 of every task."""

    class Broken(ProtoNet):
        def predict(self, adapted, x):
            return super().predict(adapted, x) + torch.where(adapted.sum() > self.border, math.nan, 0.0)

        def reader(self, mode, support, x):
            return lambda adapted: self.predict(adapted, x)

    learner = new(lambda f: Broken(f, partial(MLP, hidden=[16])), pictures(ways=3))
    one = learner.family.sample("test", torch.arange(20))
    with torch.no_grad():
        sums = torch.stack([learner.adapt(task(one, i).support, one.key[i]).sum() for i in range(20)])
    learner.border = float(sums.sort().values[14])
    found = evaluate(learner, "test", 20, ["queries"], calibrate=True)
    bad = (sums > learner.border).numpy()
    assert (np.isnan(found.arrays["accuracy"][:, 0]) == bad).all()
    told = summary(found.arrays["accuracy"], True)
    assert told["diverged"] == 5
    (sums,) = found.calibration.values()
    assert calibration(sums)["diverged"] == 5
    assert math.isnan(coverage(0.9)(torch.tensor([[math.nan, 1.0]]), torch.zeros(1, 1)))
    assert math.isnan(coverage(0.9)(torch.tensor([[0.0, math.nan]]), torch.zeros(1, 1)))


def test_one_task_has_no_spread():
    assert summary(np.array([[2.0]]))["ci95"] == 0.0


# --- evaluate -------------------------------------------------------------------------------------------------------


def test_scores_by_hand_on_frozen_tasks():
    family = Sine(5, 20).to("cpu", F64)
    learner = new(lambda f: MAML(f, partial(MLP, hidden=[6]), inner_lr=0.02, inner_steps=1, test_steps=3), family)
    scores = evaluate(learner, "val", 12, ["queries"], chunk=5)
    episode = family.sample("val", torch.arange(12))
    of_x, of_y = (hashlib.sha256(part.numpy().tobytes()).digest() for part in episode.query)
    assert scores.query_sha256 == hashlib.sha256(of_x + of_y).hexdigest()
    assert scores.indices.tolist() == list(range(12))
    assert list(scores.arrays) == ["mse"]
    assert scores.arrays["mse"].dtype == np.float64
    params = {name: p.detach() for name, p in learner.model.named_parameters()}
    for i in range(12):
        p = {name: value.clone().requires_grad_() for name, value in params.items()}
        for step in range(4):
            with torch.no_grad():
                expected = F.mse_loss(functional_call(learner.model, p, episode.query.x[i]), episode.query.y[i])
            assert abs(scores.arrays["mse"][i, step] - float(expected)) < 1e-12 * max(1.0, float(expected))
            loss = F.mse_loss(functional_call(learner.model, p, episode.support.x[i]), episode.support.y[i])
            grads = torch.autograd.grad(loss, list(p.values()))
            p = {k: (v - 0.02 * g).detach().requires_grad_() for (k, v), g in zip(p.items(), grads, strict=True)}


def test_the_hash_tells_query_sets_apart():
    family = Sine(5, 20).to("cpu", F64)
    learner = new(lambda f: MAML(f, partial(MLP, hidden=[6])), family)
    same = {evaluate(learner, "test", 12, ["queries"]).query_sha256 for _ in range(2)}
    other_seed = Sine(5, 20, seed=9).to("cpu", F64)  # of the training tasks: the test stays
    same.add(evaluate(new(lambda f: MAML(f, Linear), other_seed, 3), "test", 12, ["queries"]).query_sha256)
    fewer_shots = Sine(1, 20).to("cpu", F64)  # the queries stay
    same.add(evaluate(new(lambda f: MAML(f, Linear), fewer_shots), "test", 12, ["queries"]).query_sha256)
    assert len(same) == 1
    others = [("val", 12, family), ("test", 11, family), ("test", 12, Sine(5, 19).to("cpu", F64))]
    others.append(("test", 12, Sine(5, 20, eval_seed=1).to("cpu", F64)))
    for split, tasks, changed in others:
        learner.family = changed
        assert evaluate(learner, split, tasks, ["queries"]).query_sha256 not in same


def test_diagnostics_and_ticks():
    family = Sine(5, 5).to("cpu", F64)
    learner = new(lambda f: MAML(f, Linear), family)
    ticks: list[int] = []
    scores = evaluate(learner, "val", 7, ["queries"], chunk=3, diagnose=True, tick=ticks.append)
    assert ticks == [3, 6, 7]
    x, y = family.sample("val", torch.arange(7)).support
    w, b = learner.model.head.weight.detach(), learner.model.head.bias.detach()
    residual = x * w + b - y
    norm = torch.sqrt((2 * residual * x).mean((1, 2)) ** 2 + (2 * residual).mean((1, 2)) ** 2)
    assert abs(scores.arrays["inner_gradient_norm"][:, 0] - norm.numpy()).max() < 1e-12
    assert scores.first("mse") is scores.arrays["mse"]


def test_the_first_metric_is_that_of_the_first_mode():
    arrays = {"accuracy_transductive": np.ones((1, 1)), "accuracy": np.zeros((1, 1))}
    assert Scores(arrays, np.arange(1), "").first("accuracy")[0, 0] == 1


def test_a_test_of_no_steps():
    family = Sine(5, 5).to("cpu", F64)
    for make in (
        lambda f: MAML(f, Linear, test_steps=0),
        lambda f: Reptile(f, Linear, test_steps=0, inner_batch=2),
    ):
        assert evaluate(new(make, family), "test", 4, ["queries"]).arrays["mse"].shape == (4, 1)


# --- floors ---------------------------------------------------------------------------------------------------------


def mean_floor(family, tasks, chunk=100):
    return baselines(family, "test", tasks, ["mean"], chunk=chunk)["mean"]


def test_mean_predictor_on_sines():
    family = Sine(5, 20).to("cpu", F64)
    found = mean_floor(family, 30, chunk=7)
    episode = family.sample("test", torch.arange(30))
    mean = episode.support.y.mean(1, keepdim=True)
    assert list(found) == ["mse"]
    assert abs(found["mse"][:, 0] - ((mean - episode.query.y) ** 2).mean((1, 2)).numpy()).max() < 1e-14


def test_mean_predictor_of_many_shots_is_the_variance():
    """E[A^2] / 2 for A ~ U[0.1, 5], x over whole periods: 4.25."""
    family = Sine(500, 500, x_range=(-math.pi, math.pi)).to("cpu", F64)
    found = mean_floor(family, 2000)["mse"]
    expected = (5**3 - 0.1**3) / (3 * 4.9) / 2
    assert abs(found.mean() - expected) < 4 * found.std() / math.sqrt(2000)


@pytest.mark.parametrize("ways", [2, 3, 5])
def test_mean_predictor_on_classes_is_chance(ways):
    found = mean_floor(pictures(ways=ways), 20)
    assert list(found) == ["accuracy"]
    assert found["accuracy"].shape == (20, 1)
    assert abs(found["accuracy"] - 1 / ways).max() < 1e-15


def test_mean_predictor_without_queries():
    for family in (pictures(queries=0), Sine(5, 0).to("cpu", F64)):
        assert all((values == 0).all() for values in mean_floor(family, 3).values())


# --- predictions that the test keeps


def test_predictions_are_those_of_the_scored_pass_and_move_no_bit():
    family = Sine(shots=3, queries=5).to("cpu", F64)
    learner = new(lambda f: MAML(f, partial(MLP, hidden=[6]), inner_lr=0.01, inner_steps=2), family)
    plain, kept = (evaluate(learner, "test", 230, ["queries"], chunk=100, keep=keep) for keep in (False, True))
    assert plain.predictions == ()
    assert np.array_equal(plain.arrays["mse"], kept.arrays["mse"])
    assert plain.query_sha256 == kept.query_sha256
    assert [len(chunk.indices) for chunk in kept.predictions] == [100, 100, 30]
    (suffix,) = kept.predictions[0].values
    found = np.concatenate([chunk.values[suffix] for chunk in kept.predictions])
    episode = learner.family.sample("test", torch.arange(230))
    assert found.shape == (230, 5, 1)
    errors = ((found - episode.query.y.double().numpy()) ** 2).mean((1, 2))
    assert np.allclose(errors, kept.arrays["mse"][:, -1], rtol=1e-5)
