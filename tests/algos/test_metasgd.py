"""Meta-SGD in float64 against MAML, products of gradients and finite differences."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from references import F64, NET, close, gradients, mlp, same_gradient, sines

from metaexp.algos.maml import MAML
from metaexp.algos.metasgd import MetaSGD
from metaexp.contract import finite_differences, new, task
from metaexp.models.mlp import MLP


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_metasgd_with_one_rate_for_all_is_maml(steps, first_order):
    settings = {"inner_lr": 0.05, "inner_steps": steps, "first_order": first_order}
    maml, learner = (new(lambda f, m=make: m(f, NET, **settings), sines()) for make in (MAML, MetaSGD))
    learner.rates.load_state_dict({name: torch.full_like(r, 0.05) for name, r in learner.rates.items()})
    batch = learner.train_batch(torch.arange(50))
    expected, value = gradients(maml, batch)
    gradient, own_value = gradients(learner, batch)
    close(own_value, value)
    close({k: g for k, g in gradient.items() if k.startswith("model.")}, expected)
    assert len(gradient) == 2 * len(expected)


def test_the_gradient_of_a_rate_is_minus_the_product_of_support_and_query_gradients():
    """One step: d L_Q(theta - alpha o g) / d alpha = -g o grad L_Q(theta'), with rates of both signs."""
    learner = new(lambda f: MetaSGD(f, NET), sines())
    with torch.no_grad():
        learner.rates["head/weight"].neg_()
    batch = learner.train_batch(torch.arange(20))
    params = {k: p.detach().clone().requires_grad_() for k, p in learner.model.named_parameters()}
    exact = {k: torch.zeros_like(p) for k, p in params.items()}
    for i in range(20):
        one = task(batch, i)
        g = torch.autograd.grad(F.mse_loss(mlp(params, one.support.x), one.support.y), list(params.values()))
        fast = {
            k: (p - learner.rates[k.replace(".", "/")] * s).detach().requires_grad_()
            for (k, p), s in zip(params.items(), g, strict=True)
        }
        q = torch.autograd.grad(F.mse_loss(mlp(fast, one.query.x), one.query.y), list(fast.values()))
        exact = {k: exact[k] - a * b / 20 for k, a, b in zip(params, g, q, strict=True)}
    gradient, _ = gradients(learner, batch)
    same_gradient({k: gradient[f"rates.{k.replace('.', '/')}"] for k in exact}, exact)


@pytest.mark.parametrize("steps", [1, 3])
def test_metasgd_against_finite_differences(steps):
    learner = new(lambda f: MetaSGD(f, NET, inner_steps=steps), sines())
    assert finite_differences(learner, learner.train_batch(torch.arange(20))._replace(info={})) < 1e-6


def test_the_rates_start_between_their_bounds_and_are_reported_by_layer():
    learner = new(lambda f: MetaSGD(f, partial(MLP, hidden=[200, 200]), inner_lr=[0.005, 0.1]), sines())
    every = torch.cat([rate.detach().flatten() for rate in learner.rates.values()])
    assert every.min() >= 0.005
    assert every.max() <= 0.1
    assert abs(float(every.mean()) - 0.0525) < 0.001
    assert abs(float(every.std()) - 0.095 / 12**0.5) < 0.001
    with torch.no_grad():
        learner.rates["head/weight"].fill_(-0.3)
        learner.rates["head/bias"].fill_(0.1)
    found = learner.diagnostics(task(learner.train_batch(torch.arange(1)), 0))
    assert set(found) == {"rate/body.0", "rate/body.1", "rate/head", "rates_below_0"}
    close(found["rate/head"], torch.tensor((200 * -0.3 + 0.1) / 201, dtype=F64))
    close(found["rates_below_0"], torch.tensor(200 / len(every), dtype=F64))
    one = new(lambda f: MetaSGD(f, NET, inner_lr=0.02), sines())
    assert all(bool((rate == torch.tensor(0.02)).all()) for rate in one.rates.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner_lr": [0.1, 0.005]}, "inner_lr=[0.1, 0.005]: must be above 0, one number or [low, high]"),
        ({"inner_lr": [0.1]}, "inner_lr=[0.1]: must be above 0, one number or [low, high]"),
        ({"inner_lr": 0}, "inner_lr=0: must be above 0"),
        ({"inner_steps": 0}, "inner_steps=0: must be at least 1"),
    ],
)
def test_metasgd_refuses_on_sines(settings, message):
    with pytest.raises(ValueError) as caught:
        MetaSGD(sines(), NET, **settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
