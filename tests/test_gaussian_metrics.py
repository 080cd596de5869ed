"""Gaussian losses and metrics against torch.distributions, and which direction of a metric is better."""

import pytest
import torch
from references import gp, normal

from metaexp import losses, metrics
from metaexp.algos.cnp import CNP
from metaexp.contract import new, pictures
from metaexp.models.linear import Linear


def test_gaussian_losses_against_torch_distributions():
    mean, sd, y = normal(200, 3), normal(200, 3).abs() + 0.1, normal(200, 3) * 2
    prediction = torch.cat((mean, sd), -1)
    exact = torch.distributions.Normal(mean, sd).log_prob(y).sum(-1).mean()
    assert abs(metrics.log_likelihood(prediction, y) - exact) < 1e-12
    assert abs(losses.gaussian_nll(prediction, y) + exact) < 1e-12
    assert torch.equal(metrics.of_mean(metrics.mse)(prediction, y), losses.mse(mean, y))
    for metric in metrics.gaussian_metrics({"mse": metrics.mse}).values():
        assert metric(prediction[:0], y[:0]) == 0
    at = torch.cat((torch.zeros(4, 1), torch.ones(4, 1)), -1)
    edges = torch.tensor([[0.67448], [0.67450], [1.64485], [1.64486]])  # around the edges of 50 % and 90 %
    assert metrics.coverage(0.5)(at, edges) == 0.25
    assert metrics.coverage(0.9)(at, edges) == 0.75
    with pytest.raises(ValueError, match="level=1: must be above 0"):
        metrics.coverage(1)


def test_directions():
    for learner, wanted in (
        (new(lambda f: CNP(f, Linear), gp()), {"log_likelihood": True, "mse": False, "coverage90": None}),
        (new(lambda f: CNP(f, Linear), pictures()), {"accuracy_support": True, "log_likelihood": True}),
    ):
        found = metrics.declared(learner)
        assert {name: metrics.direction(found, name) for name in wanted} == wanted
