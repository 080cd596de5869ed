"""Planners of bandits against enumeration: every history of two arms and four pulls, in float64, by plain Python."""

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from math import comb, log, sqrt
from typing import Any

import numpy as np
import pytest
import torch

from metaexp.algos.bandit_planner import BanditPlanner, Counts
from metaexp.algos.epsilon_greedy import EpsilonGreedy
from metaexp.algos.gittins import Gittins, indices
from metaexp.algos.greedy import Greedy
from metaexp.algos.optimal import Optimal, number_of_states, solve
from metaexp.algos.thompson import Thompson
from metaexp.algos.ucb1 import UCB1
from metaexp.evaluation.scores import evaluate
from metaexp.tasks.bandit import Bandit

PULLS = 4
Arm = tuple[int, int]  # paid and unpaid pulls
Rule = Callable[[tuple[Arm, ...], int], list[float]]  # arms, pulls left -> probability of each arm


def mean(arm: Arm, prior: Arm = (1, 1)) -> float:
    return (prior[0] + arm[0]) / (sum(prior) + sum(arm))


def first_of(values: list[float]) -> list[float]:
    best = max(values)
    return [float(i == next(j for j, v in enumerate(values) if v > best - 1e-12)) for i in range(len(values))]


def expected(rule: Rule, arms: tuple[Arm, ...] = ((0, 0), (0, 0)), left: int = PULLS, prior: Arm = (1, 1)) -> float:
    """The expected return of a rule, over all its histories."""
    if not left:
        return 0.0
    total = 0.0
    for i, chance in enumerate(rule(arms, left)):
        if chance:
            p = mean(arms[i], prior)
            for paid, q in ((1, p), (0, 1 - p)):
                after = (*arms[:i], (arms[i][0] + paid, arms[i][1] + 1 - paid), *arms[i + 1 :])
                total += chance * q * (paid + expected(rule, after, left - 1, prior))
    return total


@cache
def value(arms: tuple[Arm, ...], left: int, prior: Arm = (1, 1)) -> float:
    return max(pull_values(arms, left, prior)) if left else 0.0


def pull_values(arms: tuple[Arm, ...], left: int, prior: Arm = (1, 1)) -> list[float]:
    found = []
    for i, (paid, lost) in enumerate(arms):
        p = mean((paid, lost), prior)
        won, none = ((*arms[:i], arm, *arms[i + 1 :]) for arm in ((paid + 1, lost), (paid, lost + 1)))
        found.append(p * (1 + value(won, left - 1, prior)) + (1 - p) * value(none, left - 1, prior))
    return found


def index(arm: Arm, left: int, prior: Arm = (1, 1)) -> float:
    """The finite Gittins index, by bisection."""

    def on(arm: Arm, m: int, rate: float) -> float:
        p = mean(arm, prior)
        later = [
            max(0.0, on(new, m - 1, rate)) if m > 1 else 0.0 for new in ((arm[0] + 1, arm[1]), (arm[0], arm[1] + 1))
        ]
        return p - rate + p * later[0] + (1 - p) * later[1]

    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if on(arm, left, middle) >= 0 else (low, middle)
    return low


def better(a: Arm, b: Arm) -> Fraction:
    """P(Beta(1 + a) > Beta(1 + b)), exactly (whole parameters)."""
    (s, f), (u, v) = a, b  # sum over i of P(Binomial-like): Beta(u+1, v+1) < x is a binomial tail of n = u + v + 1
    n = u + v + 1
    total = Fraction(0)
    for i in range(u + 1, n + 1):  # E[C(n, i) x^i (1 - x)^(n - i)] over x ~ Beta(s + 1, f + 1)
        top = Fraction(comb(n, i)) * Fraction(1, (s + i + f + n - i + 1) * comb(s + i + f + n - i, s + i))
        total += top / Fraction(1, (s + f + 1) * comb(s + f, s))
    return total


def ucb(c: float, prior: bool) -> Rule:
    def rule(arms: tuple[Arm, ...], left: int) -> list[float]:
        t = PULLS - left
        if prior:
            n = [sum(arm) + 2 for arm in arms]
            return first_of([mean(arm) + sqrt(c * log(sum(n)) / m) for arm, m in zip(arms, n, strict=True)])
        if any(sum(arm) == 0 for arm in arms):
            return first_of([float(sum(arm) == 0) for arm in arms])
        return first_of([arm[0] / sum(arm) + sqrt(c * log(t) / sum(arm)) for arm in arms])

    return rule


def epsilon_greedy(arms: tuple[Arm, ...], left: int) -> list[float]:
    return [0.7 * best + 0.3 / 2 for best in first_of([mean(arm) for arm in arms])]


RULES: dict[str, tuple[Callable[[Any], BanditPlanner], Rule]] = {
    "greedy": (Greedy, lambda arms, left: first_of([mean(arm) for arm in arms])),
    "epsilon_greedy": (lambda w: EpsilonGreedy(w, epsilon=0.3), epsilon_greedy),
    "ucb1": (UCB1, ucb(2.0, False)),
    "ucb1 prior": (lambda w: UCB1(w, c=0.2, start="prior"), ucb(0.2, True)),
    "thompson": (Thompson, lambda arms, left: [float(better(*arms)), float(better(arms[1], arms[0]))]),
    "gittins": (Gittins, lambda arms, left: first_of([index(arm, left) for arm in arms])),
    "optimal": (Optimal, lambda arms, left: first_of(pull_values(arms, left))),
}


def states(left: int) -> list[tuple[Arm, Arm]]:
    t = PULLS - left
    return [((a, b), (c, t - a - b - c)) for a in range(t + 1) for b in range(t + 1 - a) for c in range(t + 1 - a - b)]


def chances(learner: BanditPlanner, arms: tuple[Arm, ...], left: int, draws: int) -> np.ndarray:
    """How often the learner chooses each arm."""
    counts = torch.tensor(arms, dtype=torch.float64)
    seen = Counts(counts.sum(1), counts[:, 0], torch.tensor(PULLS - left))
    found = torch.vmap(lambda key: learner.choose(seen, key))(torch.arange(draws))
    return np.bincount(found.numpy(), minlength=2) / draws


@pytest.mark.parametrize("name", RULES)
def test_a_planner_is_its_rule_in_every_state(name: str) -> None:
    """The probability of each arm in all states of two arms and four pulls; the expected return of the two is then the
    same number, and the mean of simulated trials is near it."""
    make, rule = RULES[name]
    world = Bandit(2, PULLS).to("cpu", torch.float64)
    learner = make(world)
    draws = 4000 if name in ("thompson", "epsilon_greedy") else 1
    for left in range(1, PULLS + 1):
        for arms in states(left):
            found, wanted = chances(learner, arms, left, draws), np.array(rule(arms, left))
            if name == "optimal" and abs(np.diff(pull_values(arms, left))[0]) < 1e-12:
                continue  # ties: by counts
            slack = 4.5 * np.sqrt(wanted[0] * wanted[1] / draws) + 1e-12
            assert abs(found - wanted).max() <= slack, (arms, found, wanted)
    exact = expected(rule)
    scores = evaluate(learner, "test", 20_000, ["queries"], chunk=20_000).arrays["return"][:, 0]
    assert abs(scores.mean() - exact) < 4.5 * scores.std() / sqrt(len(scores)), (scores.mean(), exact)
    assert exact <= value(((0, 0), (0, 0)), PULLS) + 1e-12


def test_the_optimal_return() -> None:
    """Against plain enumeration, also with another prior, and the known values at ten pulls."""
    for arms, pulls, prior in ((2, 4, (1, 1)), (3, 4, (2, 1)), (2, 6, (1, 3))):
        assert abs(solve(arms, pulls, *prior)[0] - value(((0, 0),) * arms, pulls, prior)) < 1e-12
    assert round(solve(5, 10)[0], 3) == 6.660
    assert round(solve(10, 10)[0], 3) == round(solve(50, 10)[0], 3) == 6.714
    assert number_of_states(5, 10) == len(solve(5, 10)[2]) == 1951
    assert Optimal(Bandit(5, 10)).finish(lambda tasks: 0.0)["expected_return"] == solve(5, 10)[0]


@pytest.mark.parametrize("prior", [(1, 1), (2, 3)])
def test_the_indices_are_those_of_bisection(prior: Arm) -> None:
    pulls = 7
    table = indices(pulls, *prior)
    for t in (0, 2, 5, 6):
        square = table[t * (t + 1) * (2 * t + 1) // 6 :][: (t + 1) ** 2].reshape(t + 1, t + 1)
        for paid in range(t + 1):
            for lost in range(t + 1 - paid):
                assert abs(square[paid, lost] - index((paid, lost), pulls - t, prior)) < 1e-4


def test_gaussian_arms() -> None:
    """Posterior means and deviations by the formula, and the order of the planners on simulated trials."""
    world = Bandit(3, 30, kind="gaussian", means=(1.0, 2.0), noise=0.5).to("cpu", torch.float64)
    seen = Counts(torch.tensor([0.0, 1.0, 4.0]).double(), torch.tensor([0.0, 3.0, 2.0]).double(), torch.tensor(5))
    m, d = Greedy(world).posterior(seen)
    precision = np.array([0.25, 0.25 + 4.0, 0.25 + 16.0])
    assert np.allclose(m, (0.25 * 1.0 + 4.0 * np.array([0.0, 3.0, 2.0])) / precision)
    assert np.allclose(d, precision**-0.5)
    found = {
        make.__name__: evaluate(make(world), "test", 2000, ["queries"]).arrays["regret"].mean()
        for make in (Greedy, Thompson)
    }
    assert found["Thompson"] < found["Greedy"]
    assert 0 < found["Thompson"] < 10  # of about 80


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"task.arms=5 with task.pulls=30 has [\d,]+ states .* use algo=gittins"):
        Optimal(Bandit(5, 30))
    with pytest.raises(ValueError, match=r"task.pulls=500 has too many states"):
        Optimal(Bandit(2, 500))
    with pytest.raises(ValueError, match=r"family: Gittins is for task.kind=bernoulli; take algo=thompson"):
        Gittins(Bandit(2, 5, kind="gaussian"))
    with pytest.raises(ValueError, match=r"task.pulls=600 takes too much; use algo=thompson"):
        Gittins(Bandit(2, 600))
