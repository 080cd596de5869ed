"""Bandits: the distribution of their arms, their rewards, what they refuse."""

import numpy as np
import pytest
import torch
from scipy import stats

from metaexp.algos.informed import Informed
from metaexp.evaluation.scores import evaluate
from metaexp.random import fold
from metaexp.tasks.bandit import Bandit

INDEX = torch.arange(4000)


@pytest.mark.parametrize("prior", [(1, 1), (3, 2)])
def test_probabilities_are_from_the_prior(prior: tuple[int, int]) -> None:
    found = Bandit(3, 4, prior=prior).sample("test", INDEX).info["mean"]
    assert found.shape == (4000, 3)
    for arm in range(3):
        assert stats.kstest(found[:, arm].numpy(), stats.beta(*prior).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(found.numpy().T)[0, 1]) < 0.06


def test_gaussian_means_are_from_theirs() -> None:
    found = Bandit(2, 4, kind="gaussian", means=(1.0, 0.5)).sample("test", INDEX).info["mean"]
    assert stats.kstest(found.flatten().numpy(), stats.norm(1.0, 0.5).cdf).pvalue > 1e-4


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_rewards(kind: str) -> None:
    """A coin pays with its probability, a Gaussian arm N(mean, noise^2); no two arms share their luck."""
    world = Bandit(2, 4, kind=kind, noise=0.3).to("cpu", torch.float64)
    task, keys = {"mean": torch.tensor([0.8, 0.3]).double()}, fold(torch.tensor(7), torch.arange(20_000))
    rewards = [
        torch.vmap(lambda key, a=arm: world.step(task, (), torch.tensor(a), key)[2])(keys).numpy() for arm in (0, 1)
    ]
    for reward, mean in zip(rewards, (0.8, 0.3), strict=True):
        if kind == "gaussian":
            assert stats.kstest(reward, stats.norm(mean, 0.3).cdf).pvalue > 1e-4
        else:
            assert set(reward) == {0.0, 1.0}
            assert abs(reward.mean() - mean) < 4.5 * np.sqrt(mean * (1 - mean) / len(reward))
    assert abs(np.corrcoef(rewards)[0, 1]) < 0.03


def test_one_who_knows_the_arms() -> None:
    """Gets n k / (k + 1) on average, and no regret."""
    scores = evaluate(Informed(Bandit(4, 25)), "test", 4000, ["queries"]).arrays
    for values, wanted in ((scores["return"], 25 * 4 / 5), (scores["regret"], 0.0)):
        assert abs(values.mean() - wanted) < 4.5 * values.std() / np.sqrt(len(values))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arms": 1}, "arms=1: must be at least 2"),
        ({"pulls": 0}, "pulls=0: must be at least 1"),
        ({"kind": "coin"}, "kind=coin: must be bernoulli | gaussian"),
        ({"means": (0.0, 1.0)}, "means: for kind=gaussian"),
        ({"kind": "gaussian", "prior": (1, 1)}, "prior: for kind=bernoulli"),
        ({"prior": (0, 1)}, "prior=[0, 1]: must be whole numbers of at least 1"),
        ({"kind": "gaussian", "means": (0.0, -1.0)}, "means=[0.0, -1.0]: the second is a standard deviation"),
        ({"kind": "gaussian", "noise": 0.0}, "noise=0.0: must be above 0"),
    ],
)
def test_refusals(settings: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:
        Bandit(**settings)
    assert str(error.value).startswith(message)
