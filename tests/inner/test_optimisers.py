"""Inner optimisers against torch's and finite differences; with_gradient; minibatches."""

import math

import pytest
import torch
from torch.func import functional_call, grad, jacrev

from metaexp.inner import SGD, Adam, descend, minibatches, with_gradient

F64 = torch.float64

PAIRS = {
    "sgd": (SGD(), lambda p, lr: torch.optim.SGD(p, lr=lr)),
    "momentum": (SGD(0.9), lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)),
    "nesterov": (SGD(0.8, True), lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.8, nesterov=True)),
    "adam": (Adam(), lambda p, lr: torch.optim.Adam(p, lr=lr)),
    "adam_beta1_0": (Adam(beta1=0.0), lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.0, 0.999))),
    "adam_own": (Adam(0.5, 0.9, 1e-3), lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.5, 0.9), eps=1e-3)),
}


def start() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(3, 2, generator=draw, dtype=F64),
        "b": torch.randn(2, generator=draw, dtype=F64),
        "dead": torch.ones(4, dtype=F64),  # its gradient is exactly 0, like a dead unit's
    }


def bowl(p: dict[str, torch.Tensor], step: int) -> torch.Tensor:
    """Not quadratic, coupled, and different at every step."""
    return ((p["a"] ** 2).sum(0) * torch.cosh(p["b"])).sum() + torch.sin(p["a"] + step).sum() + 0 * p["dead"].sum()


@pytest.mark.parametrize("name", PAIRS)
def test_every_step_equals_torch(name):
    optimiser, make = PAIRS[name]
    steps, lr = 30, 0.03
    path = descend(bowl, start(), optimiser, lr, steps).path
    params = {k: torch.nn.Parameter(p) for k, p in start().items()}
    theirs = make(list(params.values()), lr)
    assert len(path) == steps + 1
    for step in range(steps):
        theirs.zero_grad()
        bowl(params, step).backward()
        theirs.step()
        for k, p in params.items():
            torch.testing.assert_close(path[step + 1][k], p.detach(), rtol=1e-12, atol=1e-13)
    assert torch.equal(path[-1]["dead"], torch.ones(4, dtype=F64))


@pytest.mark.parametrize("name", PAIRS)
def test_a_descent_may_be_continued_from_its_state(name):
    optimiser = PAIRS[name][0]
    whole = descend(bowl, start(), optimiser, 0.03, 7)
    first = descend(bowl, start(), optimiser, 0.03, 3)
    rest = descend(lambda p, step: bowl(p, step + 3), first.path[-1], optimiser, 0.03, 4, state=first.state)
    assert all(torch.equal(a, whole.path[-1][k]) for k, a in rest.path[-1].items())
    assert all(torch.equal(a, b) for a, b in zip(first.losses + rest.losses, whole.losses, strict=True))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("rates", ["one", "tree"])
def test_gradient_through_the_steps_equals_finite_differences(name, rates):
    """With respect to the start and to the rates: one for all, one per parameter, or one per element."""
    optimiser = PAIRS[name][0]
    tree = {"a": torch.full((3, 2), 0.03, dtype=F64), "b": torch.tensor(0.05, dtype=F64), "dead": torch.tensor(0.1)}
    lr = torch.tensor(0.04, dtype=F64) if rates == "one" else tree
    inputs = {"start": start(), "lr": lr if isinstance(lr, dict) else {"": lr}}

    def outer(at):
        rate = at["lr"] if rates == "tree" else at["lr"][""]
        end = descend(bowl, at["start"], optimiser, rate, 4).path[-1]
        return bowl(end, 9) + (end["dead"] ** 2).sum()

    gradient = grad(outer)(inputs)
    draw = torch.Generator().manual_seed(1)
    for group in ("start", "lr"):
        for _ in range(3):
            along = {k: torch.randn(p.shape, generator=draw, dtype=F64) for k, p in inputs[group].items()}
            h = 1e-6
            up, down = (
                outer(inputs | {group: {k: p + sign * h * along[k] for k, p in inputs[group].items()}})
                for sign in (1, -1)
            )
            numeric = float(up - down) / (2 * h)
            exact = float(sum((gradient[group][k] * d).sum() for k, d in along.items()))
            assert math.isfinite(exact)
            assert abs(numeric - exact) < 1e-7 * max(abs(exact), 1.0)


def test_first_order_counts_inner_gradients_as_constants():
    for optimiser in (SGD(), SGD(0.9), Adam(), Adam(beta1=0.0)):
        jacobian = jacrev(lambda p, o=optimiser: descend(bowl, p, o, 0.03, 3, first_order=True).path[-1])(start())
        for to in jacobian:
            for of in jacobian:
                found = jacobian[to][of].reshape(start()[to].numel(), -1)
                assert torch.equal(found, torch.eye(*found.shape, dtype=F64) if to == of else torch.zeros_like(found))
        exact = descend(bowl, start(), optimiser, 0.03, 3).path[-1]
        cheap = descend(bowl, start(), optimiser, 0.03, 3, first_order=True).path[-1]
        assert all(torch.equal(exact[k], cheap[k]) for k in exact)


def test_a_descent_of_no_steps():
    found = descend(bowl, start(), Adam(), 0.1, 0)
    assert len(found.path) == 1
    assert found.losses == []


# --- with_gradient --------------------------------------------------------------------------------------------------


def test_with_gradient_has_the_given_value_and_gradient():
    params, given = start(), {k: torch.randn_like(p) for k, p in start().items()}
    value = torch.tensor(3.25, dtype=F64)
    found, at = torch.func.grad_and_value(lambda p: with_gradient(value, p, given))(params)
    assert at == value
    assert all(torch.equal(found[k], given[k]) for k in given)
    scaled = grad(lambda p: 0.5 * with_gradient(value, p, given) ** 2)(params)  # the chain rule goes on outside
    assert all(torch.equal(scaled[k], 3.25 * given[k]) for k in given)


def test_with_gradient_hides_second_derivatives_and_what_is_outside():
    x, outside = torch.tensor(2.0, dtype=F64), torch.tensor(5.0, dtype=F64)

    def square(p, c):  # its true gradient is 2 c p, its true second derivative 2 c
        return with_gradient(c * p["x"] ** 2, p, {"x": 2 * c * p["x"]})

    assert grad(lambda v: square({"x": v}, outside))(x) == 20
    assert grad(grad(lambda v: square({"x": v}, outside)))(x) == 0
    assert grad(lambda c: square({"x": x}, c))(outside) == 0


def test_an_inf_makes_the_value_nan():
    p = {"x": torch.tensor([1.0, 2.0], dtype=F64)}
    assert with_gradient(torch.tensor(1.0), p, {"x": torch.tensor([math.inf, 0.0])}).isnan()
    assert with_gradient(torch.tensor(1.0), {"x": torch.tensor([math.inf])}, {"x": torch.tensor([0.0])}).isnan()
    assert with_gradient(torch.tensor(math.inf), p, p).isinf()


# --- minibatches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "size", "steps"), [(50, 10, 5), (10, 3, 40), (7, 5, 21), (5, 1, 3), (6, 4, 1)])
def test_every_epoch_uses_each_row_once(n, size, steps):
    rows = minibatches(torch.tensor(5), 64, n, size, steps)
    assert rows.shape == (steps, size)
    flat = rows.flatten().tolist()
    epochs = [flat[i : i + n] for i in range(0, len(flat), n)]
    for epoch in epochs[:-1] or [flat[:n]]:
        assert len(set(epoch)) == len(epoch)
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs if len(epoch) == n)
    assert len(set(epochs[-1])) == len(epochs[-1])
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)  # each in an order of its own


def test_minibatches_are_a_function_of_the_key():
    a = minibatches(torch.tensor(5), 64, 20, 6, 10)
    assert torch.equal(a, minibatches(torch.tensor(5), 64, 20, 6, 10))
    assert not torch.equal(a, minibatches(torch.tensor(6), 64, 20, 6, 10))
    assert not torch.equal(a, minibatches(torch.tensor(5), 65, 20, 6, 10))
    assert torch.equal(a[:4], minibatches(torch.tensor(5), 64, 20, 6, 4))  # fewer steps are the first of more
    keys = torch.tensor([5, 6])
    mapped = torch.vmap(lambda key: minibatches(key, 64, 20, 6, 10))(keys)
    assert torch.equal(mapped[0], a)


def test_no_minibatches_where_all_rows_are_taken():
    key = torch.tensor(5)
    assert minibatches(key, 64, 10, None, 5) is None
    assert minibatches(key, 64, 10, 10, 5) is None
    assert minibatches(key, 64, 10, 11, 5) is None
    assert minibatches(key, 64, 10, 3, 0).shape == (0, 3)


# --- through a network ----------------------------------------------------------------------------------------------


def test_adam_has_a_finite_second_order_where_units_are_dead():
    """A ReLU that never fires has a gradient of exactly 0, where the square root in Adam has no derivative."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)).double()
    with torch.no_grad():
        net[0].bias.fill_(-50)
        net[0].bias[0] = 1
    x, y = torch.randn(6, 2, dtype=F64), torch.randn(6, 1, dtype=F64)

    def loss(p, _):
        return ((functional_call(net, p, (x,)) - y) ** 2).mean()

    params = {k: p.detach() for k, p in net.named_parameters()}
    gradient = grad(lambda p: loss(descend(loss, p, Adam(), 0.01, 3).path[-1], 3))(params)
    assert all(g.isfinite().all() for g in gradient.values())
    assert gradient["0.weight"][0].any()
