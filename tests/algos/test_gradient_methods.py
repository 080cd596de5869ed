"""Algorithms in float64: closed forms on f(x) = w x, and independent plain-PyTorch loops over many tasks."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from references import F64, NET, close, cnn4, cross_entropy, lines, mlp, plain_maml, sines
from torch import Tensor

from metaexp.algos.joint import Joint
from metaexp.algos.maml import MAML
from metaexp.algos.reptile import Reptile
from metaexp.algos.scratch import Scratch
from metaexp.contract import new, parameters, pictures, task
from metaexp.inner import SGD, Adam, minibatches
from metaexp.models.cnn4 import CNN4
from metaexp.models.linear import Linear
from metaexp.models.mlp import MLP
from metaexp.outer.meta_training import MetaTraining

LINE = partial(Linear, bias=False)  # f(x) = w x
W = "model.head.weight"


class Parabola:
    """mean (w x - y)^2 = s w^2 - 2 c w + ... of every task, [tasks] each."""

    def __init__(self, examples):
        x, y = examples.x[..., 0], examples.y[..., 0]
        self.s, self.c, self.rest = (x * x).mean(-1), (x * y).mean(-1), (y * y).mean(-1)

    def loss(self, w: Tensor) -> Tensor:
        return self.s * w**2 - 2 * self.c * w + self.rest

    def gradient(self, w: Tensor) -> Tensor:
        return 2 * (self.s * w - self.c)

    def descend(self, w: Tensor, lr: float, steps: int) -> Tensor:
        best = self.c / self.s
        return best + (1 - 2 * lr * self.s) ** steps * (w - best)


# --- closed forms on f(x) = w x ---------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("meta_batch", [1, 5])
@pytest.mark.parametrize("mapping", ["vmap", 2, "loop"])
def test_reptile_closed_form(meta_batch, mapping):
    """theta <- theta + eps mean_i(theta_i - theta) over 6 outer steps of the real outer loop, serial and batched."""
    lr, steps, eps = 0.02, 4, 0.3
    learner = new(lambda f: Reptile(f, LINE, inner_lr=lr, inner_steps=steps, mapping=mapping), lines())
    loop = MetaTraining(learner, torch.optim.SGD(learner.meta_parameters().values(), lr=eps), meta_batch=meta_batch)
    w = learner.model.head.weight.detach().clone().flatten()
    for step in range(6):
        support = Parabola(learner.train_batch(meta_batch * step + torch.arange(meta_batch)).support)
        losses = torch.stack([support.loss(support.descend(w, lr, k)) for k in range(steps)])
        result = loop.step(step)
        close(result.loss, losses.mean())
        close(result.logs["last_inner_loss"], losses[-1].mean())
        w = w + eps * (support.descend(w, lr, steps) - w).mean()
        close(learner.model.head.weight.detach().flatten(), w)


@pytest.mark.parametrize("make", [MAML, Reptile])
def test_rates_and_steps_at_test_are_settings_of_their_own(make):
    learner = new(lambda f: make(f, LINE, inner_lr=0.02, inner_steps=2, test_lr=0.005, test_steps=7), lines())
    w = learner.model.head.weight.detach().flatten()
    one = task(learner.family.sample("test", torch.arange(1)), 0)
    support = Parabola(one.support)
    assert learner.test_steps == 7
    with torch.no_grad():
        path = torch.stack([p["head.weight"].flatten()[0] for p in learner.path(one.support, one.key, 7)])
        adapted = learner.adapt(one.support, one.key)["head.weight"].flatten()
    close(path, torch.stack([support.descend(w, 0.005, k)[0] for k in range(8)]))
    close(adapted, support.descend(w, 0.02, 2))
    same = make(lines(), LINE, inner_lr=0.02, inner_steps=2)
    assert (same.test_lr, same.test_steps) == (0.02, 2)


def test_joint_closed_form():
    """The plain gradient of the pooled loss; the fine-tuned weight after k steps."""
    learner = new(lambda f: Joint(f, LINE, batch=9, test_lr=0.01, test_epochs=4), lines())
    w = learner.model.head.weight.detach().flatten()
    pooled = Parabola(learner.family.pool("train", torch.arange(6), 9))
    gradient, value, _ = learner.meta_gradient(parameters(learner), learner.train_batch(torch.arange(6)))
    close(gradient[W].flatten(), pooled.gradient(w).mean()[None])
    close(value, pooled.loss(w).mean())
    one = task(learner.family.sample("test", torch.arange(1)), 0)
    path = torch.stack([p["head.weight"].flatten()[0] for p in learner.path(one.support, one.key, 4)])
    close(path, torch.stack([Parabola(one.support).descend(w, 0.01, k)[0] for k in range(5)]))


def test_scratch_closed_form():
    learner = new(lambda f: Scratch(f, LINE, test_lr=0.01, test_epochs=4, inner=SGD()), lines())
    w = learner.model.head.weight.detach().flatten()
    one = task(learner.family.sample("test", torch.arange(1)), 0)
    assert learner.test_steps == 4
    close(
        learner.adapt(one.support, one.key)["head.weight"].flatten(), Parabola(one.support).descend(w, 0.01, 4)[None, 0]
    )
    assert not learner.trains


# --- MAML against an independent implementation -----------------------------------------------------------------------


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


# --- Reptile against torch.optim --------------------------------------------------------------------------------------


def train(params: dict[str, Tensor], optimiser, support, rows) -> list[Tensor]:
    """torch.optim in place on the given minibatches; the losses before each step."""
    losses = []
    for row in rows:
        optimiser.zero_grad()
        loss = F.mse_loss(mlp(params, support.x[row]), support.y[row])
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return losses


def batches(key: Tensor, n: int, size: int | None, steps: int) -> list:
    rows = minibatches(key, 64, n, size, steps)
    return [slice(None)] * steps if rows is None else list(rows)


ADAM = Adam(beta1=0.0, beta2=0.999)


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("meta_batch", [1, 3])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_reptile_with_a_fresh_inner_optimiser(name, meta_batch, size):
    """A new torch optimiser for every task; 10 outer steps with eps annealed by hand."""
    inner = {"sgd": SGD(0.5), "adam": ADAM}[name]
    make = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.5),
        "adam": lambda p: torch.optim.Adam(p, lr=0.02, betas=(0.0, 0.999)),
    }[name]
    learner = new(
        lambda f: Reptile(f, NET, inner_lr=0.02, inner_steps=5, inner_batch=size, inner=inner), sines(shots=10)
    )
    outer = torch.optim.SGD(learner.meta_parameters().values(), lr=1.0)
    loop = MetaTraining(learner, outer, meta_batch=meta_batch)
    theta = {k: p.detach().clone() for k, p in learner.model.named_parameters()}
    for step in range(10):
        eps = outer.param_groups[0]["lr"] = 0.5 * (1 - step / 10)
        episode = learner.train_batch(meta_batch * step + torch.arange(meta_batch))
        moves, losses = [], []
        for i in range(meta_batch):
            one = task(episode, i)
            params = {k: p.clone().requires_grad_() for k, p in theta.items()}
            losses += train(params, make(list(params.values())), one.support, batches(one.key, 10, size, 5))
            moves.append({k: p.detach() - theta[k] for k, p in params.items()})
        result = loop.step(step)
        theta = {k: p + eps * sum(move[k] for move in moves) / meta_batch for k, p in theta.items()}
        close({k: p.detach() for k, p in learner.model.named_parameters()}, theta, 1e-11)
        close(result.loss, torch.stack(losses).mean(), 1e-11)


@pytest.mark.parametrize("size", [None, 4])
def test_reptile_with_a_carried_inner_optimiser(size):
    """As the authors run it: ONE torch.optim.Adam(betas=(0, .999)) for all tasks; before each task the weights are put
    in place, its second moments and step count stay. Then the test goes on from that state."""
    learner = new(
        lambda f: Reptile(
            f, NET, inner_lr=0.01, inner_steps=4, inner_batch=size, inner=ADAM, state="carried", test_steps=6
        ),
        sines(shots=10),
    )
    eps = 0.5
    loop = MetaTraining(learner, torch.optim.SGD(learner.meta_parameters().values(), lr=eps), meta_batch=1)
    theta = {k: p.detach().clone() for k, p in learner.model.named_parameters()}
    params = {k: p.clone().requires_grad_() for k, p in theta.items()}
    adam = torch.optim.Adam(list(params.values()), lr=0.01, betas=(0.0, 0.999))

    def place() -> None:
        with torch.no_grad():
            for k, p in params.items():
                p.copy_(theta[k])

    for step in range(15):
        one = task(learner.train_batch(torch.tensor([step])), 0)
        place()
        train(params, adam, one.support, batches(one.key, 10, size, 4))
        theta = {k: p + eps * (params[k].detach() - p) for k, p in theta.items()}
        loop.step(step)
        close({k: p.detach() for k, p in learner.model.named_parameters()}, theta, 1e-10)
    state = learner.carried.tree()
    assert state["count"]["steps"] == 60
    close(state["moment2"], {k: adam.state[p]["exp_avg_sq"] for k, p in params.items()}, 1e-10)

    one = task(learner.family.sample("test", torch.tensor([0])), 0)
    with torch.no_grad():
        path = learner.path(one.support, one.key, 6)
    place()
    rows = batches(one.key, 10, size, 6)
    for step in range(6):
        train(params, adam, one.support, rows[step : step + 1])
        close(path[step + 1], {k: p.detach() for k, p in params.items()}, 1e-10)
    assert learner.carried.tree()["count"]["steps"] == 60  # a test leaves the state as it is


def test_a_carried_state_is_the_mean_over_tasks_and_is_saved():
    learner = new(lambda f: Reptile(f, NET, inner=ADAM, state="carried", inner_steps=3), sines())
    singles = []
    for i in range(4):
        alone = copy.deepcopy(learner)
        loop = MetaTraining(alone, torch.optim.SGD(alone.meta_parameters().values(), lr=0.1), meta_batch=1)
        loop.step(i)
        singles.append(alone.carried.tree()["moment2"])
    for accumulate, meta_batch in ((1, 4), (2, 2)):
        together = copy.deepcopy(learner)
        outer = torch.optim.SGD(together.meta_parameters().values(), lr=0.1)
        MetaTraining(together, outer, meta_batch=meta_batch, accumulate=accumulate).step(0)
        mean = {k: sum(single[k] for single in singles) / 4 for k in singles[0]}
        close(together.carried.tree()["moment2"], mean)
        assert together.carried.tree()["count"]["steps"] == 3
    other = new(lambda f: Reptile(f, NET, inner=ADAM, state="carried", inner_steps=3), sines(), seed=1)
    other.load_state_dict(together.state_dict())
    assert all(
        torch.equal(v, other.carried.tree()["moment2"][k]) for k, v in together.carried.tree()["moment2"].items()
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner_batch": 0}, "inner_batch=0: must be at least 1"),
        ({"test_batch": 0}, "test_batch=0: must be at least 1"),
        ({"state": "kept"}, "state=kept: must be fresh or carried"),
        ({"inner_lr": -0.1}, "inner_lr=-0.1: must be above 0"),
    ],
)
def test_reptile_refuses(settings, message):
    with pytest.raises(ValueError) as caught:
        Reptile(sines(), NET, **settings)
    assert str(caught.value).startswith(message)


# --- baselines against torch.optim ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("make", [Scratch, Joint])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_fine_tuning_equals_torch(make, name, size):
    inner = {"sgd": SGD(0.9), "adam": Adam()}[name]
    learner = new(lambda f: make(f, NET, test_lr=0.01, test_epochs=3, test_batch=size, inner=inner), sines(shots=10))
    steps = 3 if size is None else 9
    assert learner.test_steps == steps
    one = task(learner.family.sample("test", torch.tensor([2])), 0)
    path = learner.path(one.support, one.key, steps)
    params = {k: p.detach().clone().requires_grad_() for k, p in learner.model.named_parameters()}
    theirs = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    }[name](list(params.values()))
    rows = batches(one.key, 10, size, steps)
    for step in range(steps):
        train(params, theirs, one.support, rows[step : step + 1])
        close(path[step + 1], {k: p.detach() for k, p in params.items()})
    close(learner.adapt(one.support, one.key), path[-1], 1e-300)


def test_joint_on_classes_is_a_classifier_over_all_training_classes():
    learner = new(lambda f: Joint(f, partial(MLP, hidden=[8]), batch=6, test_lr=0.1), pictures())
    assert learner.model.head.out_features == 10
    pooled = learner.family.pool("train", torch.arange(4), 6)
    gradient, value, logs = learner.meta_gradient(parameters(learner), learner.train_batch(torch.arange(4)))
    logits = learner.model(pooled.x.flatten(0, 1))
    labels = pooled.y.flatten(0, 1).argmax(-1)
    loss = F.cross_entropy(logits, labels)
    grads = torch.autograd.grad(loss, list(learner.meta_parameters().values()))
    close(gradient, dict(zip(learner.meta_parameters(), grads, strict=True)))
    close(value, loss.detach())
    close(logs["accuracy"], (logits.argmax(-1) == labels).double().mean())


def test_joint_draws_a_new_head_for_every_test_task():
    learner = new(lambda f: Joint(f, partial(MLP, hidden=[9]), test_lr=0.1, test_epochs=2), pictures(ways=3))
    episode = learner.family.sample("test", torch.arange(400))
    heads = []
    with torch.no_grad():
        for i in range(400):
            one = task(episode, i)
            start = learner.path(one.support, one.key, 0)[0]
            assert start["head.weight"].shape == (3, 9)
            assert torch.equal(start["body.0.weight"], learner.model.body[0].weight)
            heads.append(torch.cat([start["head.weight"].flatten(), start["head.bias"]]))
    drawn = torch.stack(heads)
    assert drawn.abs().max() <= 1 / 3  # torch's own initialisation: U[-1/sqrt(n), 1/sqrt(n)]
    assert abs(float(drawn.std()) - (1 / 3) / 3**0.5) < 0.005
    assert len(drawn[:, 0].unique()) == 400
    one = task(episode, 0)
    assert learner.predict(learner.adapt(one.support, one.key), one.query.x).shape == (6, 3)


def test_the_baselines_take_other_ways_at_test():
    family = pictures(ways=3, test={"ways": 2})
    for make in (Joint, Scratch):
        learner = new(lambda f, m=make: m(f, partial(MLP, hidden=[9]), test_epochs=2), family)
        one = task(family.sample("test", torch.tensor([0])), 0)
        assert learner.predict(learner.adapt(one.support, one.key), one.query.x).shape == (4, 2)
    for make in (MAML, Reptile):
        with pytest.raises(ValueError, match=r"^task.test.ways=2: \w+ has one output per class, so task.ways=3 too"):
            make(family, partial(MLP, hidden=[9]))


def test_the_rate_is_chosen_on_validation_tasks():
    """Of rates that do nothing, do well and diverge; the same numbers by hand."""
    family = lines(noise=0.0, queries=20)
    for make in (Joint, Scratch):
        learner = new(lambda f, m=make: m(f, LINE, test_lr=[1e-9, 0.03, 100.0], test_epochs=5, inner=SGD()), family)
        found = learner.finish()
        assert found["test_lr"] == 0.03
        assert float(learner.test_lr) == 0.03
        episode = family.sample("val", torch.arange(200))
        support, query = Parabola(episode.support), Parabola(episode.query)
        w = learner.model.head.weight.detach().flatten()
        for rate in (1e-9, 0.03):
            mean = float(query.loss(support.descend(w, rate, 5)).mean())
            assert abs(found["validation_mse"][str(rate)] - mean) < 1e-10 * max(1, mean)
        other = new(lambda f, m=make: m(f, LINE, test_lr=[1e-9, 0.03, 100.0], test_epochs=5), family)
        other.load_state_dict(learner.state_dict())
        assert float(other.test_lr) == 0.03
    assert new(lambda f: Joint(f, LINE, test_lr=0.5), family).finish() == {}


def test_the_rate_of_the_highest_accuracy_is_chosen():
    for rates in ([1e-9, 0.3], [0.3, 1e-9]):
        learner = new(lambda f, r=rates: Scratch(f, partial(MLP, hidden=[9]), r, 5), pictures(shots=5, queries=5))
        found = learner.finish()
        means = found["validation_accuracy"]
        assert means["0.3"] > means["1e-09"] + 0.1
        assert found["test_lr"] == float(learner.test_lr) == 0.3


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (Joint, {"batch": 0}, "batch=0: must be at least 1"),
        (Joint, {"test_lr": [0.1, 0.0]}, "test_lr=[0.1, 0.0]: must be above 0"),
        (Scratch, {"test_lr": []}, "test_lr=[]: must be above 0"),
        (Scratch, {"test_epochs": -1}, "test_epochs=-1: must be at least 0"),
        (Scratch, {"test_batch": 0}, "test_batch=0: must be at least 1"),
    ],
)
def test_baselines_refuse(make, settings, message):
    with pytest.raises(ValueError) as caught:
        make(sines(), NET, **settings)
    assert str(caught.value).startswith(message)


def test_joint_needs_a_head_for_new_classes():
    with pytest.raises(ValueError, match="model: joint training needs a network with a linear layer named head"):
        Joint(pictures(), lambda x_shape, out: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, out)))
