"""The inner loop's value in float64: what training and test take, minibatches by hand, recomputation, ranges."""

import pytest
import torch
from references import F64, close

from metaexp.inner import SGD, Adam, Carried, InnerLoop, minibatches
from metaexp.types import Examples

KEY = torch.tensor(5)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=F64)


SUPPORT = Examples(draw(9, 3), draw(9, 1))
START = {"w": draw(3, 1)}


def loss(params, examples):
    return ((torch.tanh(examples.x @ params["w"]) * params.get("scale", 1.0) - examples.y) ** 2).mean()


def by_hand(w, lr, steps, rows=None):
    for step in range(steps):
        x, y = SUPPORT if rows is None else (SUPPORT.x[rows[step]], SUPPORT.y[rows[step]])
        z = torch.tanh(x @ w)
        w = w - lr * 2 / len(x) * x.T @ ((z - y) * (1 - z**2))
    return w


@pytest.mark.parametrize("batch", [None, 4])
def test_training_and_test_have_rates_steps_and_batches_of_their_own(batch):
    loop = InnerLoop.of(SGD(), 0.1, 3, 0.02, 5, inner_batch=batch, test_batch=6)
    trained, tested = (
        loop.train(loss, START, SUPPORT, KEY).path, loop.test(loss, START, SUPPORT, KEY, 7).path
    )  # fmt: skip
    assert (len(trained), len(tested)) == (4, 8)
    close(trained[-1]["w"], by_hand(START["w"], 0.1, 3, minibatches(KEY, 64, 9, batch, 3)))
    close(tested[-1]["w"], by_hand(START["w"], 0.02, 7, minibatches(KEY, 64, 9, 6, 7)))
    same = InnerLoop.of(SGD(), 0.1, 3, inner_batch=batch)
    assert (same.test_lr, same.test_steps, same.test_batch) == (0.1, 3, batch)


@pytest.mark.parametrize("batch", [None, 4])
def test_recomputation_has_the_same_gradients(batch):
    found = []
    for kept in (True, False):
        start, scale = START["w"].clone().requires_grad_(), torch.tensor(1.3, dtype=F64, requires_grad=True)
        loop = InnerLoop.of(Adam(), 0.1, 4, inner_batch=batch)
        if kept:
            path = loop.train(lambda p, e, s=scale: loss(p | {"scale": s}, e), {"w": start}, SUPPORT, KEY).path
        else:
            path = loop._replace(rest={"scale": scale}).train(loss, {"w": start}, SUPPORT, KEY).path
        found.append(torch.autograd.grad(path[-1]["w"].sum(), (start, scale)))
    close(list(found[0]), list(found[1]))
    assert found[0][1].abs() > 1e-3


def test_inner_gradients_are_constants_at_test_and_with_first_order():
    start = START["w"].clone().requires_grad_()
    for path in (
        InnerLoop.of(SGD(), 0.1, 3).test(loss, {"w": start}, SUPPORT, KEY, 3).path,
        InnerLoop.of(SGD(), 0.1, 3, first_order=True).train(loss, {"w": start}, SUPPORT, KEY).path,
    ):
        assert torch.equal(torch.autograd.grad(path[-1]["w"].sum(), start)[0], torch.ones_like(start))


def test_a_carried_state_goes_on_where_it_was():
    whole = InnerLoop.of(Adam(), 0.1, 6).train(loss, START, SUPPORT, KEY)
    half = InnerLoop.of(Adam(), 0.1, 3).train(loss, START, SUPPORT, KEY)
    carried = Carried(Adam().init(START))
    carried.set(half.state)
    again = InnerLoop.of(Adam(), 0.1, 3)._replace(state=carried.tree()).train(loss, half.path[-1], SUPPORT, KEY)
    close(again.path[-1], whole.path[-1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner_lr": 0.0}, "inner_lr=0.0: must be above 0"),
        ({"test_lr": float("nan")}, "test_lr=nan: must be above 0"),
        ({"inner_steps": 0}, "inner_steps=0: must be at least 1"),
        ({"inner_steps": 1.5}, "inner_steps=1.5: must be a whole number"),
        ({"test_steps": -1}, "test_steps=-1: must be at least 0"),
        ({"inner_batch": 0}, "inner_batch=0: must be at least 1"),
        ({"test_batch": 0}, "test_batch=0: must be at least 1"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, message):
    with pytest.raises(ValueError) as caught:
        InnerLoop.of(SGD(), **{"inner_lr": 0.1, "inner_steps": 1} | settings)
    assert str(caught.value) == message
