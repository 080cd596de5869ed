"""Losses and metrics: closed forms, shapes that do not fit, half precision."""

import math

import pytest
import torch
import torch.nn.functional as F

from metaexp import losses, metrics
from metaexp.errors import ConfigError
from metaexp.evaluation.calibration import bin_sums

F64 = torch.float64
GAUSSIAN = (losses.gaussian_nll, metrics.log_likelihood, metrics.coverage(0.9))
PLAIN = (losses.mse, losses.cross_entropy, metrics.accuracy, metrics.fair_accuracy, metrics.class_log_likelihood)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("loss", PLAIN)
@pytest.mark.parametrize("shape", [(6,), (6, 1, 3), (6, 1), (6, 6)])
def test_a_prediction_that_would_be_broadcast_is_refused(loss, shape):
    with pytest.raises(ConfigError, match=r"^model: the prediction has the shape \[.*\], the loss needs \[6, 3\]"):
        loss(normal(*shape), normal(6, 3))


@pytest.mark.parametrize("loss", GAUSSIAN)
def test_gaussian_predictions_have_two_numbers_for_each_target(loss):
    with pytest.raises(ConfigError, match=r"has the shape \[6, 3\], the loss needs \[6, 6\]"):
        loss(normal(6, 3), normal(6, 3))


def test_closed_forms():
    mean, target, sd = normal(50, 2), normal(50, 2, seed=1), normal(50, 2, seed=2).exp()
    wanted = -torch.distributions.Normal(mean, sd).log_prob(target).sum(-1).mean()
    assert abs(losses.gaussian_nll(torch.cat((mean, sd), 1), target) - wanted) < 1e-13
    classes = torch.arange(50) % 3
    one_hot = F.one_hot(classes, 3).to(F64)
    logits = normal(50, 3, seed=3)
    assert abs(losses.cross_entropy(logits, one_hot) - F.cross_entropy(logits, classes)) < 1e-14
    assert metrics.accuracy(logits, one_hot) == (logits.argmax(1) == classes).to(F64).mean()
    assert all(loss(logits[:0], one_hot[:0]) == 0 for loss in PLAIN)


@pytest.mark.parametrize("right", range(70, 76))
def test_an_accuracy_has_all_its_digits_in_half_precision(right):
    """74 of 75 is 0.98667; the nearest bfloat16 number is 0.98828."""
    target = F.one_hot(torch.zeros(75, dtype=torch.int64), 5).float()
    logits = F.one_hot((torch.arange(75) >= right).long(), 5).to(torch.bfloat16)
    assert metrics.accuracy(logits, target) == torch.tensor(right / 75)
    assert metrics.fair_accuracy(logits, target) == torch.tensor(right / 75)


def test_sums_of_half_precision_are_those_of_the_same_numbers_in_full():
    logits = 4 * torch.randn(300, 20, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    target = F.one_hot(torch.arange(300) % 20, 20).float()
    for function in (losses.cross_entropy, metrics.class_log_likelihood, bin_sums):
        made = function(logits, target)
        assert made.dtype == torch.float32
        assert torch.equal(made, function(logits.float(), target))
    assert bin_sums(logits, target)[0].sum() == 300  # bfloat16 has no number between 256 and 258
    sd = torch.full((300, 20), math.pi)
    prediction = torch.cat((logits.float(), sd), 1).to(torch.bfloat16)
    assert torch.equal(losses.gaussian_nll(prediction, target), losses.gaussian_nll(prediction.float(), target))
