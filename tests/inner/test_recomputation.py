"""Inner steps whose graph is made again in the backward pass: the same meta-gradient in less memory."""

import weakref
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metaexp.algos.imaml import IMAML
from metaexp.algos.maml import MAML
from metaexp.contract import largest_difference, new, parameters, pictures
from metaexp.inner import SGD, Adam, recomputed
from metaexp.models.cnn4 import CNN4
from metaexp.models.mlp import MLP
from metaexp.tasks.sine import Sine

F64 = torch.float64
NET = partial(MLP, hidden=[8, 6], activation="tanh")


def sines(**settings) -> Sine:
    return Sine(**{"shots": 6, "queries": 7} | settings).to("cpu", F64)


def gradients(learner, batch):
    return learner.meta_gradient(parameters(learner), batch._replace(info={}))[:2]


INNER = {"sgd": SGD(), "momentum": SGD(0.9, nesterov=True), "adam": Adam()}


@pytest.mark.parametrize("mapping", ["vmap", "loop"])
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("adapt", ["*", "head.*"])
def test_checkpointed_maml_is_maml(mapping, steps, inner, adapt):
    """Also the gradient of what the inner loop leaves alone."""
    settings = {"inner_lr": 0.05, "inner_steps": steps, "inner": INNER[inner], "adapt": [adapt], "mapping": mapping}
    plain, again = (new(lambda f, c=c: MAML(f, NET, checkpoint=c, **settings), sines()) for c in (False, True))
    batch = plain.train_batch(torch.arange(50 if mapping == "vmap" else 3))
    exact, found = gradients(plain, batch), gradients(again, batch)
    assert exact[1] == found[1]
    for name, g in found[0].items():
        assert g.abs().max() > 1e-6
        assert (g - exact[0][name]).abs().max() < 1e-12 * exact[0][name].abs().max(), name
    for learner in (plain, again):  # and by plain backward()
        learner(batch._replace(info={}))[0].backward()
    pairs = zip(again.parameters(), plain.parameters(), strict=True)
    assert all(largest_difference(a.grad, b.grad) < 1e-12 for a, b in pairs)


@pytest.mark.parametrize("mapping", ["vmap", "loop"])
def test_checkpointed_maml_is_maml_with_batch_norm(mapping):
    settings = {"inner_lr": 0.5, "inner_steps": 3, "adapt": ["*", "!norms.*"], "mapping": mapping}
    net = partial(CNN4, filters=4)
    plain, again = (
        new(lambda f, c=c: MAML(f, net, checkpoint=c, **settings), pictures(side=16, shots=3)) for c in (False, True)
    )
    batch = plain.train_batch(torch.arange(4))
    exact, found = gradients(plain, batch), gradients(again, batch)
    scale = max(float(g.abs().max()) for g in exact[0].values())
    assert max(float((g - exact[0][k]).abs().max()) for k, g in found[0].items()) < 1e-12 * scale
    assert exact[0]["model.norms.1.weight"].abs().max() > 1e-4 * scale


def test_recomputed_calls_the_function_again_and_is_differentiated_once():
    calls = []

    def function(a, b, factor):
        calls.append(1)
        return {"x": torch.sin(a["w"] * b) * factor, "y": (a["w"] ** 3).sum()}

    draw = torch.Generator().manual_seed(0)
    w, b = (torch.randn(5, 3, generator=draw, dtype=F64) for _ in range(2))

    def value(w, b, remade):
        made = recomputed(function, {"w": w}, b, 2.0) if remade else function({"w": w}, b, 2.0)
        return (made["x"] ** 2).sum() * made["y"]

    assert torch.equal(value(w, b, True), value(w, b, False))
    calls.clear()
    grad(value)(w, b, True)
    assert len(calls) == 2
    for argnums in (0, 1):
        found, exact = (vmap(grad(partial(value, remade=r), argnums))(w, b) for r in (True, False))
        assert largest_difference(found, exact) < 1e-13
    slope = grad(partial(value, b=b, remade=True))
    for twice in (lambda: grad(lambda w: slope(w).sum())(w), lambda: vmap(grad(lambda w: slope(w).sum()))(w[None])):
        with pytest.raises(RuntimeError, match="recomputed: can be differentiated once"):
            twice()


class Live(TorchDispatchMode):
    """The largest number of bytes that tensors made inside held at one time."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and leaf.untyped_storage() not in self.known:
                storage = leaf.untyped_storage()
                self.known.add(storage)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.free, storage.nbytes())
        return made

    def free(self, size):
        self.now -= size


def test_memory_by_the_number_of_inner_steps():
    """iMAML: none; checkpointed MAML: the parameters of a step; MAML: the graph of a step."""
    family = Sine(100, 100)
    peaks = {}
    for name, make in {
        "imaml": IMAML,
        "maml": MAML,
        "checkpoint": partial(MAML, checkpoint=True),
    }.items():
        for steps in (2, 12):
            learner = make(family, partial(MLP, hidden=[32, 32]), inner_lr=0.001, inner_steps=steps)
            batch = learner.train_batch(torch.arange(4))._replace(info={})
            params = parameters(learner)
            with Live() as live:
                learner.meta_gradient(params, batch)
            peaks[name, steps] = live.peak
    weights = 4 * sum(p.numel() for p in params.values()) * 4  # bytes, of 4 tasks
    grown = {name: (peaks[name, 12] - peaks[name, 2]) / 10 for name in ("imaml", "maml", "checkpoint")}
    assert grown["imaml"] < 100  # the losses, one number a step
    assert grown["checkpoint"] < 1.1 * weights
    assert grown["maml"] > 10 * weights


def test_checkpoint_with_first_order_is_refused():
    with pytest.raises(ValueError, match=r"^checkpoint=true: first_order keeps no graph"):
        MAML(sines(), NET, checkpoint=True, first_order=True)


def test_a_loss_with_parameters_is_refused_with_checkpoint():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, prediction, target):
            return self.scale * F.mse_loss(prediction, target)

    assert "loss.scale" in MAML(sines(), NET, loss=Scaled()).meta_parameters()
    with pytest.raises(ValueError, match=r"^checkpoint=true: would lose the gradient of the loss's own parameter loss"):
        MAML(sines(), NET, loss=Scaled(), checkpoint=True)
