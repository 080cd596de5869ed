"""Hypernetworks and in-context learning in float64 against independent references: torch's layers, numpy, loops."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from references import CONTEXT, answers, batch_of, close, families, made, sines
from torch import nn
from torch.func import hessian, jacrev, vmap

from metaexp.algos.hypernet import HyperNet
from metaexp.algos.protonet import ProtoNet
from metaexp.config.compose import config_dir
from metaexp.config.instantiate import instantiate
from metaexp.config.settings import Settings
from metaexp.contract import finite_differences, new, parameters, pictures, task
from metaexp.evaluation.scores import evaluate
from metaexp.models.cnn4 import CNN4
from metaexp.models.mlp import MLP
from metaexp.outer.meta_training import MetaTraining
from metaexp.tasks.linear import Linear as LinearTasks
from metaexp.types import Episode, Examples

F64 = torch.float64
NET = partial(MLP, hidden=[8, 6], activation="tanh")
CNN = partial(CNN4, filters=4)
HYPER = partial(HyperNet, model=NET, encoder=[8, 7], generator=[5])
MAKES = {"hypernet": HYPER, "incontext": CONTEXT}
both = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
draw = torch.Generator().manual_seed(0)


def picture_targets():
    """Picture tasks with real targets: how dark a picture is, and how dark its first row."""
    family = pictures(side=16, shots=3)
    sample = family.sample

    def regression(*args, **sizes):
        e = sample(*args, **sizes)
        s, q = (Examples(p.x, torch.stack((p.x.mean((2, 3, 4)), p.x[..., 0, :].mean((2, 3))), 2)) for p in e[:2])
        return Episode(s, q, e.key, e.info)

    family.sample, family.y_dim, family.classification = regression, 2, False
    return family


# --- both -------------------------------------------------------------------------------------------------------------


@both
@families
def test_no_order_of_the_support_set_and_no_other_query_has_a_say_over_200_tasks(make, family):
    learner = made(make, family())
    episodes = batch_of(learner, 200)
    found = answers(learner, episodes)
    order = torch.randperm(episodes.support.x.shape[1], generator=draw)
    close(answers(learner, episodes._replace(support=Examples(*(t[:, order] for t in episodes.support)))), found)
    flipped = episodes._replace(support=Examples(episodes.support.x, episodes.support.y.flip(1)))
    assert (answers(learner, flipped) - found).abs().max() > 1e-3  # other pairs are another task
    close(answers(learner, episodes, episodes.query.x[:, 1:2]), found[:, 1:2])


@both
@families
def test_an_empty_support_set_gives_one_finite_answer_for_all_tasks(make, family):
    learner = made(make, family())
    episodes = batch_of(learner, 20)
    empty = episodes._replace(support=Examples(*(t[:, :0] for t in episodes.support)))
    found = answers(learner, empty, episodes.query.x[:1].expand_as(episodes.query.x))
    assert found.isfinite().all()
    close(found, found[:1].expand_as(found))
    gradient, value, _ = learner.meta_gradient(parameters(learner), empty)
    assert value.isfinite()
    assert all(g.isfinite().all() for g in gradient.values())


@both
@families
def test_the_meta_gradient_against_finite_differences(make, family):
    learner = made(make, family())
    assert finite_differences(learner, learner.train_batch(torch.arange(20))._replace(info={})) < 1e-6


@both
@pytest.mark.parametrize("mapping", ["vmap", "loop"])
def test_pictures_with_convolutions_against_finite_differences(make, mapping):
    learner = made(lambda f: make(f, model=CNN, mapping=mapping), pictures(side=16, shots=2))
    assert finite_differences(learner, learner.train_batch(torch.arange(4))._replace(info={})) < 1e-5


@both
def test_second_derivatives_in_the_inputs_are_right_under_vmap(make):
    """Of the predictor in its query, against central differences of the first derivative."""
    learner = made(make, sines())
    episodes = batch_of(learner, 20)

    def predictor(e):
        adapted = learner.adapt(e.support, e.key)
        return lambda x: learner.predict(adapted, x.view(1, 1)).view(())

    x = episodes.query.x[:, 0, 0]
    found = vmap(lambda e, at: hessian(predictor(e))(at))(episodes, x)
    up, down = (vmap(lambda e, at: jacrev(predictor(e))(at))(episodes, x + d) for d in (1e-5, -1e-5))
    assert found.abs().max() > 1e-2
    assert (found - (up - down) / 2e-5).abs().max() < 1e-7 * max(1, float(found.detach().abs().max()))


@pytest.mark.parametrize("algo", MAKES)
@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_finite_over_200_tasks_at_default_settings(algo, kind):
    """In float32, as conf/algo has them, at training and at test."""
    family = sines(shots=10) if kind == "regression" else pictures(shots=1)
    family.to("cpu", torch.float32)
    make = instantiate(Settings([], config_dir()).composer.content(f"algo/{algo}"), group="algo", trusted=set())
    torch.manual_seed(0)
    learner = make(family, MLP)
    gradient, value, _ = learner.meta_gradient(parameters(learner), learner.train_batch(torch.arange(200)))
    assert value.isfinite()
    assert all(g.isfinite().all() for g in gradient.values())
    scores = evaluate(learner, "test", 200, ["queries"], diagnose=True).arrays
    assert all(np.isfinite(values).all() for values in scores.values())
    assert ("added" in scores) == (algo == "hypernet")


@both
def test_a_hundred_steps_teach_it_to_use_the_support_set(make):
    """In float32 on linear maps: the error is well below that with the support set of another task."""
    family = LinearTasks(shots=5, queries=10, inputs=1)
    torch.manual_seed(0)
    wide = {"encoder": [64, 64], "generator": [64]} if make is HYPER else {"width": 16, "layers": 2}
    learner = make(family, model=partial(MLP, hidden=[40, 40]), **wide)
    loop = MetaTraining(learner, torch.optim.Adam(learner.meta_parameters().values(), 5e-3), meta_batch=16)
    for step in range(100):
        loop.step(step)
    episodes = batch_of(learner, 200)
    other = episodes._replace(support=Examples(*(t.roll(1, 0) for t in episodes.support)))
    error, without = (float(((answers(learner, e) - e.query.y) ** 2).mean()) for e in (episodes, other))
    assert error < 0.25 * without


# --- hypernetworks ----------------------------------------------------------------------------------------------------


def plain(mlp: MLP, x, activation):
    """The network by hand."""
    layers = [*mlp.body, mlp.head]
    for i, layer in enumerate(layers):
        x = x @ layer.weight.T + layer.bias
        x = x if i + 1 == len(layers) else activation(x)
    return x


def test_the_generated_network_is_a_torch_network_with_these_weights_over_200_tasks():
    learner = made(partial(HYPER, scale=0.7), sines())
    layers = [nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1)]
    net = nn.Sequential(*layers).double()
    names = [f"{layer}.{kind}" for layer in ("body.0", "body.1", "head") for kind in ("weight", "bias")]
    units = [0.7 / math.sqrt(fan) for fan in (1, 1, 8, 8, 6, 6)]
    base = dict(learner.model.named_parameters())
    episodes = batch_of(learner, 200)
    found = answers(learner, episodes)
    for i in range(200):
        one = task(episodes, i)
        with torch.no_grad():
            code = plain(learner.encoder, torch.cat((one.support.x, one.support.y), 1), F.gelu).mean(0)
            flat = plain(learner.generator, code, F.gelu)
            start = 0
            for name, unit, p in zip(names, units, net.parameters(), strict=True):
                part = flat[start : start + p.numel()].view_as(p)
                p.copy_(base[name] + unit * part)
                start += p.numel()
            assert start == len(flat) == 8 + 8 + 48 + 6 + 6 + 1
            close(net(one.query.x), found[i])


def test_rows_of_the_head_are_made_class_by_class():
    """Each from its own examples alone: others may change, and their number too."""
    learner = made(HYPER, pictures(shots=3, ways=4))
    one = task(batch_of(learner, 1), 0)
    with torch.no_grad():
        adapted = learner.adapt(one.support, one.key)
        z = learner.model.features(one.support.x)
        labels = one.support.y.argmax(-1)
        for k in range(4):
            members = z[labels == k]
            flat = plain(learner.generator, plain(learner.encoder, members, F.gelu).mean(0), F.gelu) / math.sqrt(6)
            centre = members.mean(0)
            close(adapted["weight"][k], 2 * learner.phi * centre + flat[:6])
            close(adapted["bias"][k], flat[6] - learner.phi @ centre**2)
        two = learner.adapt(Examples(one.support.x[labels < 2], one.support.y[labels < 2][:, :2]), one.key)
        close(two["weight"], adapted["weight"][:2])
        logits = learner.predict(adapted, one.query.x)
        close(logits, F.linear(learner.model.features(one.query.x), adapted["weight"], adapted["bias"]))
        unseen = learner.adapt(Examples(one.support.x[labels < 3], one.support.y[labels < 3]), one.key)
        assert unseen["weight"].isfinite().all()
        close(unseen["weight"][:3], adapted["weight"][:3])


def test_a_generator_of_zeros_leaves_a_prototypical_network():
    learner = new(partial(HYPER, phi=0.5), pictures(shots=3))
    with torch.no_grad():
        for p in learner.generator.head.parameters():
            p.zero_()
    reference = new(lambda f: ProtoNet(f, NET, scale=0.5), pictures(shots=3))
    reference.model.load_state_dict(learner.model.state_dict())
    episodes = batch_of(learner, 50)
    close(*(answers(m, episodes).log_softmax(-1) for m in (learner, reference)))


def test_ways_and_shots_may_differ_at_test():
    learner = new(HYPER, pictures(ways=6, shots=1, test={"ways": 4, "shots": 3}))
    assert answers(learner, batch_of(learner, 3)).shape == (3, 8, 4)
    assert evaluate(learner, "test", 50, ["queries"]).arrays["accuracy"].mean() > 0.4  # chance is 0.25


def test_pictures_with_real_targets_get_a_generated_head_on_learned_features():
    learner = made(partial(HYPER, model=partial(CNN, norm="layer")), picture_targets())
    one = task(batch_of(learner, 1), 0)
    with torch.no_grad():
        adapted = learner.adapt(one.support, one.key)
        z = learner.model.features(one.support.x)
        code = plain(learner.encoder, torch.cat((z, one.support.y), 1), F.gelu).mean(0)
        flat = plain(learner.generator, code, F.gelu) / 2  # four features enter the head
        assert {name: tuple(t.shape) for name, t in adapted.items()} == {"weight": (2, 4), "bias": (2,)}
        close(adapted["weight"], learner.model.head.weight + flat[:8].view(2, 4))
        close(adapted["bias"], learner.model.head.bias + flat[8:])
        expected = learner.model.features(one.query.x) @ adapted["weight"].T + adapted["bias"]
        close(learner.predict(adapted, one.query.x), expected)


@pytest.mark.parametrize("hidden", [[40, 40], [128, 128]])
def test_generated_weights_start_at_the_usual_size(hidden):
    """Layer by layer over 200 tasks: spread within a factor 1.5 of torch's; the diagnostic says how far they are."""
    torch.manual_seed(0)
    learner = HyperNet(sines(shots=10), partial(MLP, hidden=hidden)).double()
    episodes = batch_of(learner, 200)
    with torch.no_grad():
        adapted = vmap(lambda e: learner.adapt(e.support, e.key))(episodes)
        for name, p in learner.model.named_parameters():
            if p.numel() >= 40:
                ratio = float(adapted[name].std() / p.std())
                assert 0.9 < ratio < 1.5, name
        change = torch.cat([(adapted[n][0] - p).flatten() for n, p in learner.model.named_parameters()])
        base = torch.cat([p.flatten() for p in learner.model.parameters()])
        close(learner.diagnostics(task(episodes, 0))["added"], change.norm() / base.norm())


def test_only_parameters_that_learn_are_generated():
    net = NET((1,), 1)
    for p in net.body.parameters():
        p.requires_grad_(False)
    learner = new(partial(HYPER, model=net), sines())
    one = task(batch_of(learner, 1), 0)
    assert set(learner.adapt(one.support, one.key)) == {"head.weight", "head.bias"}
    net.head.requires_grad_(False)
    with pytest.raises(ValueError, match=r"^model: HyperNet generates its parameters, and none requires a gradient"):
        HYPER(sines(), model=net)


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: HYPER(f, encoder=[]), r"^encoder=\[\]: must be 1 or more widths of at least 1"),
        (lambda f: HYPER(f, generator=[4, 0]), r"^generator=\[4, 0\]: must be 0 or more"),
        (lambda f: HYPER(f, scale=0.0), r"^scale=0.0: must be above 0"),
        (lambda f: HYPER(f, phi=-1.0), r"^phi=-1.0: must be at least 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(sines())
