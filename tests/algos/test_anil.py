"""ANIL in float64 against loops of torch.autograd."""

import pytest
import torch
import torch.nn.functional as F
from references import (
    CNN,
    F64,
    NET,
    close,
    cnn4,
    cross_entropy,
    gradients,
    mlp,
    plain_maml,
    same_gradient,
    shaken,
    sines,
)

from metaexp.algos.anil import ANIL
from metaexp.contract import new, pictures, task
from metaexp.evaluation.scores import score
from metaexp.metrics import accuracy

HEAD = ["head.weight", "head.bias"]


@pytest.mark.parametrize("first_order", [False, True])
def test_anil_equals_a_plain_loop_over_200_sine_tasks(first_order):
    learner = new(lambda f: ANIL(f, NET, inner_lr=0.05, inner_steps=3, first_order=first_order), sines())
    names = [n for n, _ in learner.model.named_parameters() if n in HEAD]
    batch = learner.train_batch(torch.arange(200))
    one = task(batch, 0)
    assert list(learner.adapt(one.support, one.key)) == [n.removeprefix("head.") for n in names]
    expected = plain_maml(mlp, F.mse_loss, learner, batch, 0.05, 3, first_order, names)
    gradient, value = gradients(learner, batch)
    close(value, expected[1])
    same_gradient(gradient, expected[0])


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("mapping", ["vmap", "loop"])
def test_anil_equals_a_plain_loop_with_batch_norm(mapping, first_order):
    """Support and queries apart, as in MAML."""
    settings = {"inner_lr": 0.5, "inner_steps": 2, "first_order": first_order, "mapping": mapping}
    learner = shaken(new(lambda f: ANIL(f, CNN, **settings), pictures(side=16, shots=3)))
    batch = learner.train_batch(torch.arange(4))
    names = [n for n, _ in learner.model.named_parameters() if n in HEAD]
    expected = plain_maml(cnn4, cross_entropy, learner, batch, 0.5, 2, first_order, names)
    gradient, value = gradients(learner, batch)
    close(value, expected[1])
    same_gradient(gradient, expected[0])


def test_the_path_of_anil_has_a_rate_and_steps_of_its_own():
    names = HEAD
    learner = new(lambda f: ANIL(f, NET, inner_lr=0.05, test_lr=0.02, test_steps=3), sines())
    assert learner.test_steps == 3
    one = task(learner.family.sample("test", torch.tensor([1])), 0)
    fast = {k: p.detach().clone().requires_grad_() for k, p in learner.model.named_parameters()}
    for point in learner.path(one.support, one.key, 3):
        close(list(point.values()), [fast[name] for name in names])
        loss = F.mse_loss(mlp(fast, one.support.x), one.support.y)
        grads = torch.autograd.grad(loss, [fast[name] for name in names])
        fast |= {k: (fast[k] - 0.02 * g).detach().requires_grad_() for k, g in zip(names, grads, strict=True)}


def test_anil_with_running_averages_puts_support_and_queries_in_one_batch():
    """By a loop that takes the features of the whole episode at once."""

    def features(p, x):
        return cnn4(p | {"head.weight": torch.eye(4, dtype=F64), "head.bias": torch.zeros(4, dtype=F64)}, x)

    settings = {"inner_lr": 0.5, "inner_steps": 3, "normalise": "running"}
    learner = shaken(new(lambda f: ANIL(f, CNN, **settings), pictures(side=16, shots=3)))
    batch = learner.train_batch(torch.arange(4))
    params = {k: p.detach().clone().requires_grad_() for k, p in learner.model.named_parameters()}
    total = torch.zeros((), dtype=F64)
    for i in range(4):
        one = task(batch, i)
        z = features(params, torch.cat((one.support.x, one.query.x)))
        w, b = params["head.weight"], params["head.bias"]
        for _ in range(3):
            loss = cross_entropy(z[:9] @ w.T + b, one.support.y)
            gw, gb = torch.autograd.grad(loss, (w, b), create_graph=True)
            w, b = w - 0.5 * gw, b - 0.5 * gb
        total = total + cross_entropy(z[9:] @ w.T + b, one.query.y) / 4
    exact = torch.autograd.grad(total, list(params.values()))
    gradient, value = gradients(learner, batch)
    close(value, total)
    same_gradient(gradient, {f"model.{k}": g for k, g in zip(params, exact, strict=True)})


def test_query_features_are_computed_once_however_long_the_path():
    learner = new(lambda f: ANIL(f, NET, inner_steps=2, test_steps=9), pictures())
    one, seen = task(learner.family.sample("test", torch.tensor([3])), 0), []
    plain = learner.features
    learner.features = lambda x: seen.append(len(x)) or plain(x)
    with torch.no_grad():
        scores = score(learner, one, learner.modes(["queries"]))["accuracy"]
        path = learner.path(one.support, one.key, 9)
        again = [accuracy(learner.predict(point, one.query.x), one.query.y) for point in path]
    assert seen[:2] == [len(one.support.x), len(one.query.x)]
    assert len(seen) == 2 + 1 + 10  # what was done here by hand, point by point
    assert scores.tolist() == torch.stack(again).tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner_lr": 0.0}, "inner_lr=0.0: must be above 0"),
        ({"normalise": "both"}, "normalise=both: must be running or batch"),
    ],
)
def test_anil_refuses_on_sines(settings, message):
    with pytest.raises(ValueError) as caught:
        ANIL(sines(), NET, **settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
