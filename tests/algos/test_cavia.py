"""CAVIA in float64 against loops of torch.autograd with the context written out, and what it refuses."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metaexp.algos.cavia import CAVIA
from metaexp.config.compose import config_dir
from metaexp.config.instantiate import instantiate
from metaexp.config.settings import Settings
from metaexp.contract import finite_differences, largest_difference, new, parameters, pictures, task
from metaexp.evaluation.scores import evaluate
from metaexp.inner import Adam
from metaexp.models.cnn4 import CNN4
from metaexp.models.linear import Linear
from metaexp.models.mlp import MLP
from metaexp.tasks.sine import Sine

F64 = torch.float64
NET = partial(MLP, hidden=[8, 6], activation="tanh")
CNN = partial(CNN4, filters=4)


def sines(**settings) -> Sine:
    return Sine(**{"shots": 6, "queries": 7} | settings).to("cpu", F64)


def input_net(p: dict[str, Tensor], x: Tensor, phi: Tensor) -> Tensor:
    """The context's own columns of the first layer give a shift that all examples share."""
    w = p["network.body.0.weight"]
    n = x.flatten(1).shape[1]
    z = torch.tanh(x.flatten(1) @ w[:, :n].T + w[:, n:] @ phi + p["network.body.0.bias"])
    z = torch.tanh(z @ p["network.body.1.weight"].T + p["network.body.1.bias"])
    return z @ p["network.head.weight"].T + p["network.head.bias"]


def conv_net(p: dict[str, Tensor], x: Tensor, phi: Tensor, film: bool) -> Tensor:
    if not film:
        x = torch.cat((x, torch.ones(len(x), len(phi), *x.shape[2:], dtype=F64) * phi[None, :, None, None]), 1)
    for i in range(4):
        weight, bias = p[f"network.convolutions.{i}.weight"], p[f"network.convolutions.{i}.bias"]
        x = F.conv2d(x, weight, bias, stride=2, padding=1)
        x = F.batch_norm(x, None, None, p[f"network.norms.{i}.weight"], p[f"network.norms.{i}.bias"], True)
        if film and i == 2:
            made = p["film.weight"] @ phi + p["film.bias"]
            x = made[:4, None, None] * x + made[4:, None, None]
        x = F.relu(x)
    return x.mean((2, 3)) @ p["network.head.weight"].T + p["network.head.bias"]


def cross_entropy(logits: Tensor, one_hot: Tensor) -> Tensor:
    return F.cross_entropy(logits, one_hot.argmax(-1))


def plain_cavia(net, loss, learner, batch, size, lr, steps, first_order):
    """Task by task: phi from 0, its steps, and the gradient of the mean query loss in the shared weights."""
    params = {k: p.detach().clone().requires_grad_() for k, p in learner.model.named_parameters()}
    total = torch.zeros((), dtype=F64)
    contexts = []
    for i in range(len(batch.key)):
        phi = torch.zeros(size, dtype=F64, requires_grad=True)
        for _ in range(steps):
            inner = loss(net(params, batch.support.x[i], phi), batch.support.y[i])
            (g,) = torch.autograd.grad(inner, phi, create_graph=not first_order)
            phi = phi - lr * g
        contexts.append(phi.detach())
        total = total + loss(net(params, batch.query.x[i], phi), batch.query.y[i]) / len(batch.key)
    grads = torch.autograd.grad(total, list(params.values()), allow_unused=True)
    exact = {
        f"model.{k}": torch.zeros_like(p) if g is None else g for (k, p), g in zip(params.items(), grads, strict=True)
    }
    return exact, total.detach(), torch.stack(contexts)


def compare(learner, batch, expected, tolerance=1e-10) -> None:
    gradient, value, _ = learner.meta_gradient(parameters(learner), batch._replace(info={}))
    assert largest_difference(value, expected[1]) < 1e-12
    assert set(gradient) == set(expected[0])
    scale = max(float(g.abs().max()) for g in expected[0].values())
    assert scale > 1e-3
    for name, g in gradient.items():
        assert (g - expected[0][name]).abs().max() < tolerance * scale, name


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_equals_a_plain_loop_over_200_sine_tasks(steps, first_order):
    settings = {"context_size": 4, "inner_lr": 0.7, "inner_steps": steps, "first_order": first_order}
    learner = new(lambda f: CAVIA(f, NET, **settings), sines())
    batch = learner.train_batch(torch.arange(200))
    expected = plain_cavia(input_net, F.mse_loss, learner, batch, 4, 0.7, steps, first_order)
    compare(learner, batch, expected)
    for i in range(0, 200, 20):
        one = task(batch, i)
        assert (learner.adapt(one.support, one.key)["phi"] - expected[2][i]).abs().max() < 1e-13
    assert expected[2].abs().min() > 0


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("mapping", ["vmap", "loop"])
@pytest.mark.parametrize("context", ["film", "channel"])
def test_equals_a_plain_loop_on_pictures(context, mapping, first_order):
    """Away from the start, where FiLM's scale is 1 and the norms' too."""
    settings = {"context_size": 3, "inner_lr": 0.5, "inner_steps": 2, "first_order": first_order}
    learner = new(lambda f: CAVIA(f, CNN, context=context, mapping=mapping, **settings), pictures(side=16, shots=3))
    with torch.no_grad():
        for p in learner.model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=F64))
    batch = learner.train_batch(torch.arange(4))
    net = partial(conv_net, film=context == "film")
    compare(learner, batch, plain_cavia(net, cross_entropy, learner, batch, 3, 0.5, 2, first_order))


def test_against_finite_differences():
    learner = new(lambda f: CAVIA(f, NET, context_size=3, inner_lr=0.3, inner_steps=2), sines())
    assert finite_differences(learner, learner.train_batch(torch.arange(20))._replace(info={})) < 1e-6


def test_the_context_is_chosen_by_the_network():
    found = {
        (kind, net): CAVIA(family, make).model
        for kind, family in (("vector", sines()), ("picture", pictures(side=16)))
        for net, make in (("mlp", NET), ("cnn4", CNN))
        if (kind, net) != ("vector", "cnn4")
    }
    names = {key: (type(model).__name__, model.size) for key, model in found.items()}
    assert names == {
        ("vector", "mlp"): ("InputContext", 5),
        ("picture", "mlp"): ("InputContext", 5),
        ("picture", "cnn4"): ("FiLM", 100),
    }
    assert found["vector", "mlp"].network.body[0].in_features == 6
    own = MLP((1 + 2,), 1, hidden=[4])  # a ready module takes the longer input itself
    assert CAVIA(sines(), own, context_size=2).model.network is own


def test_a_context_of_zeros_leaves_the_network_as_it_is():
    learner = new(lambda f: CAVIA(f, CNN, context_size=7), pictures(side=16))
    x = torch.rand(5, 1, 16, 16, dtype=F64)
    assert torch.equal(learner.predict({"phi": learner.start}, x), learner.model.network(x))
    moved = learner.predict({"phi": torch.ones(7, dtype=F64)}, x)
    assert (moved - learner.model.network(x)).abs().max() > 1e-2


def test_the_path_starts_at_0_and_has_rates_and_steps_of_its_own():
    learner = new(lambda f: CAVIA(f, NET, test_lr=0.2, test_steps=3, inner_steps=2), sines())
    assert learner.test_steps == 3
    batch = learner.family.sample("test", torch.arange(2))
    one = task(batch, 1)
    path = learner.path(one.support, one.key, 3)
    for steps, point in enumerate(path):
        exact = plain_cavia(input_net, F.mse_loss, learner, batch, 5, 0.2, steps, True)[2][1]
        assert (point["phi"] - exact).abs().max() < 1e-13
    assert not path[0]["phi"].any()
    first = learner.diagnostics(one)["inner_gradient_norm"]
    assert abs(float((path[1]["phi"].norm() / 0.2 - first).detach())) < 1e-12


def test_any_inner_optimiser_and_the_buffer_is_no_weight():
    learner = new(lambda f: CAVIA(f, NET, inner_lr=0.1, inner_steps=3, inner=Adam()), sines())
    assert "start" not in learner.state_dict()
    one = task(learner.train_batch(torch.arange(1)), 0)
    assert (learner.path(one.support, one.key, 1)[1]["phi"].abs() - 0.1).abs().max() < 1e-6  # Adam's first step


def test_views_show_the_context_of_each_task_by_what_is_known_of_it():
    learner = new(lambda f: CAVIA(f, NET, inner_steps=2), sines())
    episodes = learner.family.sample("val", torch.arange(6))
    view = learner.views(episodes)["context"]
    assert torch.equal(view.colour, episodes.info["amplitude"])
    assert "amplitude" in view.title
    assert list(view.kind) == ["context"] * 6
    for i in range(6):
        one = task(episodes, i)
        assert (view.points[i] - learner.path(one.support, one.key, 2)[-1]["phi"]).abs().max() < 1e-12
    nothing = learner.views(episodes._replace(info={"classes": torch.zeros(6, 3)}))["context"]
    assert torch.equal(nothing.colour, torch.zeros(6))


@pytest.mark.parametrize("kind", ["regression", "classification", "pictures"])
def test_finite_over_300_tasks_at_default_settings(kind):
    """In float32, as conf/algo has them, at training and along the whole path at test."""
    family = sines(shots=10) if kind == "regression" else pictures(side=16, shots=1)
    family.to("cpu", torch.float32)
    make = instantiate(Settings([], config_dir()).composer.content("algo/cavia"), group="algo", trusted=set())
    torch.manual_seed(0)
    learner = make(family, CNN if kind == "pictures" else MLP, mapping="vmap")
    batch = learner.train_batch(torch.arange(300))._replace(info={})
    gradient, value, _ = learner.meta_gradient(parameters(learner), batch)
    assert value.isfinite()
    assert all(g.isfinite().all() for g in gradient.values())
    scores = evaluate(learner, "test", 300, ["queries"], diagnose=True).arrays
    assert all(np.isfinite(values).all() for values in scores.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": "both"}, "context=both: must be input, film or channel"),
        ({"context": "film"}, "context=film: needs a network with channels and forward(x, modulate), as cnn4; use"),
        ({"context": "channel"}, "context=channel: needs pictures (channels, height, width), not (1,); use input"),
        ({"context_size": 0}, "context_size=0: must be at least 1"),
        ({"inner_lr": 0.0}, "inner_lr=0.0: must be above 0"),
        ({"inner_steps": 0}, "inner_steps=0: must be at least 1"),
        ({"test_steps": -1}, "test_steps=-1: must be at least 0"),
    ],
)
def test_refused_on_sines(settings, message):
    with pytest.raises(ValueError) as caught:
        CAVIA(sines(), NET, **settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("net", [Linear, partial(Linear, bias=False), partial(MLP, hidden=[])])
def test_a_linear_network_is_refused_since_a_context_only_shifts_it(net):
    before = torch.get_rng_state()
    for family in (sines(), pictures(side=16)):
        with pytest.raises(ValueError, match=r"^model: the network is linear in its input.*use model=mlp$"):
            CAVIA(family, net)
    torch.set_rng_state(before)
    learner = new(lambda f: CAVIA(f, NET), sines())
    assert learner.model.network.body[0].in_features == 6


def test_a_block_that_is_not_there_is_refused():
    for block in (-1, 4):
        with pytest.raises(ValueError, match=f"^film_block={block}: must be from 0 to 3"):
            CAVIA(pictures(side=16), CNN, film_block=block)
