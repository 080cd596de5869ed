"""Implicit MAML against closed forms and unrolled loops; conjugate gradients; the descent that never rises."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from metaexp.algos.imaml import IMAML
from metaexp.config.compose import config_dir
from metaexp.config.instantiate import instantiate
from metaexp.config.settings import Settings
from metaexp.contract import largest_difference, new, parameters, pictures, task
from metaexp.evaluation.scores import evaluate
from metaexp.inner import SGD, Adam, conjugate_gradient, descend, minimise
from metaexp.models.cnn4 import CNN4
from metaexp.models.linear import Linear
from metaexp.models.mlp import MLP
from metaexp.tasks.linear import Linear as LinearTasks
from metaexp.tasks.sine import Sine

F64 = torch.float64
NET = partial(MLP, hidden=[8, 6], activation="tanh")


def sines(**settings) -> Sine:
    return Sine(**{"shots": 6, "queries": 7} | settings).to("cpu", F64)


def gradients(learner, batch):
    return learner.meta_gradient(parameters(learner), batch._replace(info={}))[:2]


# --- conjugate gradients ----------------------------------------------------------------------------------------------


def symmetric(n: int, seed: int, least: float, largest: float) -> tuple[Tensor, Tensor]:
    """A symmetric matrix with eigenvalues from `least` to `largest`, and a right side."""
    draw = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(n, n, generator=draw, dtype=F64))[0]
    return (q * torch.linspace(least, largest, n, dtype=F64)) @ q.T, torch.randn(n, generator=draw, dtype=F64)


def test_conjugate_gradient_equals_a_direct_solution_over_200_systems():
    """All in one vmap; more steps than needed change nothing, the residual being 0 by then."""
    systems = [symmetric(12, seed, 0.5, 1.0 + seed / 4) for seed in range(200)]
    a, b = (torch.stack(parts) for parts in zip(*systems, strict=True))
    exact = torch.linalg.solve(a, b)
    for steps in (14, 40):
        found = vmap(lambda m, v, n=steps: conjugate_gradient(lambda p: m @ p, v, n))(a, b)
        assert ((found - exact).norm(dim=1) / exact.norm(dim=1)).max() < 1e-11
    few = vmap(lambda m, v: conjugate_gradient(lambda p: m @ p, v, 4))(a, b)
    error = [((x - e) * (m @ (x - e))).sum() for x, e, m in zip(few, exact, a, strict=True)]
    before = [(e * (m @ e)).sum() for e, m in zip(exact, a, strict=True)]
    assert all(0 < e < 0.6 * b for e, b in zip(error, before, strict=True))  # the energy norm falls


def test_conjugate_gradient_stops_at_the_tolerance():
    a, b = symmetric(30, 0, 1.0, 50.0)
    products = []

    def product(p):
        products.append(p)
        return a @ p

    loose = conjugate_gradient(product, b, 30, tolerance=1e-2)
    residual = (b - a @ loose).norm() / b.norm()
    assert 1e-6 < residual < 1e-2
    assert len(products) == 30


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_conjugate_gradient_is_finite_where_the_system_is_not_positive_definite(dtype):
    for seed in range(100):
        a, b = symmetric(10, seed, -1.0, 3.0)
        for steps in (1, 5, 30):
            x = conjugate_gradient(partial(torch.mv, a.to(dtype)), b.to(dtype), steps)
            assert x.isfinite().all()
    b = torch.ones(4, dtype=dtype)
    assert torch.equal(conjugate_gradient(lambda p: -p, b, 5), b)  # the first direction curves downwards
    assert torch.equal(conjugate_gradient(lambda p: 0 * p, b, 5), b)
    assert torch.equal(conjugate_gradient(lambda p: 0.4 * p, b, 5, least=0.5), b)
    assert torch.allclose(conjugate_gradient(lambda p: 0.4 * p, b, 5), 2.5 * b)
    assert not conjugate_gradient(lambda p: p, 0 * b, 5).any()
    curves = torch.tensor([2.0, 1.0, -0.5, 1e-30], dtype=dtype)
    found = conjugate_gradient(lambda p: curves * p, b, 5, least=0.5)
    assert found.norm() < 10 * b.norm()


# --- iMAML ------------------------------------------------------------------------------------------------------------


def test_meta_gradient_of_linear_tasks_equals_the_closed_form():
    """phi* = theta - (H + lambda I)^-1 grad L_S(theta), g = (I + H / lambda)^-1 grad L_Q(phi*); H = 2 X^T X / n."""
    strength = 8.0
    family = LinearTasks(shots=5, queries=9, inputs=3, bias=True, noise=0.3).to("cpu", F64)
    settings = {"inner_lr": 0.025, "inner_steps": 160, "cg_steps": 6, "strength": strength}
    learner = new(lambda f: IMAML(f, Linear, **settings), family)
    batch = family.sample("train", torch.arange(200))
    names = ["head.weight", "head.bias"]
    theta = torch.cat([dict(learner.model.named_parameters())[n].detach().flatten() for n in names])
    total, values, solutions = torch.zeros(4, dtype=F64), [], []
    for i in range(200):
        one = task(batch, i)
        (xs, ys), (xq, yq) = (
            (torch.cat((e.x, torch.ones(len(e.x), 1)), 1), e.y[:, 0]) for e in (one.support, one.query)
        )
        hessian = 2 * xs.T @ xs / len(xs)
        system = hessian + strength * torch.eye(4, dtype=F64)
        phi = torch.linalg.solve(system, 2 * xs.T @ ys / len(xs) + strength * theta)  # ridge towards theta
        solutions.append(phi)
        values.append(((xq @ phi - yq) ** 2).mean())
        total += torch.linalg.solve(system / strength, 2 * xq.T @ (xq @ phi - yq) / len(xq)) / 200
    gradient, value = gradients(learner, batch)
    found = torch.cat([gradient[f"model.{n}"].flatten() for n in names])
    assert abs(float(value - torch.stack(values).mean())) < 1e-12 * float(value)
    assert (found - total).norm() < 1e-10 * total.norm()
    one = task(batch, 7)
    assert (learner.adapt(one.support, one.key) - solutions[7]).norm() < 1e-12
    assert learner.diagnostics(one)["inner_gradient_norm"] < 1e-12


def stacked_mlp(p: list[Tensor], x: Tensor) -> Tensor:
    """The network NET for all tasks at once: each parameter and x have a dimension of tasks in front."""
    z = torch.tanh(x @ p[0].mT + p[1].unsqueeze(1))
    z = torch.tanh(z @ p[2].mT + p[3].unsqueeze(1))
    return z @ p[4].mT + p[5].unsqueeze(1)


def test_meta_gradient_equals_that_of_a_loop_unrolled_to_convergence():
    """torch.autograd through 220 proximal steps of 40 sine tasks."""
    strength, lr, steps, tasks = 3.0, 0.05, 220, 40
    settings = {"strength": strength, "inner_lr": lr, "inner_steps": steps, "cg_steps": 40, "least_curvature": 0.0}
    learner = new(lambda f: IMAML(f, NET, **settings), sines(amplitude=(0.1, 2.0)))
    batch = learner.train_batch(torch.arange(tasks))
    theta = [p.detach().clone().requires_grad_() for p in learner.model.parameters()]
    start = [p.expand(tasks, *p.shape) for p in theta]
    phi = start
    for _ in range(steps):
        away = sum(((p - s) ** 2).sum() for p, s in zip(phi, start, strict=True))
        inner = ((stacked_mlp(phi, batch.support.x) - batch.support.y) ** 2).mean((1, 2)).sum() + strength / 2 * away
        slopes = torch.autograd.grad(inner, phi, create_graph=True)
        phi = [p - lr * g for p, g in zip(phi, slopes, strict=True)]
    assert max(float(g.detach().abs().max()) for g in slopes) < 1e-6
    value = ((stacked_mlp(phi, batch.query.x) - batch.query.y) ** 2).mean()
    exact = torch.autograd.grad(value, theta)
    gradient, own = gradients(learner, batch)
    assert abs(float((own - value).detach())) < 1e-12 * float(own)
    whole, found = (torch.cat([g.flatten() for g in parts]) for parts in (exact, gradient.values()))
    assert (found - whole).norm() < 1e-6 * whole.norm()
    first_order = new(lambda f: IMAML(f, NET, **settings | {"cg_steps": 0}), sines(amplitude=(0.1, 2.0)))
    cheap = torch.cat([g.flatten() for g in gradients(first_order, batch)[0].values()])
    assert (cheap - whole).norm() > 0.1 * whole.norm()  # the solver has something to do


def test_a_small_strength_and_few_products():
    """One product: g = b (b.b) / (b.A b); the damping is part of A."""
    learner = new(lambda f: IMAML(f, NET, strength=0.5, damping=0.3, cg_steps=1, least_curvature=0.0), sines())
    batch = learner.train_batch(torch.arange(12))
    for i in range(12):
        one = task(batch, i)
        phi = learner.adapt(one.support, one.key)

        def loss(vector, part):
            return F.mse_loss(learner.predict(vector, part.x), part.y)

        b = grad(loss)(phi, one.query)
        product = torch.autograd.functional.hvp(lambda v, e=one: loss(v, e.support), phi, b)[1]
        curvature = b @ (1.3 * b + product / 0.5)
        exact = b * (b @ b) / curvature if curvature > 0 else b
        single = torch.utils._pytree.tree_map(lambda t, i=i: t[i : i + 1], batch._replace(info={}))
        found = torch.cat([g.flatten() for g in gradients(learner, single)[0].values()])
        assert (found - exact).norm() < 1e-10 * exact.norm()


@pytest.mark.parametrize("kind", ["regression", "classification", "pictures"])
def test_finite_over_300_tasks_at_default_settings(kind):
    """In float32, as conf/algo has them: every task's own meta-gradient, and the whole path at test."""
    family = sines(shots=10) if kind == "regression" else pictures(side=16 if kind == "pictures" else 8, shots=1)
    family.to("cpu", torch.float32)
    make = instantiate(Settings([], config_dir()).composer.content("algo/imaml"), group="algo", trusted=set())
    torch.manual_seed(0)
    learner = make(family, partial(CNN4, filters=4) if kind == "pictures" else MLP, mapping="vmap")
    tasks = 100 if kind == "pictures" else 300
    batch = learner.train_batch(torch.arange(tasks))._replace(info={})
    params = parameters(learner)
    single = torch.utils._pytree.tree_map(lambda t: t[:, None], batch)
    each, values = vmap(lambda one: learner.meta_gradient(params, one)[:2])(single)
    norms = torch.cat([g.flatten(1) for g in each.values()], 1).norm(dim=1)
    assert values.isfinite().all()
    assert norms.isfinite().all()
    assert norms.max() < 1000 * norms.median()
    scores = evaluate(learner, "test", tasks, ["queries"], diagnose=True).arrays
    assert all(np.isfinite(values).all() for values in scores.values())


def test_the_path_has_rates_and_steps_of_its_own():
    learner = new(lambda f: IMAML(f, NET, strength=1.5, test_lr=0.02, test_steps=3, inner_steps=2), sines())
    assert learner.test_steps == 3
    one = task(learner.family.sample("test", torch.tensor([1])), 0)
    theta = torch.cat([p.detach().flatten() for p in learner.model.parameters()])
    phi = theta.clone().requires_grad_()
    for point in learner.path(one.support, one.key, 3):
        assert (point - phi).abs().max() < 1e-13
        loss = F.mse_loss(learner.predict(phi, one.support.x), one.support.y) + 0.75 * ((phi - theta) ** 2).sum()
        phi = (phi - 0.02 * torch.autograd.grad(loss, phi)[0]).detach().requires_grad_()


# --- the inner descent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [SGD(), SGD(0.9), Adam()])
def test_minimise_never_rises_whatever_the_rate(inner):
    """A narrow valley that plain steps of this rate leave at once, and a cliff behind which nothing is a number."""

    def objective(p):
        return 50 * p["a"][0] ** 2 + (p["a"] ** 4).sum() - torch.log(3 - p["a"][1])

    start = {"a": torch.tensor([1.0, -2.0], dtype=F64)}
    for lr in (1e-3, 1.0, 1e3):
        points = list(minimise(objective, start, inner, lr, 60))
        values = torch.stack([objective(p) for p, _ in points])
        assert len(points) == 61
        assert values.isfinite().all()
        assert values.diff().max() < 1e-12
        assert values[-1] < 0.9 * values[0]
        for p, gradient in points:
            assert (grad(objective)(p)["a"] - gradient["a"]).abs().max() < 1e-12


def test_the_inner_problem_is_never_in_half_precision():
    family = Sine(10, 10).to("cpu", torch.float32)
    learner = IMAML(family, partial(MLP, hidden=[16]), inner_lr=0.1, inner_steps=8)
    one = task(family.sample("train", torch.arange(1)), 0)
    exact = learner.adapt(one.support, one.key)
    with torch.autocast("cpu", torch.bfloat16):
        found = learner.adapt(one.support, one.key)
        assert learner.predict(found, one.query.x).dtype == torch.bfloat16
    assert torch.equal(found, exact)
    assert (exact - learner._centre()).norm() > 1e-3
    batch = family.sample("train", torch.arange(8))
    exact = learner.meta_gradient(parameters(learner), batch)[0]
    with torch.autocast("cpu", torch.bfloat16):  # the query loss alone is in half precision
        found = learner.meta_gradient(parameters(learner), batch)[0]
    scale = max(float(g.norm()) for g in exact.values())
    assert max(float((found[name] - g).norm()) for name, g in exact.items()) < 0.03 * scale


def test_minimise_is_plain_descent_where_the_rate_is_small():
    def objective(p):
        return torch.cosh(p["a"]).sum()

    start = {"a": torch.tensor([1.0, -2.0], dtype=F64)}
    for inner in (SGD(), Adam()):
        path = descend(lambda p, _: objective(p), start, inner, 0.05, 8).path
        found = [p for p, _ in minimise(objective, start, inner, 0.05, 8)]
        assert largest_difference(found, path) < 1e-14


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": 0.0}, "strength=0.0: must be above 0"),
        ({"cg_steps": -1}, "cg_steps=-1: must be at least 0"),
        ({"damping": -0.1}, "damping=-0.1: must be at least 0"),
        ({"least_curvature": float("nan")}, "least_curvature=nan: must be at least 0"),
        ({"inner_lr": -1.0}, "inner_lr=-1.0: must be above 0"),
        ({"inner_steps": 0}, "inner_steps=0: must be at least 1"),
    ],
)
def test_refused(settings, message):
    with pytest.raises(ValueError) as caught:
        IMAML(sines(), NET, **settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
