"""The bound and the table of bandits: against dynamic programming, finite differences, and made runs."""

import json
import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import bandit_bound
import bandits

from metaexp.algos.optimal import solve


@pytest.mark.parametrize(("pulls", "arms", "prior"), [(4, 2, (1, 1)), (8, 3, (1, 1)), (10, 5, (1, 1)), (6, 4, (2, 1))])
def test_no_rule_gets_more_than_the_bound(pulls: int, arms: int, prior: tuple[int, int]) -> None:
    """At any prices, and within 4 % of the optimum at those found (that much is lost by the relaxation)."""
    optimum = solve(arms, pulls, *prior)[0]
    draw = np.random.default_rng(0)
    for _ in range(20):
        assert bandit_bound.bound(draw.uniform(0.2, 1, pulls), arms, 0.0, prior) >= optimum - 1e-12
    found, prices = bandit_bound.tightened(pulls, arms, pulls, 40, prior)
    assert optimum - 1e-12 <= found <= 1.04 * optimum
    assert bandit_bound.bound(prices, arms, 0.0, prior) == found


def test_prices_of_one_are_the_value_of_nothing() -> None:
    """Nobody pulls at prices of 1, so the bound is their sum; at prices of 0 each of k arms is pulled every time."""
    assert bandit_bound.bound(np.ones(6), 3) == 6.0
    assert bandit_bound.bound(np.zeros(6), 3) == pytest.approx(3 * 6 / 2)


@pytest.mark.parametrize("temperature", [0.02, 0.1])
def test_the_gradient_is_that_of_finite_differences(temperature: float) -> None:
    prices = np.linspace(0.8, 0.6, 7)
    value, gradient = bandit_bound.with_gradient(prices, 3, temperature)
    assert value >= bandit_bound.bound(prices, 3)
    for t in range(7):
        step = 1e-5 * (np.arange(7) == t)
        apart = bandit_bound.bound(prices + step, 3, temperature) - bandit_bound.bound(prices - step, 3, temperature)
        assert gradient[t] == pytest.approx(apart / 2e-5, abs=1e-5)


def test_the_committed_bounds_are_those_of_their_prices() -> None:
    rows = json.loads(bandit_bound.OUT.read_text())["rows"]
    assert len(rows) >= 6
    for row in rows:
        if row["pulls"] <= 100:
            assert bandit_bound.bound(np.array(row["prices"]), row["arms"]) == pytest.approx(row["bound"], abs=1e-9)


def test_a_row_of_the_table_is_made_and_learned_rows_are_read(tmp_path) -> None:
    row = bandits.played("ucb1 chosen", 10, 5, 400)
    assert row["tasks"] == 400
    assert row["chosen"] in bandits.GRIDS["ucb1 chosen"]
    assert 6.0 < row["return"]["mean"] < 7.0
    for seed, mean in enumerate((6.5, 6.7)):
        protocol = {"pulls": 10, "arms": 5, "kind": "bernoulli"}
        test = {metric: {"mean": mean, "ci95": 0.1, "tasks": 5000} for metric in ("return", "regret")}
        result = {"task": "bandit", "algo": "rl2", "seed": seed, "protocol": protocol, "test": test,
                  "speed": {"seconds": 60.0}, "versions": {"torch": "2"}, "steps": 9 + seed,
                  "machine": {"cpu": "x", "cores": 2}}  # fmt: skip
        begun = tmp_path / f"2026-11-28_begun{seed}"
        for name, more in ((begun.name, {}), (f"2026-11-29_{seed}", {"parent": {"folder": str(begun), "step": 5}})):
            (tmp_path / name).mkdir()
            (tmp_path / name / "result.json").write_text(json.dumps(result | more))
    (learned,) = bandits.learned([tmp_path])
    assert (learned["method"], learned["seeds"], learned["return"]["mean"]) == ("rl2", 2, pytest.approx(6.6))
    assert learned["return"]["seed_deviation"] == pytest.approx(0.2 / np.sqrt(2))
    assert learned["minutes"] == 2  # those of the run that it started from as well, which is no seed of its own
    text = bandits.page({"rows": [row], "learned": [learned]})
    assert "| 10 | 5 | rl2 | 6.500, 6.700 | 0.141 | 5,000 | 15 | 2 |" in text
    assert "2026-11-29; torch 2; x, 2 cores" in text
    assert "| n | k | random |" in text
    assert "6.600 ± 0.100" in text
    assert "6.660 (optimal)" in text


def test_the_page_is_that_of_the_committed_numbers() -> None:
    data = json.loads((ROOT / "scripts/results/bandits.json").read_text())
    assert (ROOT / "scripts/results/bandits.md").read_text() == bandits.page(data)
    assert bandits.short(data) in (ROOT / "docs/worlds.md").read_text()
    for row in data["rows"]:
        bound, _ = bandits.bounds()[row["pulls"], row["arms"]]
        if row["method"] != "informed":
            assert row["return"]["mean"] - 2 * row["return"]["ci95"] < bound
