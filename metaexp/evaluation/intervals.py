"""All statistics of the project: intervals and differences of scores over tasks, over seeds, and over both at once.

Imports no torch, and SciPy only when a quantile is needed. The three intervals answer three different questions and
are never mixed:
    over_tasks   how well is ONE trained learner measured?            1.96 s / sqrt(tasks)
    over_seeds   how much would a new training differ?                Student's t over the seeds' means
    crossed      do two algorithms differ, for new seeds and tasks?   both random

They are intervals of a mean, and of little worth where few tasks carry it (`worst_share`). The median (`middle`) and
the sign test (`sign_test`) hold for any distribution, and stand beside them. Comparisons across task families, whose
scores have other units, are in `ranks`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

NORMAL = 1.96  # half-width of a 95 % interval over tasks, in standard errors, as in published tables
LEAST_SEEDS = 3  # seeds per group needed for a difference to be a claim about algorithms
MOST_SHARE = 0.25  # of the sum of all tasks: where the worst 1 % carry more, nothing is claimed on the mean


class Interval(NamedTuple):
    """A mean and the half-width of its 95 % interval; None if there are too few numbers."""

    mean: float | None
    half: float | None


class Middle(NamedTuple):
    """A median and its 95 % interval; None if there are too few numbers."""

    median: float | None
    ends: tuple[float, float] | None


class Signs(NamedTuple):
    """The sign test of paired differences."""

    larger: int  # tasks on which one is larger than two
    smaller: int
    p: float  # probability of counts at least so unequal if either were as likely


class Difference(NamedTuple):
    """Group one minus group two on the same query sets."""

    mean: float
    half: float | None
    crossed: bool  # True: a claim about algorithms; False: about these checkpoints only
    tasks: int
    lost: int  # tasks left out because some run has a non-finite score
    p: float | None = None  # probability of a mean at least this far from 0 if there were no difference
    signs: Signs = Signs(0, 0, 1.0)  # on how many tasks one is larger, whatever the size of the difference
    worst: float = 0.0  # share of the sum of the differences' sizes that the largest 1 % carry


def t_quantile(df: float) -> float:
    """The 97.5 % quantile of Student's t with `df` >= 1 degrees of freedom, which need not be an integer."""
    from scipy import stats  # 0.5 s to import, which a training run does not need

    return float(stats.t.ppf(0.975, df))


def t_tails(t: float, df: float) -> float:
    """The probability that Student's t with `df` >= 1 degrees of freedom is farther from 0 than t; normal at inf."""
    from scipy import stats

    return min(2.0 * float(stats.t.sf(abs(t), df)), 1.0)


def holm(found: Sequence[float]) -> list[float]:
    """Adjusted p values, in the given order, of tests made at once: controls the chance of any false rejection.

    "A Simple Sequentially Rejective Multiple Test Procedure", Holm, 1979: the i-th smallest of n is multiplied by
    n - i + 1, and is at least as large as those before it.
    """
    adjusted, least = [0.0] * len(found), 0.0
    for i, place in enumerate(sorted(range(len(found)), key=found.__getitem__)):
        least = max(least, min(1.0, (len(found) - i) * found[place]))
        adjusted[place] = least
    return adjusted


def mean_and_half(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and NORMAL s / sqrt(n) over the first dimension: [n, *k] -> [*k] each; NaN for no rows, 0 for one row."""
    n = len(values)
    if n == 0:
        nothing = np.full(values.shape[1:], np.nan)
        return nothing, nothing
    spread = values.std(axis=0, ddof=1) if n > 1 else np.zeros(values.shape[1:])
    return np.asarray(values.mean(axis=0)), np.asarray(NORMAL * spread / np.sqrt(n))


def middle(values: np.ndarray) -> Middle:
    """The median of [n] finite values and its interval between two of them, in order: no distribution is assumed.

    With n values, as many lie below the true median as heads fall in n throws. The interval goes from the k-th smallest
    to the k-th largest, with the largest k that the true median misses on either side with at most 2.5 %. None with
    fewer than 6 values, whose smallest and largest miss it more often.
    """
    n = len(values)
    if n == 0:
        return Middle(None, None)
    from scipy.special import bdtr, bdtrik

    k = max(int(bdtrik(0.025, n, 0.5)), 0)
    while bdtr(k, n, 0.5) <= 0.025:  # P(at most k heads)
        k += 1
    while k > 0 and bdtr(k - 1, n, 0.5) > 0.025:
        k -= 1
    placed = np.sort(values)
    return Middle(float(np.median(placed)), (float(placed[k - 1]), float(placed[n - k])) if k > 0 else None)


def worst_share(values: np.ndarray, larger_is_better: bool | None = None) -> float | None:
    """The share of the sum of [n] sizes that the worst 1 % of the values (at least one) carry; None if all are 0.

    0.01 if all are equal. Of 1,000 log-normal values with sigma 2, whose mean has an interval 1.96 s / sqrt(n) that
    covers 85 % instead of 95 %, it is about 0.4.
    """
    sizes = np.abs(values[np.argsort(-values if larger_is_better is False else values, kind="stable")])
    total = float(sizes.sum())
    return float(sizes[: math.ceil(len(values) / 100)].sum()) / total if total > 0 and math.isfinite(total) else None


def made_worse(values: np.ndarray, larger_is_better: bool | None) -> int | None:
    """On how many tasks the score after the last step is worse than before the first, [tasks, steps + 1].

    A score that was finite and is not any more is worse; of one that was not finite before, nothing is said. None
    without steps, or if neither direction is better.
    """
    if values.shape[1] < 2 or larger_is_better is None:
        return None
    before, after = values[:, 0], values[:, -1]
    worse = ~np.isfinite(after) | (after < before if larger_is_better else after > before)
    return int((np.isfinite(before) & worse).sum())


def finite_tasks(values: np.ndarray) -> np.ndarray:
    """Which tasks [tasks] have a finite score at every step: [tasks, steps] -> bool [tasks]."""
    found: np.ndarray = np.isfinite(values).all(axis=1)
    return found


def summary(values: np.ndarray, larger_is_better: bool | None = None) -> dict[str, Any]:
    """Mean and median with their 95 % intervals over tasks of every step; worst tasks of the last step.

    Tasks with a non-finite value at any step are counted in `diverged` and left out of every mean and median.

    Args:
        values: [tasks, steps + 1].
        larger_is_better: the metric's direction. None: neither direction is better, as for a coverage; `worst` is
            then the smallest value, since too little coverage is worse.
    """
    kept = values[finite_tasks(values)]

    def interval(column: np.ndarray) -> dict[str, Any]:
        if len(column) == 0:
            return {"mean": None, "ci95": None, "median": None, "median_ci": None}
        (mean, half), (median, ends) = mean_and_half(column), middle(column)
        known = None if ends is None else list(ends)
        return {"mean": float(mean), "ci95": float(half), "median": median, "median_ci": known}

    last = kept[:, -1]
    worst = None if len(last) == 0 else float(last.max() if larger_is_better is False else last.min())
    share = worst_share(last, larger_is_better) if len(last) else None
    return {
        **interval(last),
        "tasks": len(values),
        "diverged": len(values) - len(kept),
        "worst": worst,
        "worst_share": share,
        "heavy_tailed": share is not None and share > MOST_SHARE,
        "made_worse": made_worse(values, larger_is_better),
        "larger_is_better": larger_is_better,
        "per_step": [interval(kept[:, step]) for step in range(values.shape[1])],
    }


def band(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Mean and half-width of the 95 % interval over tasks: [tasks, k] -> [k], [k], tasks left out.

    A task with any score that is inf or NaN is left out at every step and counted. With one task the width is 0.
    """
    kept = scores[finite_tasks(scores)].astype(np.float64)
    mean, half = mean_and_half(kept)
    return mean, half, len(scores) - len(kept)


def over_tasks(values: np.ndarray) -> Interval:
    """Mean and NORMAL s / sqrt(tasks) of one value per task, [tasks]; those that are not finite are left out."""
    kept = values[np.isfinite(values)]
    if not len(kept):
        return Interval(None, None)
    mean, half = mean_and_half(kept)
    return Interval(float(mean), float(half) if len(kept) > 1 else None)


def over_seeds(means: Sequence[float]) -> Interval:
    """Mean over seeds of each seed's mean, and Student's t with n - 1 degrees of freedom times s / sqrt(n)."""
    n = len(means)
    if n == 0:
        return Interval(None, None)
    half = t_quantile(n - 1) * float(np.std(means, ddof=1)) / math.sqrt(n) if n > 1 else None
    return Interval(float(np.mean(means)), half)


def difference(one: np.ndarray, two: np.ndarray) -> Difference | None:
    """The mean difference of two groups of runs, [seeds, tasks] each, over the tasks where every run is finite.

    With at least LEAST_SEEDS seeds in both groups, the interval is the `crossed` one. With fewer, seeds are averaged,
    the paired differences of the tasks give 1.96 s / sqrt(tasks), and the claim is about these checkpoints only. None
    if there is no task where every run is finite. The sign test is always about these checkpoints.
    """
    finite = np.isfinite(one).all(0) & np.isfinite(two).all(0)
    one, two, lost = one[:, finite], two[:, finite], int((~finite).sum())
    tasks = one.shape[1]
    if tasks == 0:
        return None
    apart = one.mean(0) - two.mean(0)
    beside: dict[str, Any] = {"signs": sign_test(apart), "worst": worst_share(np.abs(apart), False) or 0.0}
    if min(len(one), len(two)) >= LEAST_SEEDS and tasks > 1:
        mean, half, p = crossed(one, two)
        return Difference(mean, half, True, tasks, lost, p, **beside)
    paired = over_tasks(apart)
    assert paired.mean is not None
    if tasks == 1 or paired.half is None:
        return Difference(paired.mean, None, False, tasks, lost, **beside)
    p = _p(paired.mean, paired.half / NORMAL, math.inf)
    return Difference(paired.mean, paired.half, False, tasks, lost, p, **beside)


def sign_test(differences: np.ndarray) -> Signs:
    """How often one is larger and how often smaller, [n]; p of the two-sided sign test, which ties do not enter."""
    from scipy.special import bdtr

    larger, smaller = int((differences > 0).sum()), int((differences < 0).sum())
    p = min(2.0 * float(bdtr(min(larger, smaller), larger + smaller, 0.5)), 1.0) if larger + smaller else 1.0
    return Signs(larger, smaller, p)


def crossed(one: np.ndarray, two: np.ndarray) -> tuple[float, float, float]:
    """Mean difference of two algorithms, the half-width of its 95 % interval, its p: seeds and tasks both random.

    Every seed is tested on every task: scores y [n, T] of algorithm a with n_a seeds. With random effects of the seed,
    of the task and of their interaction,

        y[a, s, t] = mu_a + S[a, s] + Q[a, t] + E[a, s, t],        D = mean of y[1] - mean of y[2],
        Var D = sum over a of (var S_a / n_a + var E_a / (n_a T))  +  var(Q_1 - Q_2) / T.

    Three mean squares estimate it. m_a[s], the mean of seed s over tasks, has variance
    A_a = var S_a + var E_a / T. d[t], the difference of the two means over seeds on task t, has
    B = var(Q_1 - Q_2) + sum of var E_a / n_a. The residuals y - m[s] - m[t] + m, with (n_a - 1)(T - 1) degrees of
    freedom, give R_a = var E_a. The first two count E twice, so

        V = A_1 / n_1 + A_2 / n_2 + B / T - R_1 / (n_1 T) - R_2 / (n_2 T),

    is unbiased. Neither the seeds' part nor the tasks' part alone can exceed Var D, so V is raised to at least each of
    them. The half-width is t sqrt(V), where t has the Welch-Satterthwaite degrees of freedom
    V^2 / sum of (term^2 / its degrees of freedom).

    Seeds of the two algorithms count as independent trainings even if the seed numbers are equal: if the trainings
    share tasks, so that their errors are correlated, the interval is too wide rather than too narrow.
    """
    tasks = one.shape[1]
    seeds, terms = 0.0, []
    residual = 0.0
    for y in (one, two):
        n = len(y)
        part = float(y.mean(1).var(ddof=1)) / n
        rest = y - y.mean(1, keepdims=True) - y.mean(0, keepdims=True) + y.mean()
        twice = float((rest**2).sum()) / ((n - 1) * (tasks - 1)) / (n * tasks)
        seeds, residual = seeds + part, residual + twice
        terms += [(part, n - 1), (twice, (n - 1) * (tasks - 1))]
    between = float((one.mean(0) - two.mean(0)).var(ddof=1)) / tasks
    terms.append((between, tasks - 1))
    variance = max(seeds + between - residual, seeds, between)
    mean = float(one.mean() - two.mean())
    if variance == 0:
        return mean, 0.0, _p(mean, 0.0, 1.0)
    df = max(variance**2 / sum(term**2 / free for term, free in terms), 1.0)
    return mean, t_quantile(df) * math.sqrt(variance), _p(mean, math.sqrt(variance), df)


def _p(mean: float, deviation: float, df: float) -> float:
    if deviation == 0:
        return 1.0 if mean == 0 else 0.0
    return t_tails(mean / deviation, df)
