"""Sizes that cannot be are refused before anything is allocated; sizes that can be are not."""

import itertools
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forks import Forks

from metaexp.config.settings import load
from metaexp.errors import ConfigError
from metaexp.models.mlp import MLP
from metaexp.outer.loaders import Stops, TaskIndices
from metaexp.system.machine import peak_mb
from metaexp.tasks.clusters import Clusters
from metaexp.tasks.gp import GP
from metaexp.tasks.sine import Sine
from metaexp.training import sizes
from metaexp.training.build import Experiment
from metaexp.training.sizes import TooLarge, _task_bytes, within_memory

SINE = ["algo=maml", "task=sine", "device=cpu"]
CLUSTERS = ["algo=protonet", "task=clusters", "device=cpu"]


@pytest.fixture(autouse=True)
def _memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as a small machine has, wherever the tests run."""
    monkeypatch.setattr(sizes, "memory_limit", lambda: 16 * 10**9)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ([*SINE, "steps=1e12"], "steps=1000000000000"),
        ([*SINE, "accumulate=1e9"], "accumulate=1000000000"),
        ([*SINE, "steps=1e10", "accumulate=1e6", "meta_batch=1e6"], "steps=10000000000: "),
        ([*SINE, "meta_batch=1e9"], "meta_batch=1000000000: drawing so many tasks at once takes "),
        ([*SINE, "model.hidden=[1000000,1000000]"], "model.hidden=[1000000, 1000000]: a tensor of 1000000 x 1000000 "),
        ([*SINE, "model.hidden=[1000000000000]"], "model.hidden=[1000000000000]: a tensor of 1000000000000 "),
        (
            [*SINE, f"model.hidden=[{','.join(['30000'] * 9)}]"],
            "model: 7,200,330,001 parameters with what",
        ),
        (
            ["algo=cavia", *SINE[1:], f"model.hidden=[{','.join(['30000'] * 9)}]"],
            "model: 7,200,480,001 parameters with what",
        ),
        (["algo=cnp", *SINE[1:], f"model.hidden=[{','.join(['30000'] * 9)}]"], "parameters with what"),
        ([*SINE, "device.threads=2000"], "device.threads=2000: this machine has "),
        ([*SINE, "task.shots=1e9"], "task.shots=1000000000: drawing 25 tasks at once takes "),
        ([*SINE, "task.queries=1e9"], "task.queries=1000000000: drawing 25 tasks at once takes "),
        ([*SINE, "task.test.shots=1e10"], "task.test.shots=10000000000: drawing "),
        ([*SINE, "val.tasks=1e9"], "val.tasks=1000000000"),
        ([*SINE, "test.tasks=1e9"], "test.tasks=1000000000"),
        ([*SINE, "test.curve_tasks=1e9"], "test.curve_tasks=1000000000"),
        ([*SINE, "algo.inner_steps=1e9"], "algo.inner_steps=1000000000: must be at most 10000000"),
        ([*SINE, "algo.test_steps=1e9"], "algo.test_steps=1000000000: must be at most 10000000"),
        ([*SINE, "algo.test_steps=1e7", "test.tasks=1e6"], "test.tasks=1000000 with algo.test_steps=10000000: their "),
        ([*CLUSTERS, "task.ways=1e8"], "task.ways=100000000: drawing "),
        ([*CLUSTERS, "task.dim=1e11"], "task.dim=100000000000: a tensor of "),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_line(typed: list[str], says: str) -> None:
    before, start = peak_mb(), time.monotonic()
    with pytest.raises(ConfigError) as found:
        Experiment(load(typed))
    assert says in str(found.value)
    assert "\n" not in str(found.value)
    assert peak_mb() - before < 500
    assert time.monotonic() - start < 10


def test_what_can_be_is_not_refused() -> None:
    for typed in (
        [*SINE, "steps=1e10", "val.every=1", "test.tasks=1e5", "val.tasks=1e5"],
        [*SINE, "meta_batch=10000", "model.hidden=[2000,2000]", "device.threads=64"],
        [*CLUSTERS, "task.ways=50", "task.shots=20"],
    ):
        assert Experiment(load(typed)).training.steps > 0


def test_the_bytes_of_a_task_are_those_of_its_tensors() -> None:
    index = torch.zeros(1, dtype=torch.int64)
    for family in (Sine(shots=7, queries=30), Clusters(shots=4, queries=6, ways=9), GP(queries=12)):
        task = family.sample("test", index)
        found = sum(tensor.nbytes for part in (task.support, task.query) for tensor in part)
        assert _task_bytes(family, "test") == pytest.approx(found, rel=1e-12)


def test_no_tensor_beyond_memory_is_made() -> None:
    shapes = [lambda: torch.empty(10**7, 10**7), lambda: torch.eye(10**7), lambda: torch.arange(10**13)]
    shapes += [
        lambda: torch.zeros(1).expand(10**13).clone(),
        lambda: torch.randn(10**13),
        lambda: torch.ones((10**13,)),
    ]
    for make in shapes:
        with pytest.raises(TooLarge, match="GB of memory are there"), within_memory():
            make()
    with within_memory():
        one = torch.nn.Linear(2000, 2000)
    assert one.weight.shape == (2000, 2000)


def test_weights_made_within_the_limit_have_the_same_bits() -> None:
    torch.manual_seed(3)
    one = MLP((1,), 1, hidden=[40, 40])
    torch.manual_seed(3)
    with within_memory():
        other = MLP((1,), 1, hidden=[40, 40])
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_spans_and_chunks_are_never_listed() -> None:
    stops = Stops(10**10, [1])
    assert [stops.after(step) for step in (0, 1, 10**10 - 1)] == [1, 2, 10**10]
    loader = TaskIndices(SimpleNamespace(family=Clusters(), mapping="vmap", chunk=100), "val", 10**9)
    assert len(loader) == 10**7
    first = list(itertools.islice(loader, 3))
    assert [(int(piece[0]), len(piece)) for piece in first] == [(0, 100), (100, 100), (200, 100)]
    varying = SimpleNamespace(family=GP(shots=[3, 20], bucket=16), mapping="vmap", chunk=100)
    assert varying.family.varying("val").bucket == 10
    for tasks in (1, 7, 99, 1000, 1001, 12345):
        loader = TaskIndices(varying, "val", tasks)
        assert len(loader) == len(list(loader))


def test_a_refused_size_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metaexp.train import train

    monkeypatch.chdir(tmp_path)
    for typed in ("meta_batch=1e9", "model.hidden=[1000000,1000000]", "device.threads=2000", "val.tasks=1e9"):
        with pytest.raises(ConfigError):
            train([*SINE, typed])
    assert not list(tmp_path.iterdir())


def test_the_longest_run_with_a_validation_after_every_step_starts_and_stops(forks: Forks, tmp_path: Path) -> None:
    often = ["val.every=1", "log.every=1", "val.tasks=2", "checkpoint.every=1e9", "compile=false"]
    ended = forks(*SINE, "model.hidden=[4]", "steps=1e10", *often, "time_limit=0.2", cwd=tmp_path)
    assert ended.code == 124, ended.err
    assert "time_limit=0.2 s reached at step " in ended.err
