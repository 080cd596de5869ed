"""Expected calibration error: by hand, against a loop of numpy, pooled over tasks; its interval; the diagram."""

from functools import partial

import numpy as np
import pytest
import torch

from metaexp.algos.maml import MAML
from metaexp.algos.mean import Mean
from metaexp.algos.neighbour import Neighbour
from metaexp.contract import new, pictures
from metaexp.evaluation.baselines import baselines
from metaexp.evaluation.calibration import BINS, bin_sums, calibration, curve, error
from metaexp.evaluation.scores import evaluate
from metaexp.loggers.result_table import _result_rows
from metaexp.losses import as_logits
from metaexp.models.cnn4 import CNN4
from metaexp.models.mlp import MLP
from metaexp.tasks.sine import Sine

F64 = torch.float64


def logits(*confidence: float) -> torch.Tensor:
    """Two classes, the first with these probabilities."""
    return as_logits(torch.tensor([[c, 1 - c] for c in confidence], dtype=F64))


def test_by_hand():
    """Bin 10 of 15, (0.667, 0.733]: 0.7, 0.72, one of two right. Bin 14, (0.933, 1]: 0.95, 1 and 1, all right."""
    first, second = torch.tensor([1.0, 0.0], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    target = torch.stack([first, second, first, first, first])
    sums = bin_sums(logits(0.7, 0.72, 0.95, 1.0, 1.0), target).numpy()
    assert sums.shape == (3, BINS)
    assert np.flatnonzero(sums[0]).tolist() == [10, 14]
    assert sums[:, 10] == pytest.approx([2, 1.42, 1], rel=1e-12)
    assert sums[:, 14] == pytest.approx([3, 2.95, 3], rel=1e-12)
    expected = 2 / 5 * abs(0.71 - 0.5) + 3 / 5 * abs(2.95 / 3 - 1)
    assert error(sums) == pytest.approx(expected, rel=1e-12)
    told = calibration(sums[None])
    assert (told["queries"], told["tasks"], told["diverged"], told["bins"]) == (5, 1, 0, 15)
    assert told["ci95"] == pytest.approx([told["value"]] * 2)  # one task has no spread
    share, confidence, right = curve(sums)
    assert share[[10, 14]] == pytest.approx([0.4, 0.6])
    assert confidence[10] == pytest.approx(0.71)
    assert right[[10, 14]].tolist() == [0.5, 1.0]
    assert np.isnan(right[0])


def plain_error(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Bin by bin over all queries of all tasks, [n, ways] each."""
    e = np.exp(predictions - predictions.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    confidence, hit = p.max(1), p.argmax(1) == targets.argmax(1)
    total = 0.0
    for b in range(15):
        inside = [i for i in range(len(p)) if b / 15 < confidence[i] <= (b + 1) / 15]
        if inside:
            total += len(inside) / len(p) * abs(hit[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("mapping", ["vmap", "loop"])
def test_of_a_method_it_is_a_plain_loop_over_the_queries_of_all_tasks(mapping):
    make = partial(MAML, model=partial(MLP, hidden=[8]), inner_lr=1.0, test_steps=3, mapping=mapping)
    learner = new(lambda f: make(f), pictures(side=4, ways=4, queries=3))
    scores = evaluate(learner, "test", 60, ["queries"], chunk=25, calibrate=True)
    (sums,) = scores.calibration.values()
    assert sums.shape == (60, 3, 15)
    episode = learner.family.sample("test", torch.arange(60))
    predictions = []
    with torch.no_grad():
        for i in range(60):
            support = type(episode.support)(episode.support.x[i], episode.support.y[i])
            adapted = learner.path(support, episode.key[i], 3)[-1]
            predictions.append(learner.predict(adapted, episode.query.x[i]))
    expected = plain_error(torch.cat(predictions).numpy(), episode.query.y.flatten(0, 1).numpy())
    told = calibration(sums)
    assert told["value"] == pytest.approx(expected, rel=1e-10)
    assert told["queries"] == 60 * 4 * 3
    of_tasks = error(sums).mean()
    assert of_tasks > 1.5 * expected  # what a mean over tasks would say: noise
    assert list(scores.arrays) == ["accuracy"]
    hits = sums[:, 2].sum(1) / sums[:, 0].sum(1)
    assert hits == pytest.approx(scores.arrays["accuracy"][:, -1])


def test_every_mode_has_its_own_and_regression_none():
    learner = new(lambda f: MAML(f, partial(CNN4, filters=3)), pictures(side=16, ways=2))
    scores = evaluate(learner, "test", 4, ["queries", "single", "support"], calibrate=True)
    assert list(scores.calibration) == ["_transductive", "", "_support"]
    for suffix, sums in scores.calibration.items():
        assert sums[:, 2].sum(1) / 4 == pytest.approx(scores.arrays["accuracy" + suffix][:, -1])
    assert evaluate(learner, "test", 4, ["queries"]).calibration == {}
    sine = new(lambda f: MAML(f, partial(MLP, hidden=[4])), Sine(3, 3).to("cpu", F64))
    assert evaluate(sine, "test", 4, ["queries"], calibrate=True).calibration == {}


def test_of_the_baselines():
    """The mean says 1 / ways and is right so often; the neighbour is always sure."""
    family = pictures(side=2, ways=4, queries=3)
    (sums,) = evaluate(Mean(family), "test", 20, ["queries"], calibrate=True).calibration.values()
    assert calibration(sums)["value"] == pytest.approx(0, abs=1e-12)
    (sums,) = evaluate(Neighbour(family), "test", 20, ["queries"], calibrate=True).calibration.values()
    wrong = 1 - baselines(family, "test", 20)["neighbour"]["accuracy"].mean()
    assert wrong > 0.02
    assert calibration(sums)["value"] == pytest.approx(wrong, rel=1e-9)


def test_tasks_that_diverged_are_counted_and_left_out():
    target = torch.eye(2, dtype=F64).repeat(2, 1)
    good = torch.stack([bin_sums(logits(0.8, 0.8, 0.8, 0.3), target) for _ in range(3)]).numpy()
    bad = logits(0.8, 0.8, 0.8, 0.3)
    bad[1] = torch.nan
    both = np.concatenate([good, bin_sums(bad, target).numpy()[None]])
    told = calibration(both)
    assert (told["tasks"], told["diverged"], told["queries"]) == (4, 1, 12)
    assert told["value"] == calibration(good)["value"]
    none = calibration(np.zeros((3, 3, BINS)))
    assert (none["value"], none["ci95"], none["diverged"]) == (None, None, 3)


@pytest.mark.parametrize("over", [0.0, 0.02, 0.15])
def test_the_interval_covers_the_true_error(over):
    """Calibrated, and right less often than it says by so much: 100 tests of 200 tasks, 20 queries each.

    Confidences 0.7 and 0.9, each task being a little better or worse than that, as tasks are.
    """
    draw, covered, lengths = np.random.default_rng(0), 0, []
    for _ in range(100):
        place = draw.integers(0, 2, (200, 20))
        confidence = np.where(place == 0, 0.7, 0.9)
        hits = draw.random((200, 20)) < confidence - over + draw.uniform(-0.1, 0.1, (200, 1))
        sums = np.zeros((200, 3, BINS))
        for b, at in ((10, place == 0), (13, place == 1)):
            sums[:, :, b] = np.stack([at.sum(1), (at * confidence).sum(1), (at & hits).sum(1)], 1)
        low, high = calibration(sums, draws=300)["ci95"]
        covered += low <= over + 1e-12 <= high
        lengths.append(high - low)
    assert covered >= 85
    assert max(lengths) < 0.05


def test_the_printed_result_has_a_line_for_it():
    told = {"mean": 0.9, "ci95": 0.01, "tasks": 10, "diverged": 0, "per_step": []}
    rows = _result_rows({"test": {"accuracy": told | {"ece": {"value": 0.0123, "ci95": [0.0101, 0.0149]}}}})[1]
    assert rows[1][:2] == ["accuracy, calibration error", "0.0123 (0.0101 to 0.0149)"]
    nothing = {"value": None, "ci95": None}
    assert len(_result_rows({"test": {"accuracy": told | {"ece": nothing}}})[1]) == 1
