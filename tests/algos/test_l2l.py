"""The learned update rule in float64: against nn.LSTM, loops of torch.autograd, closed forms, finite differences."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from references import F64, NET, close, lines, mlp, sines
from torch import Tensor, nn

from metaexp.algos.l2l import L2L, LSTMRule
from metaexp.contract import finite_differences, new, parameters, pictures, task
from metaexp.evaluation.scores import evaluate
from metaexp.inner import SGD, Adam, descend
from metaexp.mapping import map_tasks
from metaexp.models.linear import Linear
from metaexp.outer.loaders import Span
from metaexp.outer.meta_training import MetaTraining

LINE = partial(Linear, bias=False)
SMALL = partial(LSTMRule, hidden=5)


def torch_lstm(rule: LSTMRule) -> nn.LSTM:
    """torch's own cell with the rule's weights; its gates stand in the order in, forget, value, out."""
    h = rule.hidden
    lstm = nn.LSTM(rule.cells[0].in_features - h, h, len(rule.cells)).double()
    for i, cell in enumerate(rule.cells):
        forget, into, out, value = (range(k * h, (k + 1) * h) for k in range(4))
        order = [*into, *forget, *value, *out]
        weight, bias = cell.weight.detach()[order], cell.bias.detach()[order]
        state = {f"weight_ih_l{i}": weight[:, :-h], f"weight_hh_l{i}": weight[:, -h:], f"bias_ih_l{i}": bias}
        lstm.load_state_dict(lstm.state_dict() | state | {f"bias_hh_l{i}": torch.zeros_like(bias)})
    return lstm


def plain_inputs(g: Tensor, p: float | None) -> Tensor:
    """Element by element, as in appendix A."""
    if p is None:
        return g[:, None]
    rows = [
        (math.log(abs(v)) / p, math.copysign(1, v)) if abs(v) >= math.exp(-p) else (-1.0, math.exp(p) * v)
        for v in g.tolist()
    ]
    return torch.tensor(rows, dtype=F64)


def plain_trajectory(learner, lstm, head, one, steps, cut=None):
    """theta_0, ..., theta_steps as vectors of two layers of mlp; the gradient counts as a constant."""
    start = {k: v.detach() for k, v in learner.start(one.key).items()}
    shapes = {k: v.shape for k, v in start.items()}

    def tree(vector):
        parts = vector.split([s.numel() for s in shapes.values()])
        return {k: v.view(s) for (k, s), v in zip(shapes.items(), parts, strict=True)}

    vector, state = torch.cat([v.flatten() for v in start.values()]), None
    path = [vector]
    for step in range(steps):
        if cut and step % cut == 0 and step:
            vector, state = vector.detach(), tuple(s.detach() for s in state)
        here = vector.detach().requires_grad_()
        (g,) = torch.autograd.grad(F.mse_loss(mlp(tree(here), one.support.x), one.support.y), here)
        out, state = lstm(plain_inputs(g, learner.rule.p)[None], state)
        vector = vector + learner.inner_lr * head(out[0]).squeeze(-1)
        path.append(vector)
    return [tree(v) for v in path]


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [None, 10.0, 3.0])
def test_the_input_is_log_and_sign_of_the_gradient(p):
    rule = LSTMRule(preprocess=p)
    g = torch.tensor([0.0, 1.0, -1.0, 1e-9, -1e-9, 3e-5, 250.0, -0.02, math.exp(-10.0), -1e-3], dtype=F64)
    close(rule.inputs(g), plain_inputs(g, p))
    assert rule.inputs(torch.logspace(-30, 0, 50, dtype=F64))[:, 0].min() >= -1 or p is None


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_cell_equals_that_of_torch_over_steps(layers):
    torch.manual_seed(0)
    rule = LSTMRule(hidden=7, layers=layers).double()
    lstm = torch_lstm(rule)
    params = {"a": torch.randn(2, 3, dtype=F64), "b": torch.randn(4, dtype=F64)}
    state, theirs, expected = rule.init(params), None, torch.cat([p.flatten() for p in params.values()])
    for _ in range(6):
        grads = {k: torch.randn_like(p) for k, p in params.items()}
        params, state = rule.update(grads, state, params, 0.3)
        out, theirs = lstm(plain_inputs(torch.cat([g.flatten() for g in grads.values()]), 10.0)[None], theirs)
        expected = expected + 0.3 * rule.head(out[0]).squeeze(-1)
        close(torch.cat([p.flatten() for p in params.values()]), expected)


def test_the_forget_gate_begins_open():
    torch.manual_seed(0)
    rule = LSTMRule(hidden=6)
    assert all(bool((cell.bias[:6] == 1).all()) and bool((cell.bias[6:] != 1).all()) for cell in rule.cells)


# --- with a hand-set rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [SGD, partial(SGD, momentum=0.9), partial(Adam, beta1=0.8)])
@pytest.mark.parametrize("truncation", [None, 3])
def test_with_a_hand_made_rule_it_equals_that_optimiser_over_200_tasks(rule, truncation):
    learner = new(lambda f: L2L(f, NET, rule, inner_lr=0.03, inner_steps=7, truncation=truncation), sines())
    assert not learner.trains

    def plain(one):
        def loss(params, _):
            return F.mse_loss(mlp(params, one.support.x), one.support.y)

        return descend(loss, learner.start(one.key), rule(), 0.03, 7).path[-1]

    batch = learner.family.sample("test", torch.arange(200))._replace(info={})
    found = map_tasks(lambda one: learner.adapt(one.support, one.key), batch, "vmap")
    close(found, map_tasks(plain, batch, "vmap"))
    start = map_tasks(lambda one: learner.start(one.key), batch, "vmap")
    assert (found["head.weight"] - start["head.weight"]).abs().amax((1, 2)).min() > 1e-6


@pytest.mark.parametrize("layers", [1, 2])
def test_an_lstm_set_by_hand_equals_gradient_descent(layers):
    """Open in and out gates, a closed forget gate and tiny values, where tanh is the identity: the step is -g."""
    make = partial(LSTMRule, hidden=1, layers=layers, preprocess=None)
    learner = new(lambda f: L2L(f, LINE, make, inner_lr=0.01, inner_steps=12), lines())
    tiny = 1e-6
    with torch.no_grad():
        for i, cell in enumerate(learner.rule.cells):
            cell.weight.zero_()
            cell.weight[3, 0] = tiny if i == 0 else 1.0
            cell.bias.copy_(torch.tensor([-60.0, 60.0, 60.0, 0.0]))
        learner.rule.head.weight.fill_(-1 / tiny)
        learner.rule.head.bias.zero_()
    batch = learner.family.sample("test", torch.arange(200))._replace(info={})
    x, y = batch.support.x[..., 0], batch.support.y[..., 0]
    w = map_tasks(lambda one: learner.start(one.key), batch, "vmap")["head.weight"].flatten()
    s, c = (x * x).mean(-1), (x * y).mean(-1)
    found = map_tasks(lambda one: learner.adapt(one.support, one.key), batch, "vmap")["head.weight"].flatten()
    close(found, c / s + (1 - 0.02 * s) ** 12 * (w - c / s), 1e-7)


# --- the meta-gradient ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["support", "query"])
@pytest.mark.parametrize(("truncation", "p"), [(None, 10.0), (2, 10.0), (3, None), (5, 3.0), (9, 10.0)])
def test_value_and_gradient_equal_a_plain_loop(truncation, p, objective):
    rule = partial(LSTMRule, hidden=5, preprocess=p)
    settings = {"inner_steps": 5, "truncation": truncation, "objective": objective, "inner_lr": 0.3}
    learner = new(lambda f: L2L(f, NET, rule, **settings), sines())
    assert all(name.startswith("rule.") for name in learner.meta_parameters())
    lstm, head = torch_lstm(learner.rule), nn.Linear(5, 1).double()
    head.load_state_dict(learner.rule.head.state_dict())
    batch = learner.train_batch(torch.arange(20))
    total, last = torch.zeros((), dtype=F64), torch.zeros((), dtype=F64)
    for i in range(20):
        one = task(batch, i)
        path = plain_trajectory(learner, lstm, head, one, 5, truncation)
        data = one.query if objective == "query" else one.support
        losses = [F.mse_loss(mlp(params, data.x), data.y) for params in path[1:]]
        total, last = total + sum(losses) / 5 / 20, last + losses[-1].detach() / 20
    gradient, value, logs = learner.meta_gradient(parameters(learner), batch._replace(info={}))
    close(value, total)
    close(logs["last_inner_loss"], last)
    close(logs["mse"], last) if objective == "query" else None
    exact = torch.autograd.grad(total, list(head.parameters()), retain_graph=True)
    close([gradient["rule.head.weight"], gradient["rule.head.bias"]], list(exact), 1e-10)
    h = 5
    order = [*range(h, 2 * h), *range(h), *range(3 * h, 4 * h), *range(2 * h, 3 * h)]  # ours from torch's
    for i in range(2):
        names = [f"weight_ih_l{i}", f"weight_hh_l{i}", f"bias_ih_l{i}"]
        ih, hh, b = torch.autograd.grad(total, [getattr(lstm, n) for n in names], retain_graph=True)
        back = torch.tensor(order).argsort()
        expected = torch.cat((ih, hh), 1)[back]
        assert expected.abs().max() > 1e-6
        assert (gradient[f"rule.cells.{i}.weight"] - expected).abs().max() < 1e-10 * max(1, float(expected.abs().max()))
        close(gradient[f"rule.cells.{i}.bias"], b[back], 1e-10)


@pytest.mark.parametrize("objective", ["support", "query"])
def test_with_second_order_against_finite_differences(objective):
    settings = {"second_order": True, "inner_steps": 4, "objective": objective}
    for family, rule in ((sines(), partial(LSTMRule, 5, preprocess=None)), (pictures(), SMALL)):
        learner = new(lambda f, r=rule: L2L(f, NET, r, **settings), family)
        assert finite_differences(learner, learner.train_batch(torch.arange(20))._replace(info={})) < 1e-5


# --- the start --------------------------------------------------------------------------------------------------------


def test_the_start_is_drawn_for_every_task_like_the_models_own_weights():
    wide = partial(type(NET((1,), 1)), hidden=[300, 300], init_std=0.02)
    learner = new(lambda f: L2L(f, wide, SMALL), sines())
    batch = learner.family.sample("test", torch.arange(2))
    first, second = (learner.start(key) for key in batch.key)
    for name, p in learner.model.named_parameters():
        if "bias" in name:  # zero, all of them
            assert not first[name].any()
            continue
        assert not torch.equal(first[name], second[name])
        assert not torch.equal(first[name], p)
        assert abs(float(first[name].std() / p.std(correction=0)) - 1) < 4 / math.sqrt(2 * p.numel())
        assert abs(float(first[name].mean() - p.mean())) < 4 * float(p.std()) / math.sqrt(p.numel())
    assert (
        abs(
            float(
                torch.corrcoef(torch.stack((first["body.1.weight"].flatten(), second["body.1.weight"].flatten())))[0, 1]
            )
        )
        < 0.02
    )
    fixed = new(lambda f: L2L(f, wide, SMALL, init_std=0.5), sines())
    assert abs(float(fixed.start(batch.key[0])["body.1.bias"].std()) - 0.5) < 0.1
    close(learner.path(task(batch, 0).support, batch.key[0], 3)[0], first)


def test_the_rule_learns_and_the_models_weights_stay():
    """On lines, in 60 outer steps: from a rule that gains little to one that more than halves the loss of the start."""
    make = partial(LSTMRule, hidden=8)
    learner = new(lambda f: L2L(f, LINE, make, inner_steps=8, init_std=1.0), lines(noise=0.0))
    before = {k: v.clone() for k, v in learner.model.state_dict().items()}
    first = evaluate(learner, "test", 100, ["queries"]).arrays["mse"].mean(0)
    MetaTraining(learner, torch.optim.Adam(learner.meta_parameters().values(), lr=0.02), meta_batch=8).run(Span(0, 60))
    last = evaluate(learner, "test", 100, ["queries"]).arrays["mse"].mean(0)
    assert first[0] == last[0]
    assert last[-1] < 0.4 * min(first[-1], first[0])
    assert all(torch.equal(v, before[k]) for k, v in learner.model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner_lr": 0.0}, "inner_lr=0.0: must be above 0"),
        ({"init_std": -1.0}, "init_std=-1.0: must be above 0"),
        ({"inner_steps": 0}, "inner_steps=0: must be at least 1"),
        ({"truncation": 0}, "truncation=0: must be at least 1"),
        ({"test_steps": -1}, "test_steps=-1: must be at least 0"),
        ({"objective": "both"}, "objective=both: must be support or query"),
        ({"rule": partial(LSTMRule, hidden=0)}, "hidden=0: must be at least 1"),
        ({"rule": partial(LSTMRule, preprocess=0.0)}, "preprocess=0.0: must be above 0"),
    ],
)
def test_refused(settings, message):
    with pytest.raises(ValueError) as caught:
        L2L(sines(), NET, **settings)
    assert str(caught.value).startswith(message)
