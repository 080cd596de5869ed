"""Task families: what every family promises, and what sine, linear, arrays and data sets hold."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.fx.experimental.proxy_tensor import make_fx

from metaexp.errors import DataError
from metaexp.tasks.arrays import Arrays
from metaexp.tasks.base import TaskFamily
from metaexp.tasks.classes import Classes, rotate
from metaexp.tasks.data.splits import by_fractions
from metaexp.tasks.dataset import DatasetTasks, _input
from metaexp.tasks.gp import GP
from metaexp.tasks.linear import Linear
from metaexp.tasks.placeholder import check_data
from metaexp.tasks.sine import Sine
from metaexp.tasks.sine_line import SineLine

SPLITS = ("train", "val", "test")
ROWS = [30, 12, 41, 25, 33, 12, 20, 50, 19, 60]  # of the tasks of `many.npz`


def many(folder: Path) -> str:
    """Ten tasks of different sizes; x tells the task and the row, y is x reversed."""
    task = np.repeat(np.arange(10), ROWS)
    row = np.concatenate([np.arange(n) for n in ROWS])
    x = np.stack([task, row], -1).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    np.savez(folder / "many.npz", x=x[order], y=x[order][:, ::-1], task=task[order])
    return str(folder / "many.npz")


def table(**settings: Any) -> Classes:
    """12 classes of 9 to 20 float vectors that tell the class and the example."""
    counts = [9 + c % 12 for c in range(12)]
    data = torch.tensor([[c, e, 0.5] for c, n in enumerate(counts) for e in range(n)])
    splits = {"train": [0, 2, 4, 6, 8, 10], "val": [1, 3, 5], "test": [7, 9, 11]}
    return Classes(data, counts, splits, **{"shots": 2, "queries": 3, "ways": 3} | settings)


FAMILIES: dict[str, Callable[..., TaskFamily]] = {
    "sine": lambda folder, **s: Sine(4, 6, noise=0.1, **s),
    "linear": lambda folder, **s: Linear(4, 6, inputs=3, outputs=2, bias=True, noise=0.1, **s),
    "arrays": lambda folder, **s: Arrays(many(folder), 4, 6, standardise="xy", **s),
    "classes": lambda folder, **s: table(**s),
}


@pytest.fixture(params=list(FAMILIES))
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., TaskFamily]:
    return lambda **settings: FAMILIES[request.param](tmp_path, **settings)


def tensors(episode) -> list[torch.Tensor]:
    return [*episode.support, *episode.query, episode.key, *episode.info.values()]


# --- every family ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_a_task_has_the_same_bytes_whatever_the_batch(make, split):
    for dtype in (torch.float32, torch.float64):
        family = make().to("cpu", dtype)
        whole = family.sample(split, torch.arange(1000))
        for part in (torch.tensor([0]), torch.tensor([613]), torch.tensor([999, 5, 5]), torch.arange(300, 433)):
            for a, b in zip(tensors(whole), tensors(family.sample(split, part)), strict=True):
                assert torch.equal(a[part], b)
        assert whole.support.x.dtype == whole.query.y.dtype == dtype
        assert whole.support.x.shape[2:] == family.x_shape
        assert whole.query.y.shape[2] == family.y_dim


def test_a_pooled_batch_has_the_same_bytes_whatever_the_others(make):
    family = make()
    whole = family.pool("train", torch.arange(200), 7)
    assert whole.x.shape == (200, 7, *family.x_shape)
    assert whole.y.shape == (200, 7, family.pool_dim)
    for part in (torch.tensor([199]), torch.tensor([3, 150, 4])):
        assert all(torch.equal(a[part], b) for a, b in zip(whole, family.pool("train", part, 7), strict=True))


def test_only_training_depends_on_the_seed(make):
    index = torch.arange(30)
    a, b, c = make(), make(seed=1), make(eval_seed=1)
    for split in SPLITS:
        x = a.sample(split, index).query.x
        assert torch.equal(x, b.sample(split, index).query.x) == (split != "train")
        if split != "train":
            assert not torch.equal(x, c.sample(split, index).query.x)
    assert torch.equal(make().sample("train", index).query.x, a.sample("train", index).query.x)


def test_shots_are_nested_and_independent_of_the_queries(make):
    family = make()
    index = torch.arange(50)
    ways = family.sizes["train"]["ways"] or 1

    def sample(shots: int, queries: int) -> list[torch.Tensor]:
        episode = family.sample("train", index, shots, queries)
        return [t.view(50, ways, t.shape[1] // ways, -1) for t in (*episode.support, *episode.query)]

    xs, ys, xq, yq = sample(5, 4)
    fewer = sample(1, 4)
    assert torch.equal(fewer[0], xs[:, :, :1])
    assert torch.equal(fewer[1], ys[:, :, :1])
    assert torch.equal(fewer[2], xq)
    assert torch.equal(fewer[3], yq)
    assert torch.equal(sample(5, 2)[2], xq[:, :, :2])
    assert family.sample("train", index, 5, 0).query.x.shape == (50, 0, *family.x_shape)


def test_test_sizes_may_differ(make):
    episode = make(test={"shots": 1, "queries": 2}).sample("val", torch.arange(2))
    ways = episode.support.y.shape[-1] if make().classification else 1
    assert episode.support.x.shape[1] == ways
    assert episode.query.x.shape[1] == 2 * ways


def test_sampling_is_one_graph_of_tensor_operations(make):
    """Traced on other tasks it gives the same bytes: nothing depends on values in Python."""
    family = make()
    index = torch.arange(5)
    traced = make_fx(lambda i: tensors(family.sample("train", i)))(index + 100)
    assert all(torch.equal(a, b) for a, b in zip(traced(index), tensors(family.sample("train", index)), strict=True))
    pooled = make_fx(lambda i: tuple(family.pool("train", i, 4)))(index + 100)
    assert all(torch.equal(a, b) for a, b in zip(pooled(index), family.pool("train", index, 4), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": 0}, "shots=0: must be at least 1"),
        ({"shots": 2.5}, "shots=2.5: must be a whole number of at least 1"),
        ({"test": {"shots": 2.5}}, "test.shots=2.5: must be a whole number of at least 0 or null"),
        ({"queries": -1}, "queries=-1: must be at least 0"),
        ({"test": {"shots": 0}}, "test.shots=0: must be at least 1"),
    ],
)
def test_sizes_out_of_range(settings, message):
    for family in (Sine, Linear, table):
        with pytest.raises(ValueError) as caught:
            family(**settings)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([5.0], "x_range=[5.0]: must be two numbers, [low, high]"),
        ([-5.0, 0.0, 5.0], "x_range=[-5.0, 0.0, 5.0]: must be two numbers, [low, high]"),
        ([0.0, math.inf], "x_range=[0.0, inf]: must be two finite numbers, [low, high], low "),
        (["a", 1.0], "x_range=[a, 1.0]: each must be a number"),
        (3.0, "x_range=3.0: must be two numbers, [low, high]"),
        ([2.0, 1.0], "x_range=[2.0, 1.0]: must be two finite numbers, [low, high], low "),
    ],
)
def test_ranges_are_two_numbers(value, says):
    for family in (Sine, Linear, SineLine, GP):
        with pytest.raises(ValueError) as caught:
            family(x_range=value)
        assert str(caught.value).startswith(says)


# --- sine and linear ------------------------------------------------------------------------------------------------


def uniform_on(values: torch.Tensor, low: float, high: float) -> None:
    """Range, and the largest distance from the distribution function (Kolmogorov-Smirnov, 4 sigma)."""
    values = values.flatten().sort().values.double()
    n = len(values)
    assert low <= values[0]
    assert values[-1] <= high
    cdf = (values - low) / (high - low)
    assert float((cdf - (torch.arange(n) + 0.5) / n).abs().max()) < 2.2 / math.sqrt(n)


def test_sine_is_the_papers_distribution():
    episode = Sine(10, 10).to("cpu", torch.float64).sample("train", torch.arange(5000))
    amplitude, phase = episode.info["amplitude"], episode.info["phase"]
    uniform_on(amplitude, 0.1, 5.0)
    uniform_on(phase, 0.0, math.pi)
    uniform_on(episode.support.x, -5.0, 5.0)
    uniform_on(episode.query.x, -5.0, 5.0)
    for x, y in (episode.support, episode.query):
        expected = amplitude[:, None, None] * torch.sin(x - phase[:, None, None])
        assert (y - expected).abs().max() < 1e-12
    assert not torch.isin(episode.query.x, episode.support.x).any()
    other = Sine(phase_sign=1, phase=(0.0, 2 * math.pi)).to("cpu", torch.float64).sample("train", torch.arange(9))
    expected = torch.sin(other.query.x + other.info["phase"][:, None, None])
    assert (other.query.y - other.info["amplitude"][:, None, None] * expected).abs().max() < 1e-12


def test_sine_noise_has_its_standard_deviation():
    index = torch.arange(2000)
    clean, noisy = (Sine(noise=noise).sample("test", index) for noise in (0.0, 0.3))
    for part in ("support", "query"):
        noise = getattr(noisy, part).y - getattr(clean, part).y
        assert abs(float(noise.std()) - 0.3) < 4 * 0.3 / math.sqrt(2 * noise.numel())
        assert abs(float(noise.mean())) < 4 * 0.3 / math.sqrt(noise.numel())


def test_linear_maps():
    family = Linear(8, 8, inputs=3, outputs=2, bias=True, weight_std=2.0).to("cpu", torch.float64)
    episode = family.sample("train", torch.arange(5000))
    weight, bias = episode.info["weight"], episode.info["bias"]
    assert weight.shape == (5000, 3, 2)
    for drawn in (weight, bias):
        assert abs(float(drawn.mean())) < 4 * 2 / math.sqrt(drawn.numel())
        assert abs(float(drawn.std()) - 2) < 4 * 2 / math.sqrt(2 * drawn.numel())
    uniform_on(episode.query.x, -5.0, 5.0)
    for x, y in (episode.support, episode.query):
        assert (y - (x @ weight + bias[:, None])).abs().max() < 1e-12
    solved = torch.linalg.lstsq(torch.cat([episode.support.x, torch.ones(5000, 8, 1)], -1), episode.support.y).solution
    assert (solved[:, :3] - weight).abs().median() < 1e-12


def test_linear_settings():
    family = Linear(5, 5, weight_range=(1.0, 2.0), x_range=(0.0, 1.0), noise=0.5)
    episode = family.sample("train", torch.arange(4000))
    assert (family.x_shape, family.y_dim) == ((2,), 1)
    uniform_on(episode.info["weight"], 1.0, 2.0)
    uniform_on(episode.support.x, 0.0, 1.0)
    assert (episode.info["bias"] == 0).all()
    noise = episode.query.y - episode.query.x @ episode.info["weight"]
    assert abs(float(noise.std()) - 0.5) < 4 * 0.5 / math.sqrt(2 * noise.numel())
    for settings, message in (
        ({"inputs": 0}, "inputs=0"),
        ({"noise": -1.0}, "noise=-1.0"),
        ({"x_range": (2.0, 1.0)}, "x_range=[2.0, 1.0]"),
    ):
        with pytest.raises(ValueError) as caught:
            Linear(**settings)
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize("family", [Sine, Linear])
def test_a_pooled_batch_has_a_task_per_point(family):
    x, y = family().pool("train", torch.arange(3), 500)
    assert len(y.unique()) == y.numel()  # no two points of 1500 share a function and an input
    assert len(x[..., :1].unique()) == y.numel()


# --- arrays ---------------------------------------------------------------------------------------------------------


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
        ({"x": X, "y": X, "task": np.zeros(30), "split": np.arange(30) // 15}, r"stands in 2 splits \(train, val\)"),
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
    with pytest.raises(DataError, match=r"other.npz: task 0 stands in .*good.npz too"):
        Arrays([str(good), str(other)])
    np.savez(other, x=X, y=X, task=np.array([f"{i // 15}" for i in range(30)]))
    with pytest.raises(DataError, match=r"other.npz: task 0 stands in .*good.npz too"):
        Arrays([str(good), str(other)])
    np.savez(other, x=X, y=X)
    with pytest.raises(DataError, match=r"other.npz: stands in task.files twice"):
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


# --- classes and data sets ------------------------------------------------------------------------------------------


def test_classes_of_unequal_size():
    family = table(shots=4, queries=5)
    for split in SPLITS:
        episode = family.sample(split, torch.arange(1000))
        allowed = set(family.splits[split].tolist())
        x = torch.cat([part.x.view(1000, 3, -1, 3) for part in (episode.support, episode.query)], 2)
        assert (x[..., 0] == episode.info["classes"].unsqueeze(-1)).all()
        assert (x[..., 1].sort(-1).values.diff() > 0).all()
        assert (x[..., 1] < family.counts[episode.info["classes"]].unsqueeze(-1)).all()
        assert set(x[..., 0].unique().tolist()) == allowed
        for c in allowed:
            assert len(x[..., 1][x[..., 0] == c].unique()) == int(family.counts[int(c)])
    with pytest.raises(ValueError, match='together more than the 9 examples of the smallest class of split "train"'):
        table(shots=5, queries=5)
    with pytest.raises(ValueError, match=r"rotation=per_class: only square images can be rotated; an input is \[3\]"):
        table(rotation="per_class")


def test_rotate_is_rot90():
    x = torch.arange(4 * 3 * 2 * 25).view(4, 3, 2, 5, 5)
    turned = rotate(x, torch.arange(4))
    for turns in range(4):
        assert np.array_equal(turned[turns].numpy(), np.rot90(x[turns].numpy(), turns, (-2, -1)))


class Blobs:
    """A map-style data set: 10 classes of 6 + class items."""

    def __init__(self, kind: str = "float"):
        self.kind = kind
        self.items = [(c, e) for e in range(16) for c in range(10) if e < 6 + c]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        c, e = self.items[i]
        if self.kind == "pil":
            return Image.fromarray(np.full((8, 8, 3), (c, e, 255), np.uint8)), f"class {c}"
        if self.kind == "bytes":
            return torch.tensor([[c, e], [0, 0]], dtype=torch.uint8), torch.tensor(c)
        if self.kind == "palette":
            image = Image.new("P", (2, 2))
            image.putpalette([10 * c, 20, 30] + [0] * 765)
            return image, c
        if self.kind == "nan":
            return np.array([c, e, np.nan if i == 7 else 0.25]), c
        if self.kind == "damaged":
            if i == 5:
                raise Image.UnidentifiedImageError("cannot identify image file")
            return np.zeros(3), c
        if self.kind == "ragged":
            return np.zeros(3 + c), c
        if self.kind == "unlabelled":
            return np.zeros(3), [c]
        return np.array([c, e, 0.25]), np.int64(c)


@pytest.mark.parametrize(("kind", "x_shape"), [("float", (3,)), ("bytes", (1, 2, 2)), ("pil", (3, 8, 8))])
def test_any_data_set_becomes_episodes(kind, x_shape):
    family = DatasetTasks(Blobs(kind), shots=2, queries=3, ways=2)
    assert family.x_shape == x_shape
    assert (family.data.dtype == torch.uint8) == (kind != "float")
    assert [family.count(split) for split in SPLITS] == [6, 2, 2]
    for split in SPLITS:
        episode = family.sample(split, torch.arange(200))
        x = torch.cat([part.x.view(200, 2, -1, *x_shape) for part in (episode.support, episode.query)], 2).flatten(3)
        label, example = (x[..., 0], x[..., 1]) if kind != "pil" else (x[..., 0], x[..., 64])
        scale = 1 if kind == "float" else 255
        names = [family.names[c] for c in episode.info["classes"].flatten().tolist()]
        assert names == [
            f"class {round(c)}" if kind == "pil" else c for c in (label * scale)[..., 0].flatten().tolist()
        ]
        assert ((example * scale).round().sort(-1).values.diff() > 0).all()


def test_listed_classes():
    listed = {"train": [9, 8, 7], "val": [0, 1], "test": [2, 3]}
    family = DatasetTasks(Blobs(), 1, 2, 2, classes=listed)
    assert {split: family.splits[split].tolist() for split in SPLITS} == listed
    for change, message in (
        ({"val": [9]}, "classes.val: 9 stands in train already"),
        ({"val": [11]}, "classes.val: 11 is no label of the data"),
        ({"val": None}, "classes.val=null: where classes are listed"),
    ):
        with pytest.raises(ValueError, match=message):
            DatasetTasks(Blobs(), 1, 2, 2, classes=listed | change)


def test_pictures_with_a_palette_have_its_colours():
    family = DatasetTasks(Blobs("palette"), shots=2, queries=3, ways=2)
    assert family.x_shape == (3, 2, 2)
    colours = {tuple(x[:, 0, 0].tolist()) for x in family.data}
    assert colours == {(10 * c, 20, 30) for c in range(10)}


def test_what_a_family_was_trained_on_is_known_by_names_and_contents(tmp_path):
    class Fewer(Blobs):
        def __init__(self):
            super().__init__()
            self.items = [(c, e) for c, e in self.items if c > 0]

    whole, fewer = DatasetTasks(Blobs(), 1, 2, 2), DatasetTasks(Fewer(), 1, 2, 2)
    assert whole.trained_on == DatasetTasks(Blobs(), 5, 1, 2).trained_on
    assert whole.trained_on != fewer.trained_on
    check_data(whole, {"trained_on": whole.trained_on})
    check_data(whole, {})  # a checkpoint of before
    with pytest.raises(DataError, match="not those that this run was trained on"):
        check_data(fewer, {"trained_on": whole.trained_on})
    (tmp_path / "moved").mkdir()
    for folder, x in ((tmp_path, X), (tmp_path / "moved", X)):
        np.savez(folder / "a.npz", x=x, y=x, task=np.arange(30) // 3)
    first, moved = Arrays(str(tmp_path / "a.npz"), 1, 1), Arrays(str(tmp_path / "moved/a.npz"), 1, 1)
    assert first.trained_on == moved.trained_on
    np.savez(tmp_path / "a.npz", x=X + 1e-3, y=X, task=np.arange(30) // 3)
    assert Arrays(str(tmp_path / "a.npz"), 1, 1).trained_on != moved.trained_on
    assert Sine().trained_on is None


def test_bad_data_sets_are_named():
    for dataset, message in (
        (Blobs("ragged"), r"item 1 of Blobs is \[4\], item 0 \[3\]"),
        (Blobs("unlabelled"), r"item 0 of Blobs is not \(input, label\)"),
        (Blobs("nan"), "item 7 of Blobs has values that are inf or NaN"),
        (Blobs("damaged"), "item 5 of Blobs cannot be read: cannot identify image file"),
        (iter([]), "is not map-style"),
        ([], "list is empty"),
    ):
        with pytest.raises(DataError, match=message):
            DatasetTasks(dataset)
    with pytest.raises(ValueError, match="dataset=null: name a map-style data set"):
        DatasetTasks()
    with pytest.raises(ValueError, match=r'ways=5: split "val" has 2 classes'):
        DatasetTasks(Blobs(), 1, 2)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((6, 8, 3), (3, 6, 8)),
        ((6, 8, 1), (1, 6, 8)),
        ((3, 6, 8), (3, 6, 8)),
        ((1, 6, 4), (1, 6, 4)),
        ((6, 8), (1, 6, 8)),
    ],
)
def test_arrays_of_bytes_with_channels_last_are_pictures(shape, wanted):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    found = _input(array)
    assert found.shape == wanted
    straight = array if array.ndim == 3 else array[None]
    assert np.array_equal(found.numpy(), straight if straight.shape == wanted else straight.transpose(2, 0, 1))
    assert _input(torch.from_numpy(array)).shape == (shape if len(shape) == 3 else wanted)  # a tensor's are first
