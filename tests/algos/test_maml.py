"""MAML and FOMAML in float64: closed forms on f(x) = w x, and independent plain-PyTorch loops over many tasks."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from references import F64, LINE, NET, Parabola, W, close, cnn4, cross_entropy, gp, lines, mlp, plain_maml, sines

from metaexp.algos.maml import MAML
from metaexp.contract import new, parameters, pictures, task
from metaexp.models.cnn4 import CNN4
from metaexp.models.linear import Linear
from metaexp.outer.meta_training import MetaTraining


@pytest.mark.parametrize("mapping", ["vmap", 3, "loop"])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("first_order", [False, True])
def test_maml_closed_form(steps, first_order, mapping):
    """dL/dw = L_query'(w_k) * (1 - 2 a s)^k; the factor is 1 for FOMAML."""
    lr = 0.02
    learner = new(
        lambda f: MAML(f, LINE, inner_lr=lr, inner_steps=steps, first_order=first_order, mapping=mapping), lines()
    )
    batch = learner.train_batch(torch.arange(8))
    support, query = Parabola(batch.support), Parabola(batch.query)
    w = learner.model.head.weight.detach().flatten()
    adapted = support.descend(w, lr, steps)
    factor = 1.0 if first_order else (1 - 2 * lr * support.s) ** steps
    gradient, value, logs = learner.meta_gradient(parameters(learner), batch._replace(info={}))
    close(gradient[W].flatten(), (query.gradient(adapted) * factor).mean()[None])
    close(value, query.loss(adapted).mean())
    close(logs["mse"], query.loss(adapted).mean())
    path = learner.path(*(task(batch, 2).support, batch.key[2], 9))
    close(
        torch.stack([point["head.weight"].flatten()[0] for point in path]),
        torch.stack([support.descend(w, lr, k)[2] for k in range(10)]),
    )


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_equals_a_plain_loop_over_200_sine_tasks(first_order):
    learner = new(lambda f: MAML(f, NET, inner_lr=0.05, inner_steps=3, first_order=first_order), sines())
    batch = learner.train_batch(torch.arange(200))
    adapted = dict(learner.model.named_parameters())
    expected = plain_maml(mlp, F.mse_loss, learner, batch, 0.05, 3, first_order, adapted)
    gradient, value, _ = learner.meta_gradient(parameters(learner), batch._replace(info={}))
    close(value, expected[1])
    for name, g in gradient.items():
        assert (g - expected[0][name]).abs().max() < 1e-10 * g.abs().max()
    for i in range(0, 200, 40):  # the mean hides nothing
        one = batch._replace(info={})
        one = torch.utils._pytree.tree_map(lambda t, i=i: t[i : i + 1], one)
        exact = plain_maml(mlp, F.mse_loss, learner, one, 0.05, 3, first_order, adapted)[0]
        found = learner.meta_gradient(parameters(learner), one)[0]
        assert all((found[k] - exact[k]).abs().max() < 1e-10 * exact[k].abs().max() for k in exact)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("mapping", ["vmap", "loop"])
def test_maml_equals_a_plain_loop_with_cnn4_and_batch_norm(first_order, mapping):
    learner = new(
        lambda f: MAML(
            f,
            partial(CNN4, filters=4),
            inner_lr=0.5,
            inner_steps=2,
            first_order=first_order,
            adapt=["convolutions.*", "head.*"],
            mapping=mapping,
        ),
        pictures(side=16, shots=3),
    )
    with torch.no_grad():
        for p in learner.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=F64))
    batch = learner.train_batch(torch.arange(4))
    adapted = [k for k, _ in learner.model.named_parameters() if not k.startswith("norms")]
    expected = plain_maml(cnn4, cross_entropy, learner, batch, 0.5, 2, first_order, adapted)
    gradient, value, logs = learner.meta_gradient(parameters(learner), batch._replace(info={}))
    close(value, expected[1])
    scale = max(float(g.abs().max()) for g in gradient.values())
    assert max(float((g - expected[0][k]).abs().max()) for k, g in gradient.items()) < 1e-10 * scale
    assert gradient["model.norms.1.weight"].abs().max() > 1e-4  # learned outside, not adapted inside
    assert 0 <= logs["accuracy"] <= 1


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_adapts_the_named_parameters_only(first_order):
    learner = new(
        lambda f: MAML(f, NET, inner_lr=0.05, inner_steps=3, first_order=first_order, adapt=["head.*"]), sines()
    )
    batch = learner.train_batch(torch.arange(5))
    names = ["head.weight", "head.bias"]
    one = task(batch, 0)
    assert list(learner.adapt(one.support, one.key)) == names
    expected = plain_maml(mlp, F.mse_loss, learner, batch, 0.05, 3, first_order, names)
    gradient, value, _ = learner.meta_gradient(parameters(learner), batch._replace(info={}))
    close(value, expected[1])
    close(gradient, {k: expected[0][k] for k in gradient})


def test_frozen_parameters_are_no_meta_parameters():
    family = sines()
    torch.manual_seed(0)
    model = NET((1,), 1)
    model.body[0].requires_grad_(False)
    learner = MAML(family, model, inner_lr=0.05).double()
    assert not any(name.startswith("model.body.0") for name in learner.meta_parameters())
    batch = learner.train_batch(torch.arange(5))._replace(info={})
    one = task(batch, 0)
    assert not any(name.startswith("body.0") for name in learner.adapt(one.support, one.key))
    free = [name for name in dict(learner.model.named_parameters()) if not name.startswith("body.0")]
    expected = plain_maml(mlp, F.mse_loss, learner, batch, 0.05, 1, False, free)
    gradient, _, _ = learner.meta_gradient(parameters(learner), batch)
    close(gradient, {k: expected[0][k] for k in gradient})
    before = model.body[0].weight.clone()
    MetaTraining(learner, torch.optim.Adam(learner.meta_parameters().values()), meta_batch=3).step(0)
    assert torch.equal(model.body[0].weight, before)


def test_tied_weights_stay_one():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = torch.nn.Linear(1, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
            self.c = torch.nn.Linear(4, 4)
            self.c.weight = self.b.weight

        def forward(self, x):
            return self.head(torch.tanh(self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))))

    def net(p, x):
        z = torch.tanh(x @ p["a.weight"].T + p["a.bias"])
        z = torch.tanh(z @ p["b.weight"].T + p["b.bias"])
        z = torch.tanh(z @ p["b.weight"].T + p["c.bias"])
        return z @ p["head.weight"].T + p["head.bias"]

    learner = new(lambda f: MAML(f, Tied(), inner_lr=0.05, inner_steps=2), sines())
    batch = learner.train_batch(torch.arange(5))._replace(info={})
    names = dict(learner.model.named_parameters())
    assert "c.weight" not in names
    close(
        learner.meta_gradient(parameters(learner), batch)[0],
        plain_maml(net, F.mse_loss, learner, batch, 0.05, 2, False, names)[0],
    )


def test_a_loss_over_no_queries_is_0():
    for first_order in (False, True):
        learner = new(lambda f, o=first_order: MAML(f, NET, first_order=o), sines())
        batch = learner.family.sample("train", torch.arange(3), queries=0)._replace(info={})
        gradient, value, _ = learner.meta_gradient(parameters(learner), batch)
        assert value == 0
        assert not any(g.any() for g in gradient.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner_lr": 0.0}, "inner_lr=0.0: must be above 0"),
        ({"inner_lr": float("nan")}, "inner_lr=nan: must be above 0"),
        ({"test_lr": -1.0}, "test_lr=-1.0: must be above 0"),
        ({"inner_steps": 0}, "inner_steps=0: must be at least 1"),
        ({"test_steps": -1}, "test_steps=-1: must be at least 0"),
        ({"adapt": ["haed.*"]}, "adapt=haed.*: matches none of the parameters body.0.bias,"),
    ],
)
def test_maml_refuses(settings, message):
    with pytest.raises(ValueError) as caught:
        MAML(sines(), NET, **settings)
    assert str(caught.value).startswith(message)


def test_point_predictors_learn_on_the_family():
    assert list(new(lambda f: MAML(f, Linear), gp()).metrics) == ["mse"]
