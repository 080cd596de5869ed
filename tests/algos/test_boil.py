"""BOIL in float64 against loops of torch.autograd."""

import pytest
import torch
import torch.nn.functional as F
from references import CNN, NET, close, cnn4, cross_entropy, gradients, mlp, plain_maml, same_gradient, shaken, sines

from metaexp.algos.boil import BOIL
from metaexp.contract import new, pictures, task

HEAD = ["head.weight", "head.bias"]


@pytest.mark.parametrize("first_order", [False, True])
def test_boil_equals_a_plain_loop_over_200_sine_tasks(first_order):
    learner = new(lambda f: BOIL(f, NET, inner_lr=0.05, inner_steps=3, first_order=first_order), sines())
    names = [n for n, _ in learner.model.named_parameters() if n not in HEAD]
    batch = learner.train_batch(torch.arange(200))
    one = task(batch, 0)
    assert list(learner.adapt(one.support, one.key)) == names
    expected = plain_maml(mlp, F.mse_loss, learner, batch, 0.05, 3, first_order, names)
    gradient, value = gradients(learner, batch)
    close(value, expected[1])
    same_gradient(gradient, expected[0])


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("mapping", ["vmap", "loop"])
def test_boil_equals_a_plain_loop_with_batch_norm(mapping, first_order):
    """The norms' scales and shifts are adapted too."""
    settings = {"inner_lr": 0.5, "inner_steps": 2, "first_order": first_order, "mapping": mapping}
    learner = shaken(new(lambda f: BOIL(f, CNN, **settings), pictures(side=16, shots=3)))
    batch = learner.train_batch(torch.arange(4))
    names = [n for n, _ in learner.model.named_parameters() if n not in HEAD]
    expected = plain_maml(cnn4, cross_entropy, learner, batch, 0.5, 2, first_order, names)
    gradient, value = gradients(learner, batch)
    close(value, expected[1])
    same_gradient(gradient, expected[0])


def test_the_path_of_boil_has_a_rate_and_steps_of_its_own():
    names = [f"body.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")]
    learner = new(lambda f: BOIL(f, NET, inner_lr=0.05, test_lr=0.02, test_steps=3), sines())
    assert learner.test_steps == 3
    one = task(learner.family.sample("test", torch.tensor([1])), 0)
    fast = {k: p.detach().clone().requires_grad_() for k, p in learner.model.named_parameters()}
    for point in learner.path(one.support, one.key, 3):
        close(list(point.values()), [fast[name] for name in names])
        loss = F.mse_loss(mlp(fast, one.support.x), one.support.y)
        grads = torch.autograd.grad(loss, [fast[name] for name in names])
        fast |= {k: (fast[k] - 0.02 * g).detach().requires_grad_() for k, g in zip(names, grads, strict=True)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test_steps": -1}, "test_steps=-1: must be at least 0"),
    ],
)
def test_boil_refuses_on_sines(settings, message):
    with pytest.raises(ValueError) as caught:
        BOIL(sines(), NET, **settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
