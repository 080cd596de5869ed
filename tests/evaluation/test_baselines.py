"""Mean, neighbour and oracle as methods and as floors; what `adapt` returns, counted."""

from functools import partial

import numpy as np
import pytest
import torch

from metaexp.algos.base import MetaLearner
from metaexp.algos.maml import MAML
from metaexp.algos.mean import Mean
from metaexp.algos.neighbour import Neighbour
from metaexp.algos.oracle import Oracle
from metaexp.algos.protonet import ProtoNet
from metaexp.config.settings import load
from metaexp.contract import new, pictures, task
from metaexp.errors import ConfigError
from metaexp.evaluation.baselines import baseline_metrics, baselines
from metaexp.evaluation.scores import evaluate
from metaexp.losses import as_logits
from metaexp.metrics import direction, fair_accuracy
from metaexp.models.mlp import MLP
from metaexp.tasks.gp import GP
from metaexp.tasks.linear import Linear as LinearTasks
from metaexp.tasks.quadratic import Quadratic
from metaexp.tasks.sine import Sine
from metaexp.training.final_test import adapted_parameters
from metaexp.types import Examples

F64 = torch.float64
NET = partial(MLP, hidden=[6])


# --- the methods ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family",
    [Sine(7, 9), LinearTasks(6, 5, inputs=3, outputs=2), pictures(side=2, ways=4)],
    ids=["sine", "linear", "x"],
)
def test_neighbour_equals_a_numpy_loop_over_200_tasks(family):
    family.to("cpu", F64)
    episode = family.sample("test", torch.arange(200))
    found = baselines(family, "test", 200, ["neighbour"], chunk=64)["neighbour"]
    (name,) = found
    for i in range(200):
        (x, y), (queries, targets) = ([part[i].numpy() for part in pair] for pair in (episode.support, episode.query))
        guess = []
        for query in queries:
            distances = [((query.ravel() - one.ravel()) ** 2).sum() for one in x]
            guess.append(y[distances.index(min(distances))])
        if family.classification:
            expected = np.mean(np.argmax(guess, -1) == targets.argmax(-1))
        else:
            expected = ((np.array(guess) - targets) ** 2).mean()
        assert abs(found[name][i, 0] - expected) < 1e-12


def test_of_equally_near_neighbours_the_first_counts():
    learner = Neighbour(Sine(3, 1).to("cpu", F64))
    support = Examples(
        torch.tensor([[1.0], [3.0], [1.0]], dtype=F64), torch.tensor([[10.0], [20.0], [30.0]], dtype=F64)
    )
    key = torch.tensor(0)
    queries = torch.tensor([[2.0], [0.5], [2.5], [1e9]], dtype=F64)
    assert learner.predict(learner.adapt(support, key), queries).flatten().tolist() == [10, 10, 20, 20]
    swapped = Examples(support.x.flip(0), support.y.flip(0))
    assert learner.predict(learner.adapt(swapped, key), queries).flatten().tolist() == [30, 30, 20, 20]
    far = Examples(support.x + 1e8, support.y)  # where an expanded square has lost all digits
    assert learner.predict(learner.adapt(far, key), queries[2:3] + 1e8).item() == 20


def test_mean_is_the_frequency_of_the_classes_and_ties_are_shared():
    learner = Mean(pictures(ways=3))
    y = torch.eye(3, dtype=F64)[[0, 0, 1]]
    logits = learner.predict(
        learner.adapt(Examples(torch.zeros(3, 1, dtype=F64), y), torch.tensor(0)), torch.zeros(5, 1)
    )
    assert logits.shape == (5, 3)
    assert torch.allclose(torch.softmax(logits, -1), torch.tensor([2, 1, 0], dtype=F64) / 3, atol=1e-15)
    assert learner.metrics["accuracy"] is fair_accuracy
    eye = torch.eye(3, dtype=F64)
    tied = as_logits(torch.tensor([[0.5, 0.5, 0.0], [0.4, 0.4, 0.2], [0.2, 0.2, 0.6]], dtype=F64))
    assert fair_accuracy(tied, eye) == pytest.approx((0.5 + 0.5 + 1) / 3, rel=1e-15)
    assert fair_accuracy(tied, eye[[2, 2, 0]]) == 0


@pytest.mark.parametrize("make", [Mean, Neighbour])
def test_without_support_examples(make):
    for family in (Sine(5, 4).to("cpu", F64), pictures()):
        learner = make(family)
        episode = task(family.sample("test", torch.arange(1)), 0)
        empty = Examples(episode.support.x[:0], episode.support.y[:0])
        prediction = learner.predict(learner.adapt(empty, episode.key), episode.query.x)
        assert prediction.shape == episode.query.y.shape
        assert (prediction == prediction[0, 0]).all()


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_error_of_an_oracle_is_that_of_the_noise(noise, dtype):
    for family in (Sine(5, 100, noise=noise), LinearTasks(5, 50, inputs=3, outputs=2, bias=True, noise=noise)):
        family.to("cpu", dtype)
        values = baselines(family, "test", 300)["oracle"]["mse"]
        assert values.shape == (300, 1)
        if noise == 0:
            assert (values == 0).all()
        else:
            assert abs(values.mean() - noise**2) < 4 * values.std() / 300**0.5
            assert values.std() / 300**0.5 < 0.01 * noise**2


class Known(Sine):
    """Noisy sinusoids whose oracle knows the noise too."""

    gaussian_oracle = True

    def oracle(self, episode, x):
        mean = super().oracle(episode, x)
        return torch.cat((mean, torch.full_like(mean, self.noise)), -1)


def test_a_gaussian_oracle_has_the_likelihood_of_the_noise():
    family = Known(5, 200, noise=0.3).to("cpu", F64)
    found = baselines(family, "test", 200)["oracle"]
    assert list(found) == ["log_likelihood", "mse", "coverage50", "coverage90"]
    assert abs(found["mse"].mean() - 0.09) < 4 * found["mse"].std() / 200**0.5
    expected = -0.5 * np.log(2 * np.pi * 0.09) - found["mse"] / (2 * 0.09)
    assert abs(found["log_likelihood"] - expected).max() < 1e-12


def test_who_has_no_oracle_is_told_so():
    with pytest.raises(ValueError, match="family: nobody knows the best prediction for Classes"):
        Oracle(pictures())
    with pytest.raises(ConfigError, match="algo=oracle needs oracle known, task=omniglot gives none; use algo="):
        load(["algo=oracle", "task=omniglot"])
    oracle, one = Oracle(Sine(5, 5)), task(Sine(5, 5).sample("test", torch.arange(1)), 0)
    with pytest.raises(ValueError, match="it cannot adapt to examples from elsewhere"):
        oracle.adapt(one.support, one.key)


def test_only_who_reads_info_sees_it():
    class Curious(MAML):
        def test_path(self, episode):
            assert episode.info == {}
            return super().test_path(episode)

    family = Sine(5, 5).to("cpu", F64)
    evaluate(new(lambda f: Curious(f, NET), family), "test", 4, ["queries"])
    found = [
        evaluate(Oracle(family, mapping=m), "test", 9, ["queries"], chunk=4).arrays["mse"] for m in ("vmap", "loop")
    ]
    assert (found[0] == 0).all()
    assert (found[1] == 0).all()


def test_floors_are_the_same_learners_on_the_same_tasks():
    family = Sine(5, 20, noise=0.1).to("cpu", F64)
    found = baselines(family, "test", 30)
    assert list(found) == ["mean", "neighbour", "oracle"]
    for name, make in (("mean", Mean), ("neighbour", Neighbour), ("oracle", Oracle)):
        alone = evaluate(make(family), "test", 30, ["queries"], chunk=7).arrays["mse"]
        assert abs(found[name]["mse"] - alone).max() < 1e-12
        few = evaluate(make(family), "test", 30, ["queries"], shots=2).arrays["mse"]
        assert abs(baselines(family, "test", 30, [name], shots=2, chunk=11)[name]["mse"] - few).max() < 1e-12
    assert list(baselines(pictures(), "test", 3)) == ["mean", "neighbour"]
    assert list(baselines(family, "val", 3, ["mean"])) == ["mean"]


def test_the_neighbour_is_no_floor_where_the_queries_stand_in_the_support_set():
    """It would look them up: its error is 0 whatever the method learned."""
    assert evaluate(Neighbour(Quadratic(4, dim=3)), "test", 20, ["queries"]).arrays["mse"].max() == 0
    assert list(baselines(Quadratic(4, dim=3), "test", 20)) == ["mean", "oracle"]
    fresh = baselines(Quadratic(4, dim=3, noise=0.1, fresh=True), "test", 20)
    assert list(fresh) == ["mean", "neighbour", "oracle"]
    assert fresh["neighbour"]["mse"].min() > 0


def test_oracles_do_not_round_in_half_precision():
    family = Quadratic().to("cpu", torch.float32)
    exact = baselines(family, "test", 20)["oracle"]["mse"]
    with torch.autocast("cpu", torch.bfloat16):
        found = baselines(family, "test", 20)["oracle"]["mse"]
    assert np.array_equal(found, exact)
    assert exact.max() < 1e-6


def test_what_adapt_returns_is_counted():
    family, classes = Sine(5, 20).to("cpu", F64), pictures(side=4, ways=3, shots=2)
    whole = 6 + 6 + 6 + 1
    assert adapted_parameters(new(lambda f: MAML(f, NET), family)) == whole
    assert adapted_parameters(new(lambda f: MAML(f, NET, adapt=["head.*"]), family)) == 6 + 1
    assert adapted_parameters(new(lambda f: ProtoNet(f, NET), classes)) == 3 * 6
    counts = {Mean: 3, Neighbour: 6 * (16 + 3)}
    assert {make: adapted_parameters(make(classes)) for make in counts} == counts
    assert adapted_parameters(Oracle(family)) == 0


def test_the_shell_has_no_info_by_default():
    assert MetaLearner.reads_info is False
    assert [make.reads_info for make in (Mean, Neighbour, Oracle)] == [False, False, True]


def test_the_baselines_metrics_have_directions():
    """Of the oracle of a Gaussian process, too, whose metrics no point predictor has."""
    known = baseline_metrics(GP())
    assert list(known) == ["mse", "log_likelihood", "coverage50", "coverage90"]
    assert [direction(known, name) for name in known] == [False, True, None, None]
    assert list(baseline_metrics(pictures())) == ["accuracy"]
