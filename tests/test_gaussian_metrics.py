"""Gaussian losses and metrics against torch.distributions, and which direction of a metric is better."""

import pytest
import torch
from references import gp, normal

from metaexp import losses
from metaexp.contract import pictures
from metaexp.tasks.sine import Sine


def test_gaussian_losses_against_torch_distributions():
    mean, sd, y = normal(200, 3), normal(200, 3).abs() + 0.1, normal(200, 3) * 2
    prediction = torch.cat((mean, sd), -1)
    exact = torch.distributions.Normal(mean, sd).log_prob(y).sum(-1).mean()
    assert abs(losses.log_likelihood(prediction, y) - exact) < 1e-12
    assert abs(losses.gaussian_nll(prediction, y) + exact) < 1e-12
    assert torch.equal(losses.of_mean(losses.mse)(prediction, y), losses.mse(mean, y))
    for metric in losses.gaussian_metrics({"mse": losses.mse}).values():
        assert metric(prediction[:0], y[:0]) == 0
    at = torch.cat((torch.zeros(4, 1), torch.ones(4, 1)), -1)
    edges = torch.tensor([[0.67448], [0.67450], [1.64485], [1.64486]])  # of 50 % and 90 %
    assert losses.coverage(0.5)(at, edges) == 0.25
    assert losses.coverage(0.9)(at, edges) == 0.75
    with pytest.raises(ValueError, match="level=1: must be above 0"):
        losses.coverage(1)


def test_directions():
    assert [losses.larger(name) for name in ("accuracy_transductive", "log_likelihood", "mse", "nll")] == [1, 1, 0, 0]
    assert pictures().larger("accuracy_support")
    assert not gp().larger("mse")

    class Score(Sine):
        """A family that says so itself."""

        metrics = {"r2": losses.mse}
        larger_is_better = True

    assert Score().larger("r2")
    assert not Score().larger("mse")
