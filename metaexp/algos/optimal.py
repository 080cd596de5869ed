"""The Bayes-optimal rule for bandits, by dynamic programming over all counts."""

from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaexp.algos.bandit_planner import BanditPlanner, Counts
from metaexp.constraints import checked

MOST = 300_000  # states; a minute of one core
State = tuple[int, ...]  # codes of the arms that were pulled, in order; a code is paid * (pulls + 1) + not paid


class Optimal(BanditPlanner):
    """The rule with the largest expected return there is, given the prior from which the arms are drawn.

    Backward induction over the posterior ("Bandit Problems", Berry, Fristedt, 1985, chapter 2). Arms are alike, so that
    a state is the multiset of their counts of paid and unpaid pulls; a pull changes one of them. Of equally good arms
    it takes the one with fewer paid pulls, then the one with fewer pulls, then the first. `finish` records the expected
    return. For coins (`task.kind=bernoulli`) and few pulls.

    Raises:
        ValueError: arms that are no coins, or more than 300,000 states.
    """

    kinds = ("bernoulli",)

    @checked
    def __init__(self, family: Any, model: Any = None, loss: Any = None, mapping: str | int = "auto"):
        super().__init__(family, model, loss, mapping)
        world = self.family
        if world.steps > 100 or (states := number_of_states(world.arms, world.steps)) > MOST:
            many = "too many" if world.steps > 100 else f"{states:,}"
            raise ValueError(
                f"family: task.arms={world.arms} with task.pulls={world.steps} has {many} states for dynamic "
                f"programming (at most {MOST:,}); use algo=gittins, nearly optimal, or the upper bound algo=informed"
            )
        self.expected, numbers, hashes, best = solve(world.arms, world.steps, *world.prior)
        self._numbers, self._hashes, self._best = map(torch.from_numpy, (numbers, hashes, best))

    def finish(self, validate: Callable[[int], float]) -> dict[str, Any]:
        """The expected return over the prior."""
        return {"expected_return": self.expected}

    def choose(self, counts: Counts, key: Tensor) -> Tensor:
        """The arm, int64 []."""
        paid = counts.total.round().long()
        code = paid * (self.family.steps + 1) + counts.pulls.long() - paid  # [arms]
        numbers, hashes, best = (t.to(code.device) for t in (self._numbers, self._hashes, self._best))
        place = torch.searchsorted(hashes, numbers[code].sum()[None])[0].clamp(max=len(hashes) - 1)
        return (code == best[place]).long().argmax()


def number_of_states(arms: int, pulls: int) -> int:
    """Multisets of at most `arms` counts with fewer than `pulls` pulls in all."""
    count = np.zeros((pulls, min(arms, pulls) + 1))
    count[0, 0] = 1
    for size in range(1, pulls):
        for _ in range(size + 1):  # kinds of arms with so many pulls
            for total in range(size, pulls):
                count[total, 1:] += count[total - size, :-1]
    return int(count.sum())


@lru_cache(maxsize=4)
def solve(arms: int, pulls: int, a: int = 1, b: int = 1) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """The expected return of the best rule, and the rule.

    Returns:
        The expected return; a random number for each code [codes], 0 for an arm never pulled; for all states, ordered
        by the sum of their arms' numbers (modulo 2^64): this sum, and the code of the arm to pull.
    """
    width = pulls + 1
    layers: list[list[State]] = [[()]]
    for _ in range(pulls - 1):
        pulls_of = ((state, code) for state in layers[-1] for code in _codes(state, arms))
        layers.append(list({_after(state, code, code + new) for state, code in pulls_of for new in (width, 1)}))
    values: dict[State, float] = {}
    best: dict[State, int] = {}
    for layer in reversed(layers):
        later, values = values, {}
        for state in layer:
            found = []
            for code in _codes(state, arms):
                paid, lost = divmod(code, width)
                p = (a + paid) / (a + b + paid + lost)
                won = later.get(_after(state, code, code + width), 0.0)
                found.append((p * (1 + won) + (1 - p) * later.get(_after(state, code, code + 1), 0.0), -code))
            value = max(found)[0]
            values[state] = value
            best[state] = min(-code for one, code in found if one > value - 1e-12)  # rounding is no reason
    draw = Random(0)
    numbers = [0, *(draw.getrandbits(64) for _ in range(width * width - 1))]
    sums = np.array([sum(numbers[code] for code in state) % 2**64 for state in best], np.uint64).astype(np.int64)
    order = np.argsort(sums)
    if len(np.unique(sums)) != len(sums):
        raise RuntimeError("two states have the same sum of random numbers")
    codes = np.fromiter(best.values(), np.int64, len(best))
    return values[()], np.array(numbers, np.uint64).astype(np.int64), sums[order], codes[order]


def _codes(state: State, arms: int) -> list[int]:
    """Of the arms that may be pulled, each different one once."""
    return sorted({*state, 0} if len(state) < arms else set(state))


def _after(state: State, code: int, new: int) -> State:
    rest = list(state)
    if code:
        rest.remove(code)
    return tuple(sorted([*rest, new]))
