"""Distributions over actions against torch.distributions."""

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal

from metaexp.algos.policy import draw, entropy, log_prob, most_likely
from metaexp.random import task_keys

F64 = torch.float64


def outputs(n: int, width: int) -> torch.Tensor:
    return 2 * torch.randn(n, width, dtype=F64, generator=torch.Generator().manual_seed(0))


def test_categorical_log_probability_entropy_and_gradient() -> None:
    out = outputs(100, 6).requires_grad_()
    action = torch.arange(100) % 6
    theirs = Categorical(logits=out)
    torch.testing.assert_close(log_prob(out, None, action), theirs.log_prob(action), rtol=0, atol=1e-12)
    torch.testing.assert_close(entropy(out, None), theirs.entropy(), rtol=0, atol=1e-12)
    (ours,) = torch.autograd.grad(log_prob(out, None, action).sum() + entropy(out, None).sum(), out, retain_graph=True)
    (other,) = torch.autograd.grad(theirs.log_prob(action).sum() + theirs.entropy().sum(), out)
    torch.testing.assert_close(ours, other, rtol=0, atol=1e-12)


def test_gaussian_log_probability_entropy_and_gradient() -> None:
    out, log_std = outputs(100, 3).requires_grad_(), torch.tensor([-1.0, 0.2, 0.7], dtype=F64, requires_grad=True)
    action = outputs(100, 3).flip(0)
    theirs = Independent(Normal(out, log_std.exp()), 1)
    torch.testing.assert_close(log_prob(out, log_std, action), theirs.log_prob(action), rtol=0, atol=1e-12)
    torch.testing.assert_close(entropy(out, log_std), theirs.entropy(), rtol=0, atol=1e-12)
    ours = torch.autograd.grad((log_prob(out, log_std, action) + entropy(out, log_std)).sum(), (out, log_std))
    other = torch.autograd.grad((theirs.log_prob(action) + theirs.entropy()).sum(), (out, log_std))
    torch.testing.assert_close(ours, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("log_std", [None, torch.tensor([-0.5, 0.3, -20.0], dtype=F64)])
def test_one_step_of_one_task_under_vmap_is_a_row_of_the_batch(log_std: torch.Tensor | None) -> None:
    out, key = outputs(50, 3), task_keys(1, "test", torch.arange(50))
    action = draw(out, log_std, key)
    mapped = torch.vmap(lambda o, k: draw(o, log_std, k))(out, key)
    assert torch.equal(action, mapped)
    for function in (lambda o, a: log_prob(o, log_std, a), lambda o, a: entropy(o, log_std)):
        torch.testing.assert_close(torch.vmap(function)(out, action), function(out, action), rtol=0, atol=1e-12)
    best = log_prob(out, log_std, most_likely(out, log_std))
    assert (best >= log_prob(out, log_std, action)).all()


def test_categorical_draws_have_the_probabilities() -> None:
    out = torch.tensor([0.3, -1.0, 2.0, -torch.inf, 0.0])
    n = 200_000
    drawn = draw(out.expand(n, 5), None, task_keys(0, "test", torch.arange(n)))
    counts = torch.bincount(drawn, minlength=5).double()
    p = torch.softmax(out.double(), 0)
    assert counts[3] == 0
    chi2 = ((counts - n * p) ** 2 / (n * p).clamp(min=1e-9))[p > 0].sum()
    assert chi2 < 18.5  # 0.1 % of chi-square with 3 degrees of freedom is above 16.3


def test_gaussian_draws_have_mean_and_deviation() -> None:
    n, log_std = 100_000, torch.tensor([-1.0, 0.5], dtype=F64)
    out = torch.tensor([1.0, -2.0], dtype=F64)
    drawn = draw(out.expand(n, 2), log_std, task_keys(0, "test", torch.arange(n)))
    z = (drawn - out) / log_std.exp()
    assert z.mean(0).abs().max() < 4 / n**0.5
    assert (z.std(0) - 1).abs().max() < 4 / (2 * n) ** 0.5
    assert torch.corrcoef(z.T)[0, 1].abs() < 4 / n**0.5


def test_the_smallest_and_largest_deviation() -> None:
    """A deviation learned far outside is clamped, so a density stays finite."""
    out, action = torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)
    for learned, clamped in ((-50.0, -5.0), (50.0, 2.0)):
        ours = log_prob(out, torch.tensor([learned], dtype=F64), action)
        theirs = Normal(out, torch.tensor([clamped], dtype=F64).exp())
        torch.testing.assert_close(ours, theirs.log_prob(action)[0], rtol=1e-12, atol=0)
