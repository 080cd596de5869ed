"""Hypernetworks in float64 against networks of torch with the generated weights, and loops over classes."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from references import CNN, HYPER, NET, answers, batch_of, close, made, sines
from torch import nn
from torch.func import vmap

from metaexp.algos.hypernet import HyperNet
from metaexp.algos.protonet import ProtoNet
from metaexp.contract import new, pictures, task
from metaexp.evaluation.scores import evaluate
from metaexp.models.mlp import MLP
from metaexp.types import Episode, Examples


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
