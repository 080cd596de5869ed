"""What every task family promises: equal bytes in any batch, nested shots, one graph, refused settings."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from task_samples import many, table, tensors
from torch.fx.experimental.proxy_tensor import make_fx

from metaexp.contract import check_family
from metaexp.tasks.arrays import Arrays
from metaexp.tasks.base import TaskFamily
from metaexp.tasks.clusters import Clusters
from metaexp.tasks.gp import GP
from metaexp.tasks.linear import Linear
from metaexp.tasks.quadratic import Quadratic
from metaexp.tasks.sine import Sine
from metaexp.tasks.sine_line import SineLine

SPLITS = ("train", "val", "test")


FAMILIES: dict[str, Callable[..., TaskFamily]] = {
    "sine": lambda folder, **s: Sine(4, 6, noise=0.1, **s),
    "linear": lambda folder, **s: Linear(4, 6, inputs=3, outputs=2, bias=True, noise=0.1, **s),
    "arrays": lambda folder, **s: Arrays(many(folder), 4, 6, standardise="xy", **s),
    "classes": lambda folder, **s: table(**s),
}


@pytest.fixture(params=list(FAMILIES))
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., TaskFamily]:
    return lambda **settings: FAMILIES[request.param](tmp_path, **settings)


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


@pytest.mark.parametrize("family", [Sine, Linear])
def test_a_pooled_batch_has_a_task_per_point(family):
    x, y = family().pool("train", torch.arange(3), 500)
    assert len(y.unique()) == y.numel()  # no two points of 1500 share a function and an input
    assert len(x[..., :1].unique()) == y.numel()


SYNTHETIC = {
    "sine_line": lambda **s: SineLine(4, 6, **s),
    "quadratic": lambda **s: Quadratic(4, 6, dim=3, **s),
    "quadratic_planted": lambda **s: Quadratic(4, 6, dim=3, noise=0.1, condition=9.0, fresh=True, **s),
    "quadratic_uniform": lambda **s: Quadratic(4, dim=3, elements="uniform", **s),
    "clusters": lambda **s: Clusters(4, 6, ways=3, dim=3, pool_classes=5, **s),
}


@pytest.fixture(params=list(SYNTHETIC))
def synthetic(request):
    return SYNTHETIC[request.param]


def test_contract(synthetic):
    check_family(synthetic())
    check_family(synthetic(test={"shots": 2, "queries": 3}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_synthetic_task_has_the_same_bytes_in_each_precision(synthetic, dtype):
    family = synthetic().to("cpu", dtype)
    whole, pooled = family.sample("train", torch.arange(500)), family.pool("train", torch.arange(200), 7)
    for part in (torch.tensor([0]), torch.tensor([499, 5, 5]), torch.arange(300, 433)):
        assert all(
            torch.equal(a[part], b) for a, b in zip(tensors(whole), tensors(family.sample("train", part)), strict=True)
        )
    for part in (torch.tensor([199]), torch.tensor([3, 150, 4])):
        assert all(torch.equal(a[part], b) for a, b in zip(pooled, family.pool("train", part, 7), strict=True))
    assert whole.support.y.dtype == pooled.x.dtype == dtype


def test_sampling_synthetic_tasks_is_one_graph_of_tensor_operations(synthetic):
    family, index = synthetic(), torch.arange(5)
    traced = make_fx(lambda i: tensors(family.sample("train", i)))(index + 100)
    assert all(torch.equal(a, b) for a, b in zip(traced(index), tensors(family.sample("train", index)), strict=True))
    pooled = make_fx(lambda i: tuple(family.pool("train", i, 4)))(index + 100)
    assert all(torch.equal(a, b) for a, b in zip(pooled(index), family.pool("train", index, 4), strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(SineLine, line=1.5), "line=1.5: must be from 0 to 1"),
        (partial(SineLine, slope=(1.0, 0.0)), "slope=[1.0, 0.0]: must be two finite numbers"),
        (partial(SineLine, noise=-1.0), "noise=-1.0: must be at least 0"),
        (partial(Quadratic, dim=0), "dim=0: must be at least 1"),
        (partial(Quadratic, elements="cauchy"), "elements=cauchy: must be normal | uniform"),
        (partial(Quadratic, condition=0.5), "condition=0.5: must be at least 1"),
        (partial(Quadratic, noise=-0.1), "noise=-0.1: must be at least 0"),
        (partial(Quadratic, fresh=True), "fresh=True: nothing can be known"),
        (partial(Quadratic, shots=0), "shots=0: must be at least 1"),
        (partial(Clusters, dim=0), "dim=0: must be at least 1"),
        (partial(Clusters, pool_classes=1), "pool_classes=1: must be at least 2"),
        (partial(Clusters, noise=0.0), "noise=0.0: must be above 0"),
        (partial(Clusters, spread=-1.0), "spread=-1.0: must be above 0"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(message)
