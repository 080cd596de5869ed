import gc
import json
import subprocess
import sys

import pytest
import torch

from metaexp.system import lean

SCRIPT = """
import json, sys
from metaexp.train import train
train(["algo=maml", "task=sine", "steps=2", "compile=false", "val.tasks=4", "test.tasks=4",
       "test.curve_shots=[]", "optimizer=adam", "out=" + sys.argv[1]])
heavy = ["torch._dynamo", "torch._inductor", "sympy", "scipy.signal", "scipy.stats", "sklearn", "pandas", "wandb"]
loaded = [name for name in heavy if name in sys.modules]
import torch
from metaexp.algos.maml import MAML
from metaexp.models.mlp import MLP
from metaexp.outer import compiled_step, compiler, graph_cache
from metaexp.outer.meta_training import MetaTraining
from metaexp.tasks.sine import Sine
digests = []
def ahead(graph, leaves):  # in place of machine code
    digests.append(graph_cache.digest(graph, leaves))
    return lambda *tensors: list(graph(*tensors))
compiler.ahead = ahead
def step():
    torch.manual_seed(0)
    learner = MAML(Sine(), lambda x, y: MLP(x, y, [8, 8]), inner_lr=0.01, inner_steps=2)
    training = MetaTraining(learner, torch.optim.Adam(learner.parameters()), compiled=True, meta_batch=4, steps=2)
    training.step(0)
    return [type(training._step).__name__, torch.cat([p.flatten() for p in learner.parameters()]).tolist()]
light = step()
heavy += ["torch.distributed.fsdp", "torch.onnx"]
loaded += [name for name in heavy if name in sys.modules and name != "sympy"]
for module in (compiler, compiled_step):
    module.traced_lightly = lambda trace: trace(False)
full = step()
same = light == full and light[0] == "CompiledStep" and len(digests) == 2 and digests[0] == digests[1]
same = same and torch._dynamo.config.__name__ == "torch._dynamo.config" and not torch._inductor.config.debug
from lightning.fabric.wrappers import _unwrap_compiled
module = torch.nn.Linear(1, 1)
made = torch.compile(module, backend="eager")
optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
before = module.bias.item()
made(torch.zeros(1, 1)).sum().backward()
optimizer.step()
import scipy.signal
print(json.dumps({
    "loaded": loaded,
    "same": same,
    "dynamo": sys.modules["torch._dynamo"].__spec__ is not None and torch._dynamo is sys.modules["torch._dynamo"],
    "unwrapped": _unwrap_compiled(made)[0] is module,
    "moved": before - module.bias.item(),
    "peak": int(scipy.signal.find_peaks([0, 1, 0])[0][0]),
}))
"""


def test_run_imports_nothing_heavy_traces_the_same_graph_and_dynamo_still_works_afterwards(tmp_path):
    words = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {
        "loaded": [],
        "same": True,
        "dynamo": True,
        "unwrapped": True,
        "moved": pytest.approx(1.0),
        "peak": 1,
    }


def test_hidden_function_calls_the_function_and_once_dynamo_is_there_its_disabled_form(monkeypatch):
    def add(a, b=1):
        return a + b

    hidden, asked = lean._hidden(add, reason="why"), []

    class Dynamo:
        @staticmethod
        def disable(function, recursive, reason):
            asked.append((function, recursive, reason))
            return lambda *args, **kwargs: -function(*args, **kwargs)

    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    assert hidden(2, b=3) == 5
    monkeypatch.setitem(sys.modules, "torch._dynamo", Dynamo)
    assert [hidden(2), hidden(3)] == [-3, -4]
    assert asked == [(add, True, "why")]


def test_stand_in_is_gone_after_a_step_and_a_foreign_optimiser_meets_none(monkeypatch):
    class Own(torch.optim.SGD):
        pass

    parameter = torch.nn.Parameter(torch.ones(1))
    optimizers = [kind([parameter], lr=0.5) for kind in (torch.optim.SGD, Own)]
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    monkeypatch.setitem(torch.__dict__, "_dynamo", lean.StandsForDynamo("torch._dynamo"))
    with lean.stepping(optimizers[0]):
        assert isinstance(sys.modules["torch._dynamo"], lean.StandsForDynamo)
    assert "torch._dynamo" not in sys.modules
    with lean.stepping(optimizers[1]):
        assert "torch._dynamo" not in sys.modules


def test_the_collector_waits_and_goes_on_as_it_was():
    frozen = gc.get_freeze_count()
    try:
        with lean.without_collector():
            assert not gc.isenabled()
        lean.resume_collector()  # nobody has paused it
        assert (gc.isenabled(), gc.get_freeze_count()) == (True, frozen)
        lean.pause_collector()
        with lean.without_collector():
            pass
        assert not gc.isenabled()
        lean.resume_collector()
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
    finally:
        gc.enable()
        if not frozen:
            gc.unfreeze()
