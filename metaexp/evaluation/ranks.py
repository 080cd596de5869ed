"""Statistics of a comparison across task families: the families are the units, and scores have other units in each.

"Statistical Comparisons of Classifiers over Multiple Data Sets", Demsar, 2006: ranks within each family, ties averaged,
and the signed-rank test of Wilcoxon for two methods. "Should We Really Use Post-Hoc Tests Based on Mean-Ranks?",
Benavoli, Corani, Mangili, 2016: whether two mean ranks differ depends on the other methods that are compared, so
methods are tested pair by pair, with Holm's correction. Imports no torch, and SciPy only inside functions.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from metaexp.evaluation.intervals import holm, sign_test

LEAST_FAMILIES = 6  # with five, no two-sided test of signs can be below 0.05
ALPHA = 0.05
EXACT = 13  # differences up to which all signs are enumerated where some are tied or 0
Scale = Literal["plain", "relative", "signs"]


class Versus(NamedTuple):
    """Two methods over all families."""

    one: int  # places of the two among the methods
    two: int
    better: int  # families in which the first is better
    worse: int
    lead: float  # sum of the signed ranks, of the signs where only they count; above 0: the first is better
    p: float | None = None  # of the test; None where nothing can be claimed
    adjusted: float | None = None  # Holm's, for all pairs


def family_ranks(scores: np.ndarray, larger: Sequence[bool]) -> np.ndarray:
    """Ranks within each family, 1 the best, ties averaged: [families, methods] -> [families, methods].

    Scores that agree in 12 digits are tied. What is not finite comes last.

    Args:
        larger: for each family, whether its metric is better if larger.
    """
    from scipy.stats import rankdata

    signed = np.where(np.asarray(larger)[:, None], -1.0, 1.0) * np.asarray(scores, dtype=np.float64)
    signed = np.where(np.isfinite(signed), signed, np.inf)
    rounded = np.array([[float(f"{value:.12g}") for value in row] for row in signed]).reshape(signed.shape)
    return np.asarray(rankdata(rounded, axis=1))


def scale_of(scores: np.ndarray, larger: Sequence[bool]) -> Scale:
    """In which form differences of different families count alike.

    "plain" where every metric is a share that is better if larger (an accuracy); else "relative", of errors, where
    every metric is one, which is at least 0, or such a share, whose error is what is missing to 1; else only their
    "signs" do.
    """
    finite = np.where(np.isfinite(scores), scores, 0.0)
    shares = ((finite >= 0) & (finite <= 1)).all(axis=1)
    large = np.asarray(larger)
    if large.all() and shares.all():
        return "plain"
    return "relative" if np.where(large, shares, (finite >= 0).all(axis=1)).all() else "signs"


def advantages(one: np.ndarray, two: np.ndarray, larger: Sequence[bool], scale: Scale) -> np.ndarray:
    """By how much the first of two methods is better in each family, [families]; 0 where they agree in 12 digits.

    "plain" are differences, "relative" (e2 - e1) / (e1 + e2) of errors e, which no unit changes, and "signs" -1, 0, 1.
    A score that is not finite is the worst possible: in relative differences its error is infinite, in others it is
    farther than any finite one.
    """
    large = np.asarray(larger)
    one, two = (np.where(np.isfinite(x), x, np.where(large, -np.inf, np.inf)) for x in (one, two))
    order = family_ranks(np.stack([one, two], 1), larger)
    sign = np.sign(order[:, 1] - order[:, 0])  # larger ranks are worse
    if scale == "signs":
        return np.asarray(sign)
    if scale == "plain":
        apart = np.abs(one - two, where=np.isfinite(one) & np.isfinite(two), out=np.full(len(one), np.nan))
        most = np.nanmax(apart, initial=0.0)
        return np.asarray(sign * np.where(np.isfinite(apart), apart, 2 * most + 1))
    first, second = (np.where(large, 1.0 - x, x) for x in (one, two))
    both = np.isfinite(first) & np.isfinite(second)
    first, second = np.where(both, first, 0.0), np.where(both, second, 0.0)
    whole = np.where(first + second > 0, first + second, 1.0)
    return np.asarray(sign * np.where(both, np.abs(first - second) / whole, 1.0))


def signed_rank(found: np.ndarray) -> float:
    """p of Wilcoxon's two-sided signed-rank test of differences [n]; ranks of those that are 0 are split evenly.

    Exact without ties and zeros, and with them up to `EXACT` differences; else by the normal approximation.
    """
    from scipy.stats import PermutationMethod, wilcoxon

    sizes = np.round(np.abs(found), 12)
    if not sizes.any():
        return 1.0
    tied = len(np.unique(sizes)) < len(sizes) or bool((sizes == 0).any())
    method = "exact" if not tied else PermutationMethod(n_resamples=2**EXACT) if len(found) <= EXACT else "asymptotic"
    values = np.sign(found) * sizes
    return float(wilcoxon(values, zero_method="zsplit" if tied else "wilcox", method=method).pvalue)


def smallest_p(families: int) -> float:
    """What the two-sided tests of signs and of signed ranks give if one method is better in every family."""
    return min(1.0, 2.0 ** (1 - families))


def needed(pairs: int) -> int:
    """The families from which on the smallest p passes Holm's bound for so many pairs, at least `LEAST_FAMILIES`."""
    families = LEAST_FAMILIES
    while smallest_p(families) >= ALPHA / max(pairs, 1):
        families += 1
    return families


def versus(scores: np.ndarray, larger: Sequence[bool]) -> list[Versus]:
    """Every two methods, in the order of their places: [families, methods]; without p where no claim can be made."""
    families, methods = scores.shape
    scale, able = scale_of(scores, larger), families >= needed(methods * (methods - 1) // 2)
    made = []
    for one in range(methods):
        for two in range(one + 1, methods):
            found = advantages(scores[:, one], scores[:, two], larger, scale)
            p = (sign_test(found).p if scale == "signs" else signed_rank(found)) if able else None
            made.append(Versus(one, two, int((found > 0).sum()), int((found < 0).sum()), _lead(found), p))
    if not able:
        return made
    adjusted = holm([pair.p or 0.0 for pair in made])
    return [pair._replace(adjusted=p) for pair, p in zip(made, adjusted, strict=True)]


def _lead(found: np.ndarray) -> float:
    from scipy.stats import rankdata

    return float((np.sign(found) * rankdata(np.abs(found))).sum())
