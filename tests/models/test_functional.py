"""Shared modules, tied weights, random layers, complex parameters, own norms: right, or refused in one line."""

import copy
from functools import partial

import pytest
import torch
from references import close, sines
from torch import nn

from metaexp.algos.maml import MAML
from metaexp.contract import finite_differences, new
from metaexp.models.functional import check_module, functional_call

F64 = torch.float64
MAKE = partial(MAML, inner_lr=0.05, inner_steps=2)


class Once(nn.Module):
    """a(tanh(a(x))) with one name for a."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(1, 1)

    def forward(self, x):
        return self.a(torch.tanh(self.a(x)))


class Twice(Once):
    """The same with two names."""

    def __init__(self):
        super().__init__()
        self.b = self.a

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Block(nn.Sequential):
    """The same as a list in which one block comes twice."""

    def __init__(self):
        block = nn.Linear(1, 1)
        super().__init__(block, nn.Tanh(), block)


class Tied(nn.Module):
    """Two modules that hold one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(1, 1), nn.Linear(1, 1)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


@pytest.mark.parametrize("mapping", ["loop", "vmap", 2])
@pytest.mark.parametrize("shared", [Twice, Block])
def test_a_block_with_two_names_is_the_function_with_one(shared, mapping):
    family = sines()
    once, twice = (new(lambda f, m=m: MAKE(f, m(), mapping=mapping), family) for m in (Once, shared))
    episodes = family.sample("train", torch.arange(6))._replace(info={})
    before = copy.deepcopy(twice.state_dict())
    found = []
    for learner in (once, twice, twice):
        learner.zero_grad()
        loss, _ = learner(episodes)
        loss.backward()
        gradient, value, _ = learner.meta_gradient(dict(learner.named_parameters()), episodes)
        found.append([loss.detach(), *(p.grad.clone() for p in learner.parameters()), value, *gradient.values()])
    for other in found[1:]:
        assert len(other) == len(found[0])
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in twice.state_dict().items())


@pytest.mark.parametrize("mapping", ["loop", "vmap"])
@pytest.mark.parametrize("model", [Twice, Block, Tied])
def test_their_meta_gradient_against_finite_differences(model, mapping):
    learner = new(lambda f: MAKE(f, model(), mapping=mapping), sines())
    episodes = learner.family.sample("train", torch.arange(5))._replace(info={})
    assert finite_differences(learner, episodes) < 1e-6


def test_any_of_its_names_replaces_a_tensor_everywhere():
    x, new_weight = torch.randn(3, 1, dtype=F64), torch.randn(1, 1, dtype=F64)
    for model, names in ((Twice(), ("a.weight", "b.weight")), (Tied(), ("a.weight", "b.weight"))):
        model.double()
        plain = copy.deepcopy(model)
        with torch.no_grad():
            plain.a.weight.copy_(new_weight)
        before = model.a.weight
        for name in names:
            close(functional_call(model, {name: new_weight}, (x,)), plain(x))
            assert model.a.weight is before
            assert model.b.weight is before
    with pytest.raises(KeyError, match=r"c\.weight"):
        functional_call(Once(), {"c.weight": new_weight}, (x,))


class Noise(nn.Module):
    """Draws in its forward pass, whatever it is called."""

    def forward(self, x):
        return x + torch.randn_like(x)


class Recurrent(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.cell, self.head = nn.LSTM(1, 4, num_layers=2, dropout=dropout, batch_first=True), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.cell(x[:, :, None])[0][:, -1])


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.1), nn.Linear(4, 1)), "Dropout(p=0.1"),
        (nn.Sequential(nn.Linear(1, 4), nn.RReLU(), nn.Linear(4, 1)), "RReLU"),
        (nn.Sequential(nn.Linear(1, 4), Noise(), nn.Linear(4, 1)), "Noise()"),
        (Recurrent(0.5), "LSTM(1, 4, num_layers=2"),
    ],
    ids=["dropout", "rrelu", "own", "lstm"],
)
def test_whatever_draws_from_the_global_generator_is_refused(model, named):
    with pytest.raises(ValueError, match=r"^model: .* draws from torch's global generator") as caught:
        MAKE(sines().to("cpu", torch.float32), model)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    if named != "Noise()":
        check_module(model.eval(), (1,))


def test_a_layer_that_draws_for_negative_inputs_only_is_found():
    model = nn.Sequential(nn.Linear(1, 4), nn.RReLU(), nn.Linear(4, 1))
    nn.init.ones_(model[0].weight)
    for bias in (0.0, 2.0):
        nn.init.constant_(model[0].bias, bias)
        with pytest.raises(ValueError, match=r"^model: RReLU"):
            check_module(model, (1,))


def test_the_trial_leaves_generator_and_buffers_as_they_were():
    model = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    cell, dropped = Recurrent(0.0), nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    check_module(model, (1,))
    check_module(cell, (1,))
    with pytest.raises(ValueError, match="draws"):
        check_module(dropped, (1,))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, 1, dtype=torch.complex64))

    def forward(self, x):
        return (x * self.w).real


class Activated(nn.BatchNorm1d):
    def forward(self, x):
        return torch.relu(super().forward(x))


class Scaled(nn.LayerNorm):
    def __init__(self, n):
        super().__init__(n)
        self.scale = nn.Parameter(torch.ones(()))


def hooked():
    norm = nn.BatchNorm1d(4)
    norm.register_forward_hook(lambda layer, args, output: torch.relu(output))
    return norm


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Complex, "model: w is complex"),
        (lambda: nn.Sequential(nn.Linear(1, 4), Activated(4), nn.Linear(4, 1)), "model: Activated is a norm"),
        (lambda: nn.Sequential(nn.Linear(1, 4), Scaled(4), nn.Linear(4, 1)), "model: Scaled is a norm of its own"),
        (lambda: nn.Sequential(nn.Linear(1, 4), hooked(), nn.Linear(4, 1)), "model: BatchNorm1d has forward hooks"),
    ],
    ids=["complex", "activation", "parameter", "hook"],
)  # fmt: skip
def test_what_would_be_lost_is_refused(model, message):
    with pytest.raises(ValueError, match=r"^model: ") as caught:
        MAKE(sines().to("cpu", torch.float32), model())
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
