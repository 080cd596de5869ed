import os
import shutil
from functools import partial

import pytest
import torch
from torch._inductor.runtime import cache_dir_utils
from torch.fx.experimental.proxy_tensor import make_fx

from metaexp.algos.maml import MAML
from metaexp.contract import largest_difference, parameters
from metaexp.models.mlp import MLP
from metaexp.outer import graph_cache
from metaexp.outer.compiled_step import CompiledStep
from metaexp.outer.compiler import compiled
from metaexp.outer.graph_cache import digest
from metaexp.outer.loaders import Span
from metaexp.outer.meta_training import MetaTraining
from metaexp.system import cache
from metaexp.tasks.sine import Sine

F64 = torch.float64
compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: no g++")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


def traced(function, *inputs):
    return make_fx(function)(*inputs), inputs


def test_digest_is_that_of_numbers_shapes_and_surroundings(monkeypatch):
    x, y = torch.ones(2, 3), torch.ones(2, 3)
    same = [digest(*traced(lambda a, b: 0.1 * a + b, x, y)) for _ in range(2)]
    assert same[0] == same[1] == digest(*traced(lambda a, b: 0.1 * a + b, y, 5 * x))
    others = [
        digest(*traced(lambda a, b: 0.1000000000000001 * a + b, x, y)),
        digest(*traced(lambda a, b: 0.1 * b + a, x, y)),
        digest(*traced(lambda a, b: a + b, x, y)),
        digest(*traced(lambda a, b: 0.1 * a + b, x.double(), y.double())),
        digest(*traced(lambda a, b: 0.1 * a + b, torch.ones(3, 2), torch.ones(3, 2))),
        digest(*traced(lambda a, b: 0.1 * a + b, torch.ones(3, 2).t(), y)),
        digest(*traced(lambda a, b: 0.1 * a + b, x, x)),
    ]
    monkeypatch.setenv("TORCHINDUCTOR_SOMETHING", "1")
    others.append(digest(*traced(lambda a, b: 0.1 * a + b, x, y)))
    monkeypatch.setattr(torch, "__version__", "0")
    others.append(digest(*traced(lambda a, b: 0.1 * a + b, x, y)))
    assert len({same[0], *others}) == 10


def test_a_damaged_file_and_one_without_its_digest_are_not_taken(tmp_path):
    (tmp_path / "k.so").write_bytes(b"code")
    assert graph_cache._kept(tmp_path, "k") is None
    (tmp_path / "k.sha256").write_text("5694d08a2e53ffcae0c3103e5ad6f6076abd960eb1f8a56577040bc1028f702b")
    assert graph_cache._kept(tmp_path, "k") == tmp_path / "k.so"
    (tmp_path / "k.so").write_bytes(b"cod")
    assert graph_cache._kept(tmp_path, "k") is None


def test_of_too_many_files_the_longest_unused_go(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_cache, "MOST", 2)
    for place, name in enumerate("abc"):
        for ending in ("so", "sha256"):
            (tmp_path / f"{name}.{ending}").write_text("")
        os.utime(tmp_path / f"{name}.so", (place, place))
    graph_cache._forget(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.sha256", "b.so", "c.sha256", "c.so"]


def test_the_folder_that_torch_chooses_is_not_taken_for_a_choice(monkeypatch, tmp_path):
    """Tracing writes torch's own folder into the environment; graphs are then kept where `cache` says."""
    cache.choose(str(tmp_path / "mine"))
    assert graph_cache._folder() == tmp_path / "metaexp"  # the variable, which was set
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    traced(lambda a: a + 1, torch.ones(2))
    make_fx(lambda a: a + 1, tracing_mode="fake")(torch.ones(2))
    cache_dir_utils.cache_dir()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == graph_cache._unchosen()
    assert graph_cache._folder() == tmp_path / "mine" / "graphs"
    cache.choose("off")
    assert graph_cache._folder() is None


@compiler
def test_constants_are_inputs_and_changes_are_made_in_place():
    """One compilation for two functions that differ in the value of a tensor that they close over."""
    before = graph_cache.compilations
    for value in (2.0, 3.0):
        weight = torch.full((3,), value, dtype=F64)

        def step(x, weight=weight):
            x.add_(weight.flip(0) * torch.sin(x))
            return x.sum()

        x, expected = torch.arange(3, dtype=F64), torch.arange(3, dtype=F64)
        call = compiled(step, x.clone(), one_thread=True)
        for _ in range(2):
            assert call(x) == pytest.approx(float(step(expected)), abs=1e-14)
        assert largest_difference(x, expected) < 1e-14
    assert graph_cache.compilations == before + 1


@compiler
def test_a_sweep_over_seeds_and_rates_compiles_once():
    """Each compiled step follows its own seed, inner rate and outer rate, like the eager one."""
    before = graph_cache.compilations
    for seed, inner, outer in ((0, 0.05, 0.1), (1, 0.05, 0.1), (0, 0.2, 0.1), (0, 0.05, 0.3)):
        made = []
        for wanted in (False, True):
            torch.manual_seed(seed)
            family = Sine(shots=3, queries=3, seed=seed).to("cpu", F64)
            learner = MAML(family, partial(MLP, hidden=[3], activation="tanh"), inner_lr=inner).to(F64)
            chosen = torch.optim.SGD(learner.meta_parameters().values(), lr=outer)
            loop = MetaTraining(learner, chosen, compiled=wanted, meta_batch=4)
            loop.run(Span(0, 3))
            made.append(loop)
        assert isinstance(made[1]._step, CompiledStep)
        assert largest_difference(*(parameters(loop.learner) for loop in made)) < 1e-12
        assert made[1].learner.inner.lr == inner
    assert graph_cache.compilations == before + 1
