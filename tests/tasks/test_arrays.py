"""Regression tasks from npz files."""

import logging
import math

import numpy as np
import pytest
import torch
from task_samples import ROWS, many

from metaexp.errors import DataError
from metaexp.random import permutation
from metaexp.tasks.arrays import Arrays
from metaexp.tasks.data.splits import by_fractions

SPLITS = ("train", "val", "test")


def test_array_episodes_draw_rows_of_one_task_without_replacement(tmp_path):
    family = Arrays(many(tmp_path), 5, 7)
    assert {split: len(members) for split, members in family.splits.items()} == {"train": 6, "val": 2, "test": 2}
    seen = {}
    for split in SPLITS:
        episode = family.sample(split, torch.arange(2000))
        x = torch.cat([episode.support.x, episode.query.x], 1)
        task, row = x[..., 0], x[..., 1]
        assert (task == task[:, :1]).all()
        assert (row.sort(-1).values.diff() > 0).all()
        assert torch.equal(torch.cat([episode.support.y, episode.query.y], 1), x.flip(-1))
        for t in task.unique():
            rows = row[task[:, 0] == t].flatten().long().bincount(minlength=ROWS[int(t)]).double()
            assert len(rows) == ROWS[int(t)]
            assert (rows / rows.mean() - 1).abs().max() < 5 / math.sqrt(float(rows.mean()))  # every row equally often
        seen[split] = set(task[:, 0].tolist())
    assert sorted(t for part in seen.values() for t in part) == list(range(10))


def test_a_task_may_be_used_up(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(12.0), y=np.arange(12.0))
    np.savez(tmp_path / "b.npz", x=np.arange(9.0), y=np.arange(9.0))
    family = Arrays([str(tmp_path / "a.npz"), str(tmp_path / "b.npz")], 4, 5)
    episode = family.sample("test", torch.arange(50))
    both = torch.cat([episode.support.x, episode.query.x], 1).flatten(1)
    assert torch.equal(both.sort(-1).values, torch.arange(9.0).expand(50, 9))


def test_pool_runs_through_epochs(tmp_path):
    x = np.arange(1000)
    np.savez(tmp_path / "a.npz", x=x, y=2 * x)
    np.savez(tmp_path / "b.npz", x=x[:100], y=x[:100])
    family = Arrays([str(tmp_path / "a.npz"), str(tmp_path / "b.npz")])
    batches = family.pool("train", torch.arange(313), 32)  # 10 epochs of 1000 rows are 312.5 batches
    assert torch.equal(batches.y, 2 * batches.x)
    sequence = batches.x.flatten()[:10_000].view(10, 1000)
    assert torch.equal(sequence.sort(-1).values, torch.arange(1000.0).expand(10, 1000))
    assert len({tuple(epoch.tolist()) for epoch in sequence}) == 10
    assert abs(float(torch.corrcoef(sequence[:2])[0, 1])) < 4 / math.sqrt(1000)
    for size in (1, 7, 1000, 2500):  # the same sequence however it is cut
        other = family.pool("train", torch.arange(10_000 // size), size).x.flatten()
        assert torch.equal(other, sequence.flatten()[: len(other)])
    single = torch.cat([family.pool("train", torch.tensor([i]), 32).x for i in range(40)])
    assert torch.equal(single, batches.x[:40])
    seeded = Arrays([str(tmp_path / "a.npz"), str(tmp_path / "b.npz")], seed=1)
    assert not torch.equal(seeded.pool("train", torch.arange(3), 32).x, batches.x[:3])


def test_an_epoch_is_sorted_once_for_all_its_batches(tmp_path, monkeypatch):
    """Thousands of minibatches are drawn ahead; a sort for each would take seconds and gigabytes."""
    np.savez(tmp_path / "a.npz", x=np.arange(1000), y=np.arange(1000))
    np.savez(tmp_path / "b.npz", x=np.arange(100), y=np.arange(100))
    family = Arrays([str(tmp_path / "a.npz"), str(tmp_path / "b.npz")])
    sorted_ = []
    monkeypatch.setattr(
        "metaexp.tasks.arrays.permutation",
        lambda key, *rest: sorted_.append(len(key)) or permutation(key, *rest),
    )
    family.pool("train", torch.arange(5, 4096), 32)
    assert sorted_ == [132]  # elements 160 ... 131,071: epochs 0 ... 131


def test_files_without_columns_are_a_base_task_and_new_tasks(tmp_path, caplog):
    for i, name in enumerate("abc"):
        np.savez(tmp_path / f"{name}.npz", x=np.full((50, 4), i), y=np.zeros(50, int))
    files = [str(tmp_path / f"{name}.npz") for name in "abc"]
    with caplog.at_level(logging.WARNING):
        family = Arrays(files)
    assert "val and test use the same tasks" in caplog.text
    values = {split: set(family.sample(split, torch.arange(40)).query.x.unique().tolist()) for split in SPLITS}
    assert values == {"train": {0.0}, "val": {1.0, 2.0}, "test": {1.0, 2.0}}
    assert (family.x_shape, family.y_dim) == ((4,), 1)
    with pytest.raises(ValueError, match=r"files=\[.*a.npz\]: no task is left to test on"):
        Arrays(files[:1])


@pytest.mark.parametrize("kind", ["names", "numbers"])
def test_a_split_column_decides(tmp_path, kind):
    task = np.repeat(["a", "b", "c", "d"], 20)
    split = np.repeat(["train", "val", "train", "test"] if kind == "names" else [0, 1, 0, 2], 20)
    path = str(tmp_path / "a.npz")
    np.savez(path, x=np.arange(80.0), y=np.zeros((80, 3)), task=task, split=split)
    family = Arrays(path)
    assert {s: [family.names[i][:6] for i in family.splits[s]] for s in SPLITS} == {
        "train": ["task a", "task c"],
        "val": ["task b"],
        "test": ["task d"],
    }
    np.savez(path, x=np.arange(80.0), y=np.zeros((80, 3)), split=split)  # without tasks: the rows of a split are one
    family = Arrays(path, 10, 10)
    assert sorted(family.sample("test", torch.arange(1)).info["rows"].flatten().tolist()) == list(range(20))
    assert family.pool("train", torch.arange(1), 40).x.flatten().sort().values.tolist() == [
        *range(20),
        *range(40, 60),
    ]


def test_standardisation_uses_the_training_split_only(tmp_path):
    rng = np.random.default_rng(0)
    split = np.repeat([0, 1, 2], [500, 100, 100])
    x = rng.normal(7, 3, (700, 2)) * [1, 100]
    x[split > 0] += 1000
    x = np.concatenate([x, np.ones((700, 1))], -1)
    path = str(tmp_path / "a.npz")
    np.savez(path, x=x, y=x[:, :1], split=split)
    family = Arrays(path, standardise="x").to("cpu", torch.float64)
    rows = family.pool("train", torch.arange(1), 500).x[0]
    assert rows.mean(0).abs().max() < 1e-12
    assert (rows.std(0, correction=0) - torch.tensor([1.0, 1.0, 0.0])).abs().max() < 1e-12
    test = family.pool("test", torch.arange(1), 100)
    assert (test.x[..., 0] > 100).all()
    assert (test.x[..., :1] * family.x_std[0] + family.x_mean[0] - test.y).abs().max() < 1e-9
    both = Arrays(path, standardise="xy").to("cpu", torch.float64).pool("test", torch.arange(1), 100)
    assert torch.equal(both.y, both.x[..., :1])
    with pytest.raises(ValueError, match="standardise=y: must be none \\| x \\| xy"):
        Arrays(path, standardise="y")


X = np.zeros((30, 2))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "has no y, only x"),
        ({"x": X, "y": X[:29]}, r"y is \[29, 2\], x \[30, 2\]; rows must agree"),
        ({"x": X, "y": np.array([None] * 30)}, "damaged or not an npz of plain arrays .*Object arrays"),
        ({"x": X, "y": np.full(30, "a")}, "y holds <U1; it must hold numbers"),
        ({"x": X, "y": np.full(30, np.nan)}, "y has 30 values that are inf or NaN"),
        ({"x": X, "y": np.zeros((30, 2, 2))}, r"y is \[30, 2, 2\]; it must be"),
        ({"x": X[:0], "y": X[:0]}, "x has no rows"),
        ({"x": X, "y": X, "task": np.zeros((30, 1))}, r"task is \[30, 1\]"),
        ({"x": X, "y": X, "split": np.full(30, "dev")}, "split has the value dev; it must be train, val, test"),
        ({"x": X, "y": X, "task": np.zeros(30), "split": np.arange(30) // 15}, r"is in 2 splits \(train, val\)"),
    ],
)
def test_bad_arrays_are_named(tmp_path, arrays, message):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        Arrays(str(path))
    assert str(caught.value).startswith(str(path))


def test_bad_files_are_named(tmp_path):
    good, other, cut, npy = (tmp_path / name for name in ("good.npz", "other.npz", "cut.npz", "plain.npy"))
    np.savez(good, x=X, y=X, task=np.arange(30) // 15)
    cut.write_bytes(good.read_bytes()[:-100])
    np.save(npy, X)
    for path, message in ((tmp_path / "no.npz", "no such file"), (cut, "damaged"), (npy, "not an npz but a single")):
        with pytest.raises(DataError, match=message) as caught:
            Arrays([str(path)])
        assert str(caught.value).startswith(str(path))
    np.savez(other, x=np.zeros((30, 3)), y=X)
    with pytest.raises(DataError, match=r"a row of x is \[3\], in .*good.npz \[2\]"):
        Arrays([str(good), str(other)])
    np.savez(other, x=X, y=X, task=np.arange(30) // 15)
    with pytest.raises(DataError, match=r"other.npz: task 0 is also in .*good.npz"):
        Arrays([str(good), str(other)])
    np.savez(other, x=X, y=X, task=np.array([f"{i // 15}" for i in range(30)]))
    with pytest.raises(DataError, match=r"other.npz: task 0 is also in .*good.npz"):
        Arrays([str(good), str(other)])
    np.savez(other, x=X, y=X)
    with pytest.raises(DataError, match=r"other.npz: is in task.files twice"):
        Arrays([str(other), str(tmp_path / "x" / ".." / "other.npz")])
    with pytest.raises(ValueError, match=r"files=\[\]: name at least one npz"):
        Arrays([])


def test_too_many_shots_for_the_smallest_task(tmp_path):
    path = many(tmp_path)
    with pytest.raises(ValueError) as caught:
        Arrays(path, 10, 30)
    assert str(caught.value).startswith("shots=10 and queries=30: together more than the ")
    assert str(caught.value).endswith('the smallest task of split "train"')
    with pytest.raises(ValueError, match=r"test.shots=60 and test.queries=1: .* of split \"val\""):
        Arrays(path, 1, 1, test={"shots": 60})
    with pytest.raises(ValueError, match="shots=70 and queries=1"):
        Arrays(path, 1, 1).sample("train", torch.arange(2), shots=70)


def test_split_fractions_are_disjoint_and_follow_the_eval_seed(tmp_path):
    for n, fractions, counts in (
        (10, (0.6, 0.2, 0.2), [6, 2, 2]),
        (7, (0.5, 0.25, 0.25), [3, 2, 2]),
        (3, (0.9, 0.05, 0.05), [1, 1, 1]),
        (20, (0.98, 0.01, 0.01), [18, 1, 1]),
        (2, (0.6, 0.2, 0.2), [1, 0, 1]),
        (1, (0.6, 0.2, 0.2), [1, 0, 0]),
        (5, (0.0, 0.0, 1.0), [0, 0, 5]),
        (0, (0.6, 0.2, 0.2), [0, 0, 0]),
    ):
        parts = by_fractions(n, fractions, 0)
        assert [len(parts[split]) for split in SPLITS] == counts
        assert sorted(i for part in parts.values() for i in part) == list(range(n))
    assert by_fractions(100, (0.6, 0.2, 0.2), 0) == by_fractions(100, (0.6, 0.2, 0.2), 0)
    assert by_fractions(100, (0.6, 0.2, 0.2), 0) != by_fractions(100, (0.6, 0.2, 0.2), 1)
    for bad in ((0.5, 0.5), (0.5, 0.2, 0.2), (1.2, -0.2, 0.0)):
        with pytest.raises(ValueError, match="must be three fractions"):
            by_fractions(10, bad, 0)
