"""python scripts/bandit_bound.py [--rows 10,5 100,5 ...]: certified upper bounds for coin bandits.

No rule whatever gets more than the printed return, on average over bandits whose k arms pay with probabilities drawn
from Beta(1, 1), in n pulls. That exactly one arm is pulled at every time is relaxed: it holds on average, and a
multiplier, a price per pull, is paid for each time t. Then the arms are independent, and the best that one arm can do
at these prices is found by dynamic programming over its counts. For ANY prices

    bound(prices) = sum of the prices + k * value of one arm at these prices  >=  the return of every rule

(Whittle 1988, "Restless Bandits: Activity Allocation in a Changing World"; with a price of its own for each time as in
Brown, Smith 2020, "Index Policies and Performance Bounds for Dynamic Selection Problems"). The prices, piecewise linear
in time, are chosen to make the bound small, by L-BFGS on a smoothed form; the printed number is the exact bound at the
prices found, in float64. For few arms n k / (k + 1), what one gets who knows the arms, may be smaller.

Writes scripts/results/bandit_bound.json, which keeps the rows that are not asked for.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

OUT = Path(__file__).resolve().parent / "results" / "bandit_bound.json"
ROWS = [(n, k) for n in (10, 100, 500) for k in (5, 10, 50)]


def bound(prices: np.ndarray, arms: int, temperature: float = 0.0, prior: tuple[int, int] = (1, 1)) -> float:
    """The bound at these prices [pulls]; with a temperature above 0 its smoothed form, which is larger."""
    return with_gradient(prices, arms, temperature, prior, gradient=False)[0]


def with_gradient(
    prices: np.ndarray, arms: int, temperature: float, prior: tuple[int, int] = (1, 1), gradient: bool = True
) -> tuple[float, np.ndarray]:
    """The bound and its gradient [pulls]: 1 - arms * the probability that an arm is pulled at each time."""
    n, (a, b) = len(prices), prior
    paid, lost = np.arange(n + 1.0)[:, None], np.arange(n + 1.0)
    chance = (a + paid) / (a + b + paid + lost)  # that an arm pays, by its counts
    value = np.zeros((n + 1, n + 1))  # of one arm from a time on, by its counts
    pulled = []  # the probability of a pull, by time and counts
    for t in reversed(range(n)):
        p, off = chance[: t + 1, : t + 1], value[: t + 1, : t + 1]
        on = p * (1 + value[1 : t + 2, : t + 1]) + (1 - p) * value[: t + 1, 1 : t + 2] - prices[t]
        if temperature:
            value = off + temperature * np.logaddexp(0, (on - off) / temperature)
        else:
            value = np.maximum(on, off)
        if gradient:
            x = on - off
            pull = 0.5 * (1 + np.tanh(x / (2 * temperature))) if temperature else (x > 0)
            pulled.append(pull.astype(np.float32))
    found = float(prices.sum() + arms * value[0, 0])
    if not gradient:
        return found, np.zeros(n)
    there, often = np.ones((1, 1)), np.zeros(n)  # probability of the counts; of a pull at each time
    for t, pull in enumerate(reversed(pulled)):
        p, moved = chance[: t + 1, : t + 1], there * pull
        often[t] = moved.sum()
        then = np.zeros((t + 2, t + 2))
        then[: t + 1, : t + 1] = there - moved
        then[1:, : t + 1] += p * moved
        then[: t + 1, 1:] += (1 - p) * moved
        there = then
    return found, 1 - arms * often


def tightened(
    pulls: int, arms: int, knots: int, evaluations: int, prior: tuple[int, int] = (1, 1)
) -> tuple[float, np.ndarray]:
    """The smallest exact bound found, and its prices [pulls]: piecewise linear in time, with so many knots.

    Args:
        evaluations: of the bound at most, for each of the temperatures.
    """
    time_ = (np.arange(pulls) + 0.5) / pulls
    hats = np.stack([np.interp(time_, np.linspace(0, 1, knots), one) for one in np.eye(knots)])  # [knots, pulls]

    def smooth(heights: np.ndarray, temperature: float) -> tuple[float, np.ndarray]:
        value, gradient = with_gradient(heights @ hats, arms, temperature, prior)
        return value, hats @ gradient

    heights = np.full(knots, 0.75)
    best = (np.inf, heights @ hats)
    for temperature in (0.02, 0.005, 0.001, 0.0003):
        options = {"maxfun": evaluations, "maxiter": evaluations, "ftol": 1e-13, "gtol": 1e-9}
        heights = minimize(smooth, heights, (temperature,), "L-BFGS-B", True, options=options).x
        best = min(best, (bound(heights @ hats, arms, 0.0, prior), heights @ hats), key=lambda one: one[0])
    return best


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", nargs="*", default=[f"{n},{k}" for n, k in ROWS], help="pulls,arms")
    p.add_argument("--knots", type=int, default=30, help="of the prices, for rows of at most 100 pulls")
    p.add_argument("--long", type=int, nargs=2, default=(12, 14), help="knots and evaluations of longer rows")
    a = p.parse_args()
    known = json.loads(OUT.read_text()) if OUT.exists() else {"rows": []}
    rows = {(row["pulls"], row["arms"]): row for row in known["rows"]}
    for row in a.rows:
        n, k = map(int, row.split(","))
        began = time.process_time()
        _, prices = tightened(n, k, *(a.long if n > 100 else (min(a.knots, n), 60)))
        seconds = time.process_time() - began
        written = [round(float(x), 5) for x in prices]
        found = bound(np.array(written), k)  # of the prices as they are written
        print(f"n={n} k={k}: at most {found:.4f} ({seconds:.0f} s of a core)", flush=True)
        rows[n, k] = {"pulls": n, "arms": k, "bound": found, "seconds": round(seconds, 1), "prices": written}
        text = json.dumps({"command": "python scripts/bandit_bound.py", "rows": [rows[key] for key in sorted(rows)]})
        OUT.write_text(text.replace('{"pulls"', '\n{"pulls"') + "\n")


if __name__ == "__main__":
    main()
