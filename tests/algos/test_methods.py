"""ANIL, BOIL, Meta-SGD, ProtoNet and R2D2 in float64 against independent references: loops, closed forms, numpy."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from references import close, cnn4, cross_entropy, mlp, plain_maml, sines
from torch import Tensor, nn

from metaexp.algos.anil import ANIL
from metaexp.algos.boil import BOIL
from metaexp.algos.hypernet import HyperNet
from metaexp.algos.maml import MAML
from metaexp.algos.metasgd import MetaSGD
from metaexp.algos.protonet import ProtoNet
from metaexp.algos.r2d2 import R2D2, ridge
from metaexp.config.compose import config_dir
from metaexp.config.instantiate import instantiate
from metaexp.config.settings import Settings
from metaexp.contract import finite_differences, new, parameters, pictures, task
from metaexp.errors import ConfigError
from metaexp.evaluation.scores import evaluate
from metaexp.metrics import accuracy
from metaexp.models.cnn4 import CNN4
from metaexp.models.linear import Linear
from metaexp.models.mlp import MLP
from metaexp.outer.loop import OuterLoop
from metaexp.tasks.linear import Linear as LinearTasks
from metaexp.types import Examples

F64 = torch.float64
NET = partial(MLP, hidden=[8, 6], activation="tanh")
CNN = partial(CNN4, filters=4)
HEAD = ["head.weight", "head.bias"]


def shaken(learner):
    """Away from the start, where biases and shifts are 0 and scales 1."""
    with torch.no_grad():
        for p in learner.model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=F64))
    return learner


def gradients(learner, batch) -> tuple[dict[str, Tensor], Tensor]:
    gradient, value, _ = learner.meta_gradient(parameters(learner), batch._replace(info={}))
    return gradient, value


def same_gradient(found: dict[str, Tensor], exact: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    scale = max(float(g.abs().max()) for g in exact.values())
    assert scale > 1e-3
    for name, g in found.items():
        assert (g - exact[name]).abs().max() < tolerance * scale, name


class NormedHead(nn.Module):
    """A network whose head has a batch norm: what is read depends on the batch."""

    def __init__(self, x_shape, out):
        super().__init__()
        self.body = nn.Linear(x_shape[0], 6)
        self.head = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, out))

    def features(self, x):
        return torch.tanh(self.body(x))

    def forward(self, x):
        return self.head(self.features(x))


@pytest.mark.parametrize(
    "make",
    [
        lambda f: ANIL(f, NormedHead, inner_lr=0.1, test_steps=2),
        lambda f: HyperNet(f, NormedHead, encoder=(8,), generator=()),
    ],
)
def test_every_mode_of_a_test_is_that_of_predict_as_where_the_head_has_a_norm(make):
    learner = shaken(new(make, sines()))
    found = evaluate(learner, "test", 20, ["queries", "single", "support"]).arrays
    episodes = learner.family.sample("test", torch.arange(20))
    for suffix, mode in learner.modes(["queries", "single", "support"]).items():
        for i in range(20):
            support, query = (Examples(part.x[i], part.y[i]) for part in episodes[:2])
            with torch.no_grad():
                adapted = learner.path(support, episodes.key[i], learner.test_steps)[-1]
                error = ((learner.predict_as(mode, adapted, support, query.x) - query.y) ** 2).mean()
            assert float(error) == pytest.approx(found["mse" + suffix][i, -1], rel=1e-12)
    means = [float(found[name][:, -1].mean()) for name in ("mse", "mse_support", "mse_transductive")]
    assert len({round(mean, 6) for mean in means}) == 3  # else nothing was told apart


# --- ANIL and BOIL against a loop of torch.autograd -------------------------------------------------------------------


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("make", [ANIL, BOIL])
def test_head_or_body_equals_a_plain_loop_over_200_sine_tasks(make, first_order):
    learner = new(lambda f: make(f, NET, inner_lr=0.05, inner_steps=3, first_order=first_order), sines())
    names = [n for n, _ in learner.model.named_parameters() if (n in HEAD) == (make is ANIL)]
    batch = learner.train_batch(torch.arange(200))
    one = task(batch, 0)
    assert list(learner.adapt(one.support, one.key)) == [n.removeprefix("head.") for n in names]
    expected = plain_maml(mlp, F.mse_loss, learner, batch, 0.05, 3, first_order, names)
    gradient, value = gradients(learner, batch)
    close(value, expected[1])
    same_gradient(gradient, expected[0])


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("mapping", ["vmap", "loop"])
@pytest.mark.parametrize("make", [ANIL, BOIL])
def test_head_or_body_equals_a_plain_loop_with_batch_norm(make, mapping, first_order):
    """Support and queries apart, as in MAML; BOIL adapts the norms' scales and shifts too."""
    settings = {"inner_lr": 0.5, "inner_steps": 2, "first_order": first_order, "mapping": mapping}
    learner = shaken(new(lambda f: make(f, CNN, **settings), pictures(side=16, shots=3)))
    batch = learner.train_batch(torch.arange(4))
    names = [n for n, _ in learner.model.named_parameters() if (n in HEAD) == (make is ANIL)]
    expected = plain_maml(cnn4, cross_entropy, learner, batch, 0.5, 2, first_order, names)
    gradient, value = gradients(learner, batch)
    close(value, expected[1])
    same_gradient(gradient, expected[0])


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


def test_the_path_of_anil_and_boil_has_rates_and_steps_of_its_own():
    for make, names in ((ANIL, HEAD), (BOIL, [f"body.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")])):
        learner = new(lambda f, m=make: m(f, NET, inner_lr=0.05, test_lr=0.02, test_steps=3), sines())
        assert learner.test_steps == 3
        one = task(learner.family.sample("test", torch.tensor([1])), 0)
        fast = {k: p.detach().clone().requires_grad_() for k, p in learner.model.named_parameters()}
        for point in learner.path(one.support, one.key, 3):
            close(list(point.values()), [fast[name] for name in names])
            loss = F.mse_loss(mlp(fast, one.support.x), one.support.y)
            grads = torch.autograd.grad(loss, [fast[name] for name in names])
            fast |= {k: (fast[k] - 0.02 * g).detach().requires_grad_() for k, g in zip(names, grads, strict=True)}


# --- Meta-SGD ---------------------------------------------------------------------------------------------------------


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


# --- ProtoNet ---------------------------------------------------------------------------------------------------------


def plain_logits(z: Tensor, labels: Tensor, queries: Tensor, ways: int, distance: str, scale: float) -> Tensor:
    """Class by class, query by query."""
    rows = []
    for q in queries:
        row = []
        for k in range(ways):
            members = [z[i] for i in range(len(z)) if labels[i] == k]
            centre = sum(members) / len(members)
            if distance == "euclidean":
                row.append(-sum((a - b) ** 2 for a, b in zip(q, centre, strict=True)))
            else:
                row.append(q @ centre / (q.norm() * centre.norm()) - 1)
        rows.append(scale * torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize(("distance", "scale"), [("euclidean", 1.0), ("cosine", 7.0)])
def test_protonet_equals_a_plain_loop(distance, scale):
    make = partial(ProtoNet, model=NET, distance=distance, scale=scale, embedding=5)
    learner = new(lambda f: make(f), pictures(shots=3, queries=2))
    batch = learner.train_batch(torch.arange(6))
    params = {k: p.detach().clone().requires_grad_() for k, p in learner.model.named_parameters()}
    total = torch.zeros((), dtype=F64)
    for i in range(6):
        one = task(batch, i)
        z, queries = mlp(params, one.support.x.flatten(1)), mlp(params, one.query.x.flatten(1))
        assert z.shape == (9, 5)
        logits = plain_logits(z, one.support.y.argmax(-1), queries, 3, distance, scale)
        close(learner.predict(learner.adapt(one.support, one.key), one.query.x), logits)
        total = total + cross_entropy(logits, one.query.y) / 6
    exact = torch.autograd.grad(total, list(params.values()))
    gradient, value = gradients(learner, batch)
    close(value, total)
    same_gradient(gradient, {f"model.{k}": g for k, g in zip(params, exact, strict=True)})


def test_prototypes_of_unequal_classes_are_means():
    learner = new(lambda f: ProtoNet(f, NET), pictures())
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    y = F.one_hot(torch.tensor([2, 0, 0, 2, 0]), 4).to(F64)
    found = learner.fit(z, y, torch.tensor(0))
    close(found[0], z[[1, 2, 4]].mean(0))
    close(found[2], z[[0, 3]].mean(0))
    assert not found[[1, 3]].any()  # no examples: finite all the same


class TorchNet(nn.Module):
    """CNN4 without its head, in torch's own layers."""

    def __init__(self, learner):
        super().__init__()
        blocks = zip(learner.model.convolutions, learner.model.norms, strict=True)
        self.blocks = nn.ModuleList()
        for convolution, norm in blocks:
            own = nn.Sequential(nn.Conv2d(convolution.in_channels, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU()).double()
            own[0].load_state_dict(convolution.state_dict())
            own[1].load_state_dict({"weight": norm.weight, "bias": norm.bias}, strict=False)
            self.blocks.append(own)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))


@pytest.mark.parametrize("mapping", ["vmap", "loop"])
def test_running_averages_are_those_of_torch(mapping):
    """Five steps on one episode each in torch's training mode, then a prediction in its eval mode."""
    learner = shaken(new(lambda f: ProtoNet(f, CNN, mapping=mapping), pictures(side=16, shots=2, queries=3)))
    reference = TorchNet(learner)
    loop = OuterLoop(learner, torch.optim.SGD(learner.meta_parameters().values(), lr=0.1), meta_batch=1)
    optimiser = torch.optim.SGD(reference.parameters(), lr=0.1)
    for step in range(5):
        one = task(learner.train_batch(torch.tensor([step])), 0)
        z = reference(torch.cat((one.support.x, one.query.x)))
        logits = plain_logits(z[:6], one.support.y.argmax(-1), z[6:], 3, "euclidean", 1.0)
        optimiser.zero_grad()
        loss = cross_entropy(logits, one.query.y)
        loss.backward()
        optimiser.step()
        result = loop.step(step)
        close(result.loss, loss)
        assert "statistics" not in result.logs
    for block, norm in zip(reference.blocks, learner.model.norms, strict=True):
        close(norm.mean, block[1].running_mean, 1e-9)
        close(norm.variance, block[1].running_var, 1e-9)
        assert (norm.variance - 1).abs().max() > 0.1
    reference.eval()
    one = task(learner.family.sample("test", torch.tensor([0])), 0)
    with torch.no_grad():
        logits = plain_logits(
            reference(one.support.x), one.support.y.argmax(-1), reference(one.query.x), 3, "euclidean", 1
        )
        adapted = learner.adapt(one.support, one.key)
        close(learner.predict(adapted, one.query.x), logits, 1e-9)
        close(learner.predict(adapted, one.query.x[:1]), logits[:1], 1e-9)  # no other query has a say
    assert learner.modes(["queries", "single"]) == {"": "running"}
    assert list(evaluate(learner, "test", 3, ["queries", "single"]).arrays) == ["accuracy"]


def test_running_averages_take_the_mean_over_tasks_and_are_saved():
    def make(f):
        return R2D2(f, CNN)

    learner = new(make, pictures(side=16))
    batch = learner.train_batch(torch.arange(4))._replace(info={})
    logs = [
        learner.meta_gradient(parameters(learner), part)[2]["statistics"]["norms.0"]
        for part in (torch.utils._pytree.tree_map(lambda t, i=i: t[i : i + 1], batch) for i in range(4))
    ]
    OuterLoop(learner, torch.optim.SGD(learner.meta_parameters().values(), lr=0.0), meta_batch=4).step(0)
    norm = learner.model.norms[0]
    close(norm.mean, 0.1 * sum(log["mean"] for log in logs) / 4)
    close(norm.variance, 0.9 + 0.1 * sum(log["variance"] for log in logs) / 4)
    other = new(make, pictures(side=16), seed=1)
    other.load_state_dict(learner.state_dict())
    assert torch.equal(other.model.norms[0].variance, norm.variance)


def test_batch_statistics_keep_the_modes_of_the_test():
    learner = new(lambda f: ProtoNet(f, CNN, normalise="batch"), pictures(side=16))
    names = {"accuracy_transductive", "accuracy", "accuracy_support"}
    assert set(evaluate(learner, "test", 2, ["queries", "single", "support"]).arrays) == names


@pytest.mark.parametrize("make", [ProtoNet, partial(R2D2, strength=0.01)])
def test_ways_and_shots_may_differ_at_test(make):
    family = pictures(ways=6, shots=1, test={"ways": 4, "shots": 3})
    learner = new(lambda f: make(f, NET), family)
    one = task(family.sample("test", torch.tensor([0])), 0)
    assert learner.predict(learner.adapt(one.support, one.key), one.query.x).shape == (8, 4)
    assert evaluate(learner, "test", 50, ["queries"]).arrays["accuracy"].mean() > 0.4  # chance is 0.25


# --- R2D2 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(3, 8), (8, 8), (30, 8)])
def test_ridge_equals_numpy_in_both_forms(n, d):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(n, d)), draw.normal(size=(n, 2))
    for strength in (1e-3, 1.0, 50.0):
        direct = np.linalg.solve(x.T @ x / n + strength * np.eye(d), x.T @ y / n)
        woodbury = x.T @ np.linalg.solve(x @ x.T / n + strength * np.eye(n), y / n)
        augmented = np.vstack([x / np.sqrt(n), np.sqrt(strength) * np.eye(d)])
        least = np.linalg.lstsq(augmented, np.vstack([y / np.sqrt(n), np.zeros((d, 2))]), rcond=None)[0]
        found = ridge(torch.tensor(x), torch.tensor(y), torch.tensor(strength, dtype=F64)).numpy()
        for reference in (direct, woodbury, least):
            assert abs(found - reference).max() < 1e-11


@pytest.mark.parametrize("shots", [2, 9])
def test_r2d2_on_classes_equals_numpy(shots):
    """A column of ones, scale and shift; 6 and 27 support examples on 6 features."""
    learner = new(lambda f: R2D2(f, NET, strength=0.3, scale=4.0), pictures(shots=shots))
    with torch.no_grad():
        learner.shift.fill_(0.7)
    one = task(learner.family.sample("test", torch.tensor([3])), 0)
    z, q = (learner.model(x).detach().numpy() for x in (one.support.x, one.query.x))
    n = 3 * shots
    x = np.hstack([z, np.ones((n, 1))]) / np.sqrt(n)
    strength = float(learner.log_strength.detach().exp())
    w = np.linalg.solve(x.T @ x + strength * np.eye(7), x.T @ (one.support.y.numpy() / np.sqrt(n)))
    scale = float(learner.scale.detach())
    expected = scale * (q @ w[:-1] + w[-1]) + 0.7
    with torch.no_grad():
        found = learner.predict(learner.adapt(one.support, one.key), one.query.x)
    assert abs(found.numpy() - expected).max() < 1e-8  # the shift is a float32 until here
    assert abs(strength - 0.3) < 1e-7
    assert abs(scale - 4.0) < 1e-6  # both are kept as float32 logarithms


@pytest.mark.parametrize("shots", [4, 20])
def test_r2d2_on_targets_equals_centred_numpy(shots):
    learner = new(lambda f: R2D2(f, NET, strength=0.02), sines(shots=shots))
    with torch.no_grad():
        learner.log_scale.fill_(math.log(1.5))
        learner.shift.fill_(0.25)
    one = task(learner.family.sample("test", torch.tensor([3])), 0)
    z, q = (learner.model(x).detach().numpy() for x in (one.support.x, one.query.x))
    y = one.support.y.numpy()
    x = z - z.mean(0)
    w = np.linalg.solve(
        x.T @ x / shots + float(learner.log_strength.detach().exp()) * np.eye(6), x.T @ (y - y.mean()) / shots
    )
    with torch.no_grad():
        found = learner.predict(learner.adapt(one.support, one.key), one.query.x)
    assert abs(found.numpy() - (1.5 * (q - z.mean(0)) @ w + y.mean() + 0.25)).max() < 1e-10


def test_r2d2_with_a_small_strength_solves_linear_tasks():
    family = LinearTasks(shots=6, queries=9, inputs=3, bias=True).to("cpu", F64)
    learner = new(lambda f: R2D2(f, Linear, strength=1e-12), family)
    assert list(learner.meta_parameters()) == ["log_strength", "log_scale", "shift"]
    assert evaluate(learner, "test", 50, ["queries"]).arrays["mse"].max() < 1e-12


@pytest.mark.parametrize("n", [3, 30])
def test_half_precision_stops_before_the_linear_algebra(n):
    """Features in bfloat16, as under autocast: the ridge and the distances of the same numbers in float32."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 8, generator=draw).bfloat16(), torch.randn(n, 2, generator=draw)
    exact = ridge(x.float(), y, torch.tensor(0.1))
    learner = ProtoNet(pictures(), NET)
    distances = learner.read(x[:3].float(), x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x.T).dtype == torch.bfloat16
        assert torch.equal(ridge(x, y, torch.tensor(0.1)), exact)
        assert torch.equal(learner.read(x[:3], x), distances)


def test_query_features_are_computed_once_however_long_the_path():
    learner = new(lambda f: ANIL(f, NET, inner_steps=2, test_steps=9), pictures())
    one, seen = task(learner.family.sample("test", torch.tensor([3])), 0), []
    plain = learner.features
    learner.features = lambda x: seen.append(len(x)) or plain(x)
    with torch.no_grad():
        scores = learner.score(one, learner.modes(["queries"]))["accuracy"]
        path = learner.path(one.support, one.key, 9)
        again = [accuracy(learner.predict(point, one.query.x), one.query.y) for point in path]
    assert seen[:2] == [len(one.support.x), len(one.query.x)]
    assert len(seen) == 2 + 1 + 10  # what was done here by hand, point by point
    assert scores.tolist() == torch.stack(again).tolist()


@pytest.mark.parametrize("shots", [4, 20])
def test_r2d2_against_finite_differences(shots):
    learner = new(lambda f: R2D2(f, NET), sines(shots=shots))
    assert finite_differences(learner, learner.train_batch(torch.arange(20))._replace(info={})) < 1e-6
    learner = new(lambda f: R2D2(f, NET), pictures(shots=shots // 4))
    assert finite_differences(learner, learner.train_batch(torch.arange(20))._replace(info={})) < 1e-6
    fixed = new(lambda f: R2D2(f, NET, learn_strength=False), pictures())
    assert "log_strength" not in fixed.meta_parameters()


@pytest.mark.parametrize("n", [3, 40])
def test_ridge_is_regular_in_float32_where_examples_repeat(n):
    x = torch.ones(n, 8) * 1e3
    strength = torch.tensor(1e-20, requires_grad=True)
    w = ridge(x.requires_grad_(), torch.ones(n, 2), strength)
    assert (x[:1] @ w - 1).abs().max() < 1e-3
    w.sum().backward()
    assert x.grad.isfinite().all()
    assert strength.grad.isfinite()


# --- all --------------------------------------------------------------------------------------------------------------

METHODS = ("anil", "boil", "metasgd", "protonet", "r2d2")


@pytest.mark.parametrize("algo", METHODS)
@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_finite_over_200_tasks_at_default_settings(algo, kind):
    """In float32, as conf/algo has them, at training and along the whole path at test."""
    if (algo, kind) == ("protonet", "regression"):
        return
    family = sines(shots=10) if kind == "regression" else pictures(shots=1)
    family.to("cpu", torch.float32)
    make = instantiate(Settings([], config_dir()).composer.content(f"algo/{algo}"), group="algo", trusted=set())
    torch.manual_seed(0)
    learner = make(family, MLP)
    gradient, value = gradients(learner, learner.train_batch(torch.arange(200)))
    assert value.isfinite()
    assert all(g.isfinite().all() for g in gradient.values())
    scores = evaluate(learner, "test", 200, ["queries"], diagnose=True).arrays
    assert all(np.isfinite(values).all() for values in scores.values())
    own = {"metasgd": "rate/head", "protonet": "accuracy", "r2d2": "strength"}.get(algo, "inner_gradient_norm")
    assert len(scores[own]) == 200


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (ANIL, {"inner_lr": 0.0}, "inner_lr=0.0: must be above 0"),
        (ANIL, {"normalise": "both"}, "normalise=both: must be running or batch"),
        (BOIL, {"test_steps": -1}, "test_steps=-1: must be at least 0"),
        (MetaSGD, {"inner_lr": [0.1, 0.005]}, "inner_lr=[0.1, 0.005]: must be above 0, one number or [low, high]"),
        (MetaSGD, {"inner_lr": [0.1]}, "inner_lr=[0.1]: must be above 0, one number or [low, high]"),
        (MetaSGD, {"inner_lr": 0}, "inner_lr=0: must be above 0"),
        (MetaSGD, {"inner_steps": 0}, "inner_steps=0: must be at least 1"),
        (R2D2, {"strength": 0.0}, "strength=0.0: must be above 0"),
        (R2D2, {"scale": 0.0}, "scale=0.0: must be a number above 0"),
        (ProtoNet, {}, "family: ProtoNet needs classes, Sine is regression"),
    ],
)
def test_refused_on_sines(make, settings, message):
    with pytest.raises(ValueError) as caught:
        make(sines(), NET, **settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distance": "l1"}, "distance=l1: must be euclidean or cosine"),
        ({"scale": -1.0}, "scale=-1.0: must be above 0"),
        ({"embedding": 0}, "embedding=0: must be at least 1"),
        ({"model": Linear}, "embedding=None: the network has no parameter before its head; set embedding"),
    ],
)
def test_protonet_refuses(settings, message):
    with pytest.raises(ValueError) as caught:
        ProtoNet(pictures(), **{"model": NET} | settings)
    assert str(caught.value) == message


@pytest.mark.parametrize("make", [ANIL, BOIL, ProtoNet, R2D2])
def test_a_network_without_a_head_is_refused(make):
    def plain(x_shape, out):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, out))

    message = f"model: {make.__name__} needs a network with a layer named head and a method features"
    with pytest.raises(ValueError, match=message):
        make(pictures(), plain)
    frozen = NET((64,), 3)
    frozen.requires_grad_(False)
    if make is ANIL:
        with pytest.raises(ValueError, match="model: ANIL adapts the head, and no parameter of it requires a gradient"):
            make(pictures(), frozen)
    if make is BOIL:
        with pytest.raises(ValueError, match="model: BOIL adapts the body, and no parameter before the head requires"):
            make(pictures(), Linear)
    if make is ProtoNet:  # a head is needed only where it is taken off
        assert make(pictures(), plain, embedding=3).predict(torch.zeros(3, 3), torch.rand(2, 1, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("task_name", ["sine", "linear", "arrays"])
def test_protonet_on_regression_is_refused_by_the_configuration(task_name):
    with pytest.raises(ConfigError, match=r"algo=protonet needs kind classification, task=.* gives regression; use"):
        Settings([], None).load(["algo=protonet", f"task={task_name}"])


@pytest.mark.parametrize("make", [ANIL, BOIL, MetaSGD])
def test_other_ways_at_test_are_refused_where_the_head_is_kept(make):
    with pytest.raises(ValueError, match=r"^task.test.ways=2: \w+ has one output per class, so task.ways=3 too"):
        make(pictures(ways=3, test={"ways": 2}), NET)
