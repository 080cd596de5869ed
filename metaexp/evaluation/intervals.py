"""Intervals and differences of test scores: over tasks, over seeds, and over both at once. NumPy only.

The three answer three questions and are never mixed:
    over_tasks   how well is ONE trained learner measured?            1.96 s / sqrt(tasks)
    over_seeds   how much would a new training differ?                Student's t over the seeds' means
    crossed      do two algorithms differ, for new seeds and tasks?   both random
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEAST_SEEDS = 3  # seeds per group from which a difference is said of algorithms


class Interval(NamedTuple):
    """A mean and the half-width of its 95 % interval; None where the numbers do not give one."""

    mean: float | None
    half: float | None


class Difference(NamedTuple):
    """Group one minus group two on the same query sets."""

    mean: float
    half: float | None
    crossed: bool  # a claim about algorithms; else about these checkpoints alone
    tasks: int
    lost: int  # tasks left out because some run is not finite there
    p: float | None = None  # of a mean as far from 0 as this one, were there no difference


def t_quantile(df: float) -> float:
    """The 97.5 % quantile of Student's t with `df` >= 1 degrees of freedom, which need not be whole.

    With t = sqrt(df) tan(a) the distribution function is 1/2 + the integral of cos(u)^(df - 1) over [0, a] times
    gamma((df + 1) / 2) / (sqrt(pi) gamma(df / 2)): Simpson's rule and bisection on a. From 200 degrees on the first
    terms of the expansion in 1 / df about the normal quantile.
    """
    if df >= 200:
        z = 1.959963985
        return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi)
    weights = np.ones(201)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    low, high = 0.0, math.atan(13 / math.sqrt(df))  # at 1 degree of freedom the quantile is 12.7
    for _ in range(40):
        middle = (low + high) / 2
        values = np.cos(np.linspace(0.0, middle, len(weights))) ** (df - 1)
        inside = scale * float(weights @ values) * middle / (len(weights) - 1) / 3
        low, high = (middle, high) if inside < 0.475 else (low, middle)
    return math.sqrt(df) * math.tan((low + high) / 2)


def t_tails(t: float, df: float) -> float:
    """The probability that Student's t with `df` >= 1 degrees of freedom is farther from 0 than t; to about 1e-9.

    1 - 2 times the integral of `t_quantile`, in steps that grow finer as the integrand narrows; by the normal
    distribution from a million degrees of freedom on.
    """
    if df > 1e6 or math.isinf(t):
        return math.erfc(abs(t) / math.sqrt(2))
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi)
    end = math.atan(min(abs(t), 40.0) / math.sqrt(df)) if df > 30 else math.atan(abs(t) / math.sqrt(df))
    weights = np.ones(2001)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    inside = 2 * scale * float(weights @ np.cos(np.linspace(0.0, end, 2001)) ** (df - 1)) * end / 2000 / 3
    return min(max(1.0 - inside, 0.0), 1.0)


def holm(found: Sequence[float]) -> list[float]:
    """p values for several questions asked at once, in their order: the chance of any error stays at each one's level.

    "A Simple Sequentially Rejective Multiple Test Procedure", Holm, 1979: the i-th smallest of n counts n - i + 1
    times, and no less than those before it.
    """
    adjusted, least = [0.0] * len(found), 0.0
    for i, place in enumerate(sorted(range(len(found)), key=found.__getitem__)):
        least = max(least, min(1.0, (len(found) - i) * found[place]))
        adjusted[place] = least
    return adjusted


def over_tasks(values: np.ndarray) -> Interval:
    """Mean and 1.96 s / sqrt(tasks) of one value per task, [tasks]; those that are not finite are left out."""
    kept = values[np.isfinite(values)]
    if not len(kept):
        return Interval(None, None)
    half = 1.96 * float(kept.std(ddof=1)) / math.sqrt(len(kept)) if len(kept) > 1 else None
    return Interval(float(kept.mean()), half)


def over_seeds(means: list[float]) -> Interval:
    """Mean over seeds of each seed's mean, and Student's t with n - 1 degrees of freedom times s / sqrt(n)."""
    n = len(means)
    if n == 0:
        return Interval(None, None)
    half = t_quantile(n - 1) * float(np.std(means, ddof=1)) / math.sqrt(n) if n > 1 else None
    return Interval(float(np.mean(means)), half)


def difference(one: np.ndarray, two: np.ndarray) -> Difference | None:
    """The mean difference of two groups of runs, [seeds, tasks] each, over the tasks where every run is finite.

    With at least LEAST_SEEDS seeds in both, the interval is the `crossed` one. Else seeds are averaged, the paired
    differences of the tasks give 1.96 s / sqrt(tasks), and the claim is about these checkpoints. None: no such task.
    """
    finite = np.isfinite(one).all(0) & np.isfinite(two).all(0)
    one, two, lost = one[:, finite], two[:, finite], int((~finite).sum())
    tasks = one.shape[1]
    if tasks == 0:
        return None
    if min(len(one), len(two)) >= LEAST_SEEDS and tasks > 1:
        mean, half, p = crossed(one, two)
        return Difference(mean, half, True, tasks, lost, p)
    paired = over_tasks(one.mean(0) - two.mean(0))
    assert paired.mean is not None
    if tasks == 1 or paired.half is None:
        return Difference(paired.mean, None, False, tasks, lost)
    return Difference(paired.mean, paired.half, False, tasks, lost, _p(paired.mean, paired.half / 1.96, math.inf))


def crossed(one: np.ndarray, two: np.ndarray) -> tuple[float, float, float]:
    """Mean difference of two algorithms, the half-width of its 95 % interval, its p: seeds and tasks both random.

    Every seed is tested on every task: scores y [n, T] of algorithm a with n_a seeds. With random effects of the seed,
    of the task and of the two together,

        y[a, s, t] = mu_a + S[a, s] + Q[a, t] + E[a, s, t],        D = mean of y[1] - mean of y[2],
        Var D = sum over a of (var S_a / n_a + var E_a / (n_a T))  +  var(Q_1 - Q_2) / T.

    Three mean squares estimate it. m_a[s], the mean of seed s over tasks, has the variance
    A_a = var S_a + var E_a / T. d[t], the difference of the two means over seeds on task t, has
    B = var(Q_1 - Q_2) + sum of var E_a / n_a. The residuals y - m[s] - m[t] + m, with (n_a - 1)(T - 1) degrees of
    freedom, give R_a = var E_a. The first two count E twice, so

        V = A_1 / n_1 + A_2 / n_2 + B / T - R_1 / (n_1 T) - R_2 / (n_2 T),

    without bias. Neither the seeds' part nor the tasks' part alone can exceed Var D, so V is taken to be at least
    each of them. The half-width is t sqrt(V), t of Welch and Satterthwaite's degrees of freedom
    V^2 / sum of (term^2 / its degrees of freedom).

    Seeds of the two algorithms count as independent trainings, also where their numbers are equal: where they share
    training tasks, and so err together, the interval is too wide rather than too narrow.
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
