"""Ranks and tests across families: by hand, by SciPy, by enumeration, and by simulation."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from metaexp.evaluation.intervals import holm
from metaexp.evaluation.ranks import (
    advantages,
    family_ranks,
    needed,
    scale_of,
    signed_rank,
    smallest_p,
    versus,
)

SCORES = np.array([
    [0.10, 0.20, 0.30],  # an error
    [0.90, 0.90, 0.80],  # an accuracy, with a tie
    [2.00, 2.00, 2.00],  # an error, all tied
    [np.inf, 0.5, np.nan],  # an error
    [-3.0, -1.0, -2.0],  # a log-likelihood
])  # fmt: skip
LARGER = [False, True, False, False, True]


def test_ranks_follow_the_direction_of_each_family_and_average_ties() -> None:
    found = family_ranks(SCORES, LARGER)
    assert found.tolist() == [[1, 2, 3], [1.5, 1.5, 3], [2, 2, 2], [2.5, 1, 2.5], [3, 1, 2]]
    close = family_ranks(np.array([[1.0, 1.0 + 1e-15, 2.0]]), [False])
    assert close.tolist() == [[1.5, 1.5, 3.0]]


def test_the_form_of_differences_needs_units_that_agree() -> None:
    assert scale_of(SCORES[1:2], [True]) == "plain"
    assert scale_of(SCORES[:4], LARGER[:4]) == "relative"
    assert scale_of(SCORES, LARGER) == "signs"
    one, two = SCORES[:4, 0], SCORES[:4, 2]
    relative = advantages(one, two, LARGER[:4], "relative")
    assert relative == pytest.approx([0.2 / 0.4, (0.2 - 0.1) / 0.3, 0.0, 0.0])  # both diverged: no difference
    assert advantages(one, SCORES[:4, 1], LARGER[:4], "relative")[3] == -1.0
    units = np.array([3.0, 1.0, 70.0, 0.2])  # relative differences of errors do not depend on the unit
    errors = np.array([[1.0, 2.0], [3.0, 1.0], [0.5, 0.7], [9.0, 9.5]])
    scaled = errors * units[:, None]
    assert advantages(*scaled.T, [False] * 4, "relative") == pytest.approx(
        advantages(*errors.T, [False] * 4, "relative")
    )
    accuracies = np.array([0.5, 0.9, np.nan]), np.array([0.7, 0.6, 0.2])
    assert advantages(*accuracies, [True] * 3, "plain") == pytest.approx([-0.2, 0.3, -1.6])
    assert advantages(SCORES[:, 0], SCORES[:, 1], LARGER, "signs").tolist() == [1, 0, 0, -1, -1]


def test_signed_ranks_are_those_of_scipy_and_of_all_signs() -> None:
    draw = np.random.default_rng(0)
    for n in (6, 9, 30):
        found = draw.normal(0.3, 1, n)
        assert signed_rank(found) == pytest.approx(stats.wilcoxon(found, method="exact").pvalue)
    tied = np.array([1.0, 2.0, 2.0, -3.0, 4.0, 0.0, 5.0, 5.0])
    ranks = stats.rankdata(np.abs(tied))
    rest = tied != 0

    def larger_sum(signs: np.ndarray) -> float:
        return float(ranks[rest][signs > 0].sum() - ranks[rest][signs < 0].sum())

    seen = abs(larger_sum(np.sign(tied[rest])))
    every = [abs(larger_sum(np.array(signs))) >= seen for signs in product((-1, 1), repeat=int(rest.sum()))]
    assert signed_rank(tied) == pytest.approx(np.mean(every))
    assert signed_rank(np.zeros(7)) == 1.0


def test_what_few_families_can_show() -> None:
    assert [smallest_p(n) for n in (1, 5, 6, 7)] == [1.0, 0.0625, 0.03125, 0.015625]
    assert signed_rank(np.arange(1.0, 8.0)) == smallest_p(7)
    # 1, 3, 10, 45 pairs need p < 0.05, 0.0167, 0.005, 0.0011
    assert [needed(pairs) for pairs in (0, 1, 3, 10, 45)] == [6, 6, 7, 9, 11]


def test_pairs_are_corrected_by_holm_and_nothing_is_claimed_where_it_cannot_be() -> None:
    draw = np.random.default_rng(1)
    level = draw.uniform(0.3, 0.6, (9, 1))
    scores = level + np.array([[0.1, 0.0, 0.01, -0.02]]) + draw.normal(0, 0.01, (9, 4))
    found = versus(scores, [True] * 9)
    alone = [
        stats.wilcoxon(scores[:, i] - scores[:, j], method="exact").pvalue for i in range(4) for j in range(i + 1, 4)
    ]
    assert [pair.p for pair in found] == pytest.approx(alone)
    assert [pair.adjusted for pair in found] == pytest.approx(holm(alone))
    wins = [int((scores[:, pair.one] > scores[:, pair.two]).sum()) for pair in found]
    assert [(pair.better, pair.worse) for pair in found] == [(win, 9 - win) for win in wins]
    assert all(pair.p is None and pair.adjusted is None for pair in versus(scores[:7], [True] * 7))  # six pairs need 8
    assert all(pair.p is not None for pair in versus(scores[:8], [True] * 8))
    mixed = versus(np.tile(SCORES[4], (9, 1)) + np.arange(9)[:, None], [True] * 9)  # no units in common: signs
    assert mixed[0].p == pytest.approx(stats.binomtest(0, 9, 0.5).pvalue)


def test_equal_methods_are_seldom_separated() -> None:
    draw, wrong = np.random.default_rng(2), 0
    for _ in range(60):
        scores = np.exp(draw.normal(0, 1, (10, 1)) + draw.normal(0, 0.3, (10, 4)))
        wrong += any((pair.adjusted or 0.0) < 0.05 for pair in versus(scores, [False] * 10))
    assert wrong <= 7  # 5 % of 60 are 3; more than 7 have a probability of 1 %
