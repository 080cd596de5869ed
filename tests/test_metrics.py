"""Metrics as objects: directions, modes, and what is refused. Their numbers are in test_losses.py."""

import pytest
import torch

from metaexp import losses
from metaexp.algos.base import MetaLearner
from metaexp.contract import new, pictures
from metaexp.errors import ConfigError
from metaexp.metrics import (
    Metric,
    accuracy,
    coverage,
    declared,
    direction,
    gaussian_metrics,
    mse,
    of_mean,
    score_names,
    sign,
)
from metaexp.models.linear import Linear
from metaexp.tasks.sine import Sine


def r2(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return 1 - ((prediction - target) ** 2).sum() / ((target - target.mean()) ** 2).sum()


class Plain(MetaLearner):
    """The smallest possible learner."""

    def adapt(self, support, key):
        return support.y.mean(0)

    def predict(self, adapted, x):
        return adapted.expand(len(x), -1)


def test_a_metric_is_called_like_its_function():
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]])
    assert mse(x, y) == losses.mse(x, y) == 2.0
    assert of_mean(mse)(torch.cat((x, x), -1), y) == 2.0
    assert (mse.name, mse.larger_is_better, mse.unit) == ("mse", False, "y^2")
    assert (accuracy.name, accuracy.larger_is_better, accuracy.unit) == ("accuracy", True, "")
    assert (coverage(0.5).name, coverage(0.5).larger_is_better) == ("coverage50", None)
    found = gaussian_metrics({"mse": mse})
    assert [(name, metric.name) for name, metric in found.items()] == [(name, name) for name in found]
    assert [metric.unit for metric in found.values()] == ["nats", "y^2", "", ""]


def test_the_direction_of_a_score_is_that_of_its_metric():
    known = {"accuracy": accuracy, "mse": mse, "loss_of_accuracy": Metric("loss_of_accuracy", r2, False)}
    wanted = {"accuracy_support": True, "child_3_mse_transductive": False, "loss_of_accuracy": False, "norm": None}
    assert {name: direction(known, name) for name in wanted} == wanted
    assert [sign(one) for one in (True, False, None)] == [1.0, -1.0, 1.0]


def test_scores_have_a_name_for_every_metric_and_mode():
    modes = {"_transductive": "queries", "_support": "support"}
    assert score_names({"accuracy": accuracy, "r2": Metric("r2", r2, True)}, modes) == {
        "accuracy_transductive": "queries",
        "r2_transductive": "queries",
        "accuracy_support": "support",
        "r2_support": "support",
    }


def test_a_metric_is_not_named_like_a_mode():
    for name in ("r2_support", "r2_transductive", ""):
        with pytest.raises(ConfigError, match="must be a name that does not end in"):
            Metric(name, r2, True)


def test_a_family_declares_the_direction_of_its_own_metric():
    class Said(Sine):
        metrics = {"r2": Metric("r2", r2, larger_is_better=True), "mse": mse}

    class Older(Sine):
        metrics = {"r2": r2, "mse": mse}
        larger_is_better = True

    for family in (Said(), Older()):
        learner = new(lambda f: Plain(f, Linear), family)
        assert {name: metric.larger_is_better for name, metric in learner.metrics.items()} == {"r2": True, "mse": False}
        assert learner.metrics["r2"].function is r2


def test_a_plain_function_without_a_direction_is_refused():
    class Silent(Sine):
        metrics = {"r2": r2}

    class SilentSecond(Sine):
        metrics = {"r2": r2, "spread": r2}
        larger_is_better = True

    class Own(Plain):
        metrics = {"r2": r2}

    for owner, name in (
        (Silent(), "r2"),
        (SilentSecond(), "spread"),
        (new(lambda f: Own(f, Linear), pictures()), "r2"),
    ):
        with pytest.raises(ConfigError) as caught:
            declared(owner)
        assert str(caught.value) == (
            f'{type(owner).__name__}.metrics: "{name}" is a plain function, its direction is not known; use '
            f'metaexp.metrics.Metric("{name}", function, larger_is_better=True) (or False)'
        )
