"""scripts/matrix.py: what counts as learning, and cells that are made once."""

import json
import sys
from typing import Any
from unittest.mock import patch

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import matrix
from crossing import cells, page

FLOORS = {"mean": 2.0, "scratch": 1.0, "untrained": 2.0, "neighbour": 1.5}


def row(mean: float = 0.5, half: float = 0.1, **more: Any) -> dict[str, Any]:
    better = {floor: [value - mean, half, 0] for floor, value in FLOORS.items()}
    made = {"mean": mean, "median": mean, "steps": 10, "metric": "mse", "larger_is_better": False, "floors": FLOORS}
    made |= {"better_by": better, "per_step": [2.0, mean], "date": "2026-01-01", "versions": {"torch": "2"}}
    return made | {"machine": {"cpu": "a processor"}} | more


def test_a_cell_learns_if_its_paired_intervals_exclude_0_on_the_right_side() -> None:
    assert page.verdict("a:b", row(), {}) == ("learns", "")
    assert page.verdict("a:b", row(0.95), {})[0] == "below scratch"  # better by 0.05, with an interval of 0.1
    assert page.verdict("a:b", row(1.7), {})[0] == "below scratch"
    assert page.verdict("a:b", row(1.95), {}) == ("at chance", "not better than mean, scratch, untrained")
    assert page.verdict("a:b", row(1.95), {"a:b": "why"}) == ("cannot", "why")
    assert page.verdict("a:b", row(1.95), {"*:b": "why"})[0] == "at chance"  # a reason for scratch excuses no chance
    assert page.verdict("a:b", row(0.95), {"*:b": "why"}) == ("cannot", "why")
    assert page.verdict("a:b", {"failed": "a line"}, {}) == ("failed", "a line")


def test_later_inner_steps_that_hurt_are_found() -> None:
    assert page.runs_away(row(per_step=[13.5, 1.3, 1.5]))
    assert page.runs_away(row(per_step=[13.5, 1.3, None]))
    assert not page.runs_away(row(per_step=[13.5, 1.3, 1.31]))
    accuracy = {"larger_is_better": True}
    assert page.runs_away(row(per_step=[0.2, 0.8, 0.6], **accuracy))
    assert not page.runs_away(row(per_step=[0.2, 0.8, 0.9], **accuracy))


def test_cells_at_chance_come_first() -> None:
    plan = {"families": {"b": {"budget": 5}}, "methods": ["a", "c", "d"], "reasons": {}}
    text = page.page(plan, {"a:b": row(), "c:b": row(1.95), "d:b": {**row(), "failed": "refused"}})
    assert text.index("## At chance: 1") < text.index("## Failed: 1") < text.index("## Learns: 1")
    assert "| `a` | learns |" in text


def test_the_digest_follows_the_settings_and_the_budget() -> None:
    one = cells.Cell("maml", "clusters", 5.0, 10, 10)
    assert one.digest() == cells.Cell("maml", "clusters", 5.0, 10, 10).digest()
    others = [
        one._replace(budget=6.0),
        one._replace(tasks=11),
        one._replace(words=("algo.inner_lr=0.3",)),
        one._replace(algo="anil"),
    ]
    assert len({one.digest(), *(other.digest() for other in others)}) == 5


def test_a_cell_is_made_once_and_again_if_its_settings_change(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def fake(cell: cells.Cell) -> dict[str, Any]:
        made.append(f"{cell.algo} {cell.tasks}")
        return row() | {"digest": cell.digest()}

    def run(*typed: str) -> None:
        files = ["--data", tmp_path, "--out", tmp_path / "matrix.json", "--page", tmp_path / "matrix.md"]
        monkeypatch.setattr(sys, "argv", ["matrix.py", *map(str, files), *typed])
        with patch.object(cells, "guarded", fake):
            matrix.main()

    run("--cells", "maml:sine,l2l:sine")
    run("--cells", "maml:sine")
    assert made == ["maml 400", "l2l 100"]
    run("--cells", "maml:sine", "--budget", "2")
    run("--cells", "maml:sine", "--budget", "2", "--again")
    assert made[2:] == ["maml 400", "maml 400"]
    kept = json.loads((tmp_path / "matrix.json").read_text())
    assert kept["maml:sine"]["budget"] == 10
    assert "protonet:sine" not in kept
    assert (tmp_path / "matrix.md").read_text().startswith("# Every method on every family")


def test_a_real_cell() -> None:
    made = cells.run(cells.Cell("r2d2", "linear", 0.3, 20, 10))
    assert made["steps"] >= 1
    assert set(made["floors"]) == {"mean", "neighbour", "scratch", "untrained"}
    difference, half, lost = made["better_by"]["mean"]
    assert lost == 0
    assert difference == pytest.approx(made["floors"]["mean"] - made["mean"], rel=1e-3)
    assert half > 0
