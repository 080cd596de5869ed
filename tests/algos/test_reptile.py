"""Reptile in float64: closed forms on f(x) = w x, and torch.optim over real outer steps."""

import copy

import pytest
import torch
from references import LINE, NET, Parabola, batches, close, lines, sines, train_with_torch

from metaexp.algos.reptile import Reptile
from metaexp.contract import new, task
from metaexp.inner import SGD, Adam
from metaexp.outer.meta_training import MetaTraining

ADAM = Adam(beta1=0.0, beta2=0.999)


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
            losses += train_with_torch(params, make(list(params.values())), one.support, batches(one.key, 10, size, 5))
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
        train_with_torch(params, adam, one.support, batches(one.key, 10, size, 4))
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
        train_with_torch(params, adam, one.support, rows[step : step + 1])
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
