"""Fewer training tasks: which are used, that no others are, and what is fitted to them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_table import rows as made_rows
from made_table import table, write
from small_runs import train
from torch import Tensor

from metaexp.config.settings import load
from metaexp.errors import ConfigError
from metaexp.evaluate import evaluate
from metaexp.tasks.arrays import Arrays
from metaexp.tasks.base import TaskFamily
from metaexp.tasks.classes import Classes
from metaexp.tasks.clusters import Clusters
from metaexp.tasks.gp import GP
from metaexp.tasks.linear import Linear
from metaexp.tasks.mixture import Mixture
from metaexp.tasks.quadratic import Quadratic
from metaexp.tasks.sine import Sine
from metaexp.tasks.sine_line import SineLine
from metaexp.training.few_tasks import use_few


def rows(x: Tensor, y: Tensor) -> set[tuple[float, ...]]:
    """The examples [*n, dim] as tuples."""
    flat = torch.cat([x.flatten(0, -2), y.flatten(0, -2)], -1)
    return set(map(tuple, flat.tolist()))


@pytest.mark.parametrize("make", [Sine, SineLine, Linear, Quadratic, Mixture, GP])
def test_generated_tasks_are_the_first_ones_and_no_others(make: type[TaskFamily]) -> None:
    whole, few = make(seed=3), make(seed=3)
    few.restrict(4)
    assert (whole.train_count, few.train_count) == (None, 4)
    shots = whole.sizes["train"]["shots"]
    first, again = whole.sample("train", torch.arange(4), shots), few.sample("train", torch.arange(4, 40), shots)
    assert torch.equal(again.support.x, first.support.x.repeat(9, 1, 1))
    assert torch.equal(again.query.y, first.query.y.repeat(9, 1, 1))
    assert torch.equal(whole.sample("test", torch.arange(9)).query.x, few.sample("test", torch.arange(9)).query.x)
    there = rows(first.support.x, first.support.y) | rows(first.query.x, first.query.y)
    pooled = few.pooled(torch.arange(50), 16)
    drawn = rows(pooled.x, pooled.y)
    assert drawn <= there
    assert len(drawn) > 0.9 * len(there)  # 800 draws of all of them
    assert not torch.equal(pooled.x[0], pooled.x[4])  # batches do not repeat with the tasks
    same = whole.pooled(torch.arange(5), 3), whole.pool("train", torch.arange(5), 3)
    assert torch.equal(same[0].x, same[1].x)


def test_pooled_classes_of_generated_tasks_are_those_of_each_task() -> None:
    few = Clusters(ways=3, shots=2, queries=4)
    few.restrict(5)
    first = few.sample("train", torch.arange(5))
    assert few.pool_dim == 15
    pooled = few.pooled(torch.arange(40), 10)
    assert pooled.y.shape == (40, 10, 15)
    assert set(pooled.y.sum(-1).flatten().tolist()) == {1.0}
    x, label = pooled.x.flatten(0, 1), pooled.y.flatten(0, 1).argmax(-1)
    for point, of in zip(x[:60], label[:60], strict=True):
        task, way = divmod(int(of), 3)
        own = torch.cat([part.x[task][part.y[task][:, way] == 1] for part in (first.support, first.query)])
        assert (own == point).all(-1).any()


def classes(seed: int = 0) -> Classes:
    data = torch.arange(40).repeat_interleave(6).to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 4, 4)
    splits = {"train": list(range(30)), "val": list(range(30, 35)), "test": list(range(35, 40))}
    return Classes(data, [6] * 40, splits, shots=1, queries=2, ways=3, seed=seed)


def test_classes_are_nested_and_depend_on_the_seed() -> None:
    found = {}
    for seed in (0, 1):
        for most in (5, 8, 30):
            family = classes(seed)
            family.restrict(most)
            assert (family.train_count, family.pool_dim) == (most, most)
            seen = family.sample("train", torch.arange(300)).info["classes"].flatten().tolist()
            found[seed, most] = set(seen)
            assert len(found[seed, most]) == most
            assert family.pool("train", torch.arange(200), 4).y.sum((0, 1)).min() > 0
    assert found[0, 5] < found[0, 8] < found[0, 30] == set(range(30))
    assert found[0, 5] != found[1, 5]
    for most, says in ((31, "train_tasks=31: more than the 30 training classes that there are"), (2, "takes ways=3")):
        with pytest.raises(ValueError, match=says):
            classes().restrict(most)


def test_arrays_are_standardised_by_the_tasks_that_are_used(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(5, 3, (200, 2)), draw.normal(9, 2, (200, 1))
    np.savez(tmp_path / "a.npz", x=x, y=y, task=np.repeat(np.arange(10), 20))
    whole, few = (Arrays(str(tmp_path / "a.npz"), shots=5, queries=5, standardise="xy") for _ in range(2))
    few.restrict(2)
    kept = few.splits["train"].tolist()
    assert set(kept) < set(whole.splits["train"].tolist())
    assert torch.equal(few.splits["test"], whole.splits["test"])
    train = np.isin(np.repeat(np.arange(10), 20), kept)
    assert few.x_mean.numpy() == pytest.approx(x[train].mean(0), rel=1e-5)
    assert few.y_std.numpy() == pytest.approx(y[train].std(0), rel=1e-5)
    assert set(few.sample("train", torch.arange(200)).info["task"].tolist()) == set(kept)
    seen = rows(few.pool("train", torch.arange(30), 8).x, few.pool("train", torch.arange(30), 8).y)
    assert len(seen) == 40  # two tasks of 20 rows


def test_tables_are_fitted_to_the_tasks_that_are_used(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", made_rows())
    whole, few = (table(file, shots=1, queries=1, seed=1) for _ in range(2))
    few.restrict(4)
    assert (whole.train_count, few.train_count) == (len(whole.able["train"]), 4)
    assert few.able["test"] == whole.able["test"]
    assert few.protocol == whole.protocol
    kept = few.able["train"]
    assert set(kept) < set(whole.able["train"])
    assert set(few.sample("train", torch.arange(25)).info["task"].tolist()) == set(kept)
    raw = whole.y.double() * whole.y_std + whole.y_mean
    own = torch.cat([raw[whole.starts[i] : whole.starts[i] + whole.counts[i]] for i in kept])
    assert float(few.y_mean) == pytest.approx(float(own.mean()), rel=1e-5)
    again = few.y.double() * few.y_std + few.y_mean
    assert torch.allclose(again, raw, atol=1e-4)
    with pytest.raises(ValueError, match="train_tasks=99: more than the"):
        whole.restrict(99)


def test_a_run_keeps_how_many_tasks_it_had_and_is_tested_again_with_the_same_numbers(tmp_path: Path) -> None:
    folder = train(tmp_path, "algo=joint", "task=sine", "train_tasks=2", "test.curve_shots=[]")
    result = json.loads((folder / "result.json").read_text())
    assert result["train_tasks"] == 2
    evaluate([f"run={folder}"])
    again = json.loads((folder / "evaluations/1/result.json").read_text())
    assert again["test"]["mse"]["mean"] == result["test"]["mse"]["mean"]
    other = train(tmp_path, "algo=joint", "task=sine", "test.curve_shots=[]")
    whole = json.loads((other / "result.json").read_text())
    assert whole["train_tasks"] is None
    assert whole["test"]["mse"]["mean"] != result["test"]["mse"]["mean"]
    assert whole["protocol"] == result["protocol"]  # the same test tasks


def test_settings_that_cannot_be_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"train_tasks=0: must be .*at least 1"):
        load(["task=sine", "train_tasks=0"])
    with pytest.raises(ConfigError, match=r"^train_tasks=31: more than the 30 training classes that there are$"):
        use_few(classes(), {"train_tasks": 31})

    class Counter(Sine):
        def keys(self, split: str, indices: Tensor) -> Tensor:
            return indices

    with pytest.raises(ConfigError, match=r"^train_tasks=31: Counter.sample must draw from self.keys"):
        use_few(Counter(), {"train_tasks": 31})
    assert use_few(classes(), {}).train_count == 30
