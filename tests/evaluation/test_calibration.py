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
from metaexp.evaluation.calibration import BINS, bin_sums, calibration, corrected_error, curve, error, null
from metaexp.evaluation.scores import evaluate
from metaexp.loggers.result_table import result_rows
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
    assert (told["corrected"], told["ci95"]) == (None, None)  # one task shows no spread
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


# How far the accuracy is from the confidence, bin by bin, by name.
TRUE = {
    "calibrated": np.zeros(BINS),
    "a little everywhere": np.full(BINS, 0.02),
    "in one bin": 0.1 * (np.arange(BINS) == 13),
    "with either sign": 0.05 * (-1.0) ** np.arange(BINS) * (np.arange(BINS) > 0),
    "growing": np.linspace(0, 0.1, BINS),
}
SHARES = {  # of the queries in every bin
    "all bins alike": np.full(BINS, 1 / BINS),
    "mostly sure": np.array([0] * 7 + [0.02, 0.03, 0.05, 0.05, 0.1, 0.15, 0.2, 0.4]),
}


def simulated(over: np.ndarray, share: np.ndarray, tests: int, tasks: int = 200, queries: int = 20) -> np.ndarray:
    """Bin sums [tests, tasks, 3, BINS] of queries with a confidence in the middle of their bin, right less often by
    `over`, each task being a little better or worse than that, as tasks are."""
    draw = np.random.default_rng(0)
    count = draw.multinomial(queries, share, (tests, tasks))
    confidence = (np.arange(BINS) + 0.5) / BINS
    room = np.minimum(confidence - over, 1 - confidence + over)
    chance = confidence - over + np.minimum(room, 0.2) * draw.uniform(-1, 1, (tests, tasks, 1))
    return np.stack([count, count * confidence, draw.binomial(count, chance)], 2)


def coverage(kind: str, shares: str, tests: int) -> tuple[float, float, float, float]:
    """Of simulated tests: how often the interval covers the true error, `value` is in the interval of calibrated
    models; mean of the corrected and of the plain error, minus the true one."""
    over, share = TRUE[kind], SHARES[shares]
    true = float((share * np.abs(over)).sum())
    told = [calibration(sums, draws=200) for sums in simulated(over, share, tests)]
    inside = [one["ci95"][0] - 1e-12 <= true <= one["ci95"][1] + 1e-12 for one in told]
    chance = [one["null95"][0] <= one["value"] <= one["null95"][1] for one in told]
    off = [float(np.mean([one[key] for one in told])) - true for key in ("corrected", "value")]
    return float(np.mean(inside)), float(np.mean(chance)), off[0], off[1]


def test_the_interval_covers_a_true_error_of_zero_and_the_correction_removes_the_noise() -> None:
    """60 tests each; 300 of them in the tier `long`, whose numbers are in docs/statistics.md."""
    for shares in SHARES:
        covered, chance, corrected, plain = coverage("calibrated", shares, 60)
        assert covered >= 0.93
        assert chance >= 0.85  # tasks that are better or worse than they say spread a little more than by chance
        assert corrected < 0.25 * plain
        assert plain > 0.009


@pytest.mark.parametrize("kind", ["a little everywhere", "in one bin", "with either sign"])
def test_the_interval_covers_a_true_error(kind: str) -> None:
    covered, chance, corrected, _ = coverage(kind, "mostly sure", 40)
    assert covered >= 0.9
    assert abs(corrected) < 0.006
    assert chance < 0.4 or kind == "a little everywhere"


@pytest.mark.tier("long")
@pytest.mark.parametrize("shares", list(SHARES))
@pytest.mark.parametrize("kind", list(TRUE))
def test_coverage_of_many_simulated_tests(kind: str, shares: str) -> None:
    covered, chance, corrected, plain = coverage(kind, shares, 300)
    print(f"| {kind} | {shares} | {covered:.3f} | {chance:.3f} | {corrected:+.4f} | {plain:+.4f} |")
    assert covered >= (0.955 if kind == "calibrated" else 0.92)
    assert kind != "calibrated" or chance >= 0.9


def test_the_corrected_error_is_the_mean_over_all_ways_to_split_the_tasks() -> None:
    """Against splits drawn at random: the gap of one half with the sign of the other, for 3 bins and many tasks."""
    draw = np.random.default_rng(0)
    gaps = draw.normal([0.0, 0.01, 0.2], 1.0, (400, 3)) / 400
    halves = np.where(draw.random((4000, 400)) < 0.5, 1.0, 0.0)
    one, two = halves @ gaps, (1 - halves) @ gaps
    split = (np.sign(one) * two + np.sign(two) * one).sum(-1)
    deviation = np.sqrt((gaps**2).sum(0))
    assert corrected_error(gaps.sum(0), deviation) == pytest.approx(split.mean(), abs=4 * split.std() / 4000**0.5)
    z = draw.normal(size=(100_000, 1))
    assert corrected_error(z, np.ones(1)).mean() == pytest.approx(0, abs=0.015)  # nothing but noise
    assert np.abs(z).mean() > 0.79
    assert corrected_error(z + 5, np.ones(1)).mean() == pytest.approx(5, abs=0.015)
    middle = [float(corrected_error(z + size, np.ones(1)).mean()) - size for size in (0.5, 1, 1.5, 2)]
    assert -0.5 < min(middle) < -0.4


def test_where_calibrated_models_lie_is_simulated_from_their_own_confidences() -> None:
    """100 queries with confidence 0.75 in one bin: |hits - 75| / 100 by the binomial distribution."""
    total = np.zeros((3, BINS))
    total[:2, 11] = 100, 75
    low, high = null(total, draws=20_000)
    assert low == 0.0
    assert high == pytest.approx(0.097, abs=0.0051)  # 2.24 sqrt(0.75 0.25 / 100): of both signs together


def test_the_printed_result_has_a_line_for_it():
    told = {"mean": 0.9, "ci95": 0.01, "tasks": 10, "diverged": 0, "per_step": []}
    rows = result_rows({"test": {"accuracy": told | {"ece": {"value": 0.0123, "ci95": [0.0101, 0.0149]}}}})[1]
    assert rows[1][:2] == ["accuracy, calibration error", "0.0123 (0.0101 to 0.0149)"]
    new = {"value": 0.0123, "corrected": 0.0041, "ci95": [0.0, 0.0149], "null95": [0.008, 0.0131]}
    rows = result_rows({"test": {"accuracy": told | {"ece": new}}})[1]
    assert [row[:2] for row in rows[1:]] == [
        ["accuracy, calibration error", "0.0041 (0 to 0.0149)"],
        ["accuracy, not corrected", "0.0123 (0.008 to 0.0131 by chance alone)"],
    ]
    nothing = {"value": None, "ci95": None}
    assert len(result_rows({"test": {"accuracy": told | {"ece": nothing}}})[1]) == 1
