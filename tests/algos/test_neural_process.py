"""Gaussian processes and neural processes in float64, against direct formulas, torch's own attention and numpy."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from references import gp, parts_of
from torch import nn
from torch.func import vmap

from metaexp import losses, metrics
from metaexp.algos.acnp import ACNP
from metaexp.algos.cnp import CNP
from metaexp.algos.maml import MAML
from metaexp.contract import check_learner, finite_differences, largest_difference, new, pictures, rows, task
from metaexp.evaluation.scores import evaluate
from metaexp.models.linear import Linear
from metaexp.models.mlp import MLP
from metaexp.models.sets import CrossAttention, attention, means
from metaexp.outer.loop import OuterLoop
from metaexp.plots.episodes import curves
from metaexp.tasks.linear import Linear as LinearTasks
from metaexp.training.control import Control
from metaexp.types import Examples

F64 = torch.float64
SMALL = {"width": 12, "encoder_layers": 2, "decoder_layers": 2}
MAKES = {
    "cnp": partial(CNP, **SMALL),
    "acnp": partial(ACNP, heads=3, **SMALL),
    "acnp_residual": partial(ACNP, heads=3, residual=True, **SMALL),
}
BOTH = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(math.prod(shape)), dtype=F64)


# --- losses and directions ------------------------------------------------------------------------------------------


def test_gaussian_losses_against_torch_distributions():
    mean, sd, y = normal(200, 3), normal(200, 3).abs() + 0.1, normal(200, 3) * 2
    prediction = torch.cat((mean, sd), -1)
    exact = torch.distributions.Normal(mean, sd).log_prob(y).sum(-1).mean()
    assert abs(metrics.log_likelihood(prediction, y) - exact) < 1e-12
    assert abs(losses.gaussian_nll(prediction, y) + exact) < 1e-12
    assert torch.equal(metrics.of_mean(metrics.mse)(prediction, y), losses.mse(mean, y))
    for metric in metrics.gaussian_metrics({"mse": metrics.mse}).values():
        assert metric(prediction[:0], y[:0]) == 0
    at = torch.cat((torch.zeros(4, 1), torch.ones(4, 1)), -1)
    edges = torch.tensor([[0.67448], [0.67450], [1.64485], [1.64486]])  # of 50 % and 90 %
    assert metrics.coverage(0.5)(at, edges) == 0.25
    assert metrics.coverage(0.9)(at, edges) == 0.75
    with pytest.raises(ValueError, match="level=1: must be above 0"):
        metrics.coverage(1)


@pytest.mark.parametrize(
    ("metric", "value", "better"), [(None, -1.0, -0.5), ("mse", 1.0, 0.5), ("coverage90", 0.5, 0.8)]
)
def test_the_best_checkpoint_follows_the_metric_that_judges(metric, value, better):
    config = {"stop": {"metric": metric, "target": None, "patience": None}}
    saved = []
    save = SimpleNamespace(save_best=lambda write, step: saved.append(step))
    none = SimpleNamespace()
    control = Control(config, new(lambda f: CNP(f, Linear), gp()), none, none, none, save, none, none)
    name = metric or "log_likelihood"
    assert control.judged == name
    for step, mean in enumerate((value, better, value)):
        control.step = step
        control._judge({"kind": "val", name: {"mean": mean, "diverged": 0}})
    assert saved == [0, 1]
    assert control.best_value() == better


def test_patience_where_every_validation_had_a_diverged_task():
    config = {"stop": {"metric": None, "target": None, "patience": 2}}
    none = SimpleNamespace()
    loop = SimpleNamespace(stopped=False)
    control = Control(config, new(lambda f: CNP(f, Linear), gp()), loop, none, none, none, none, none)
    for step in range(3):
        assert control.reason is None
        control.step = step
        control._judge({"kind": "val", "log_likelihood": {"mean": 1.0, "diverged": 1}})
    assert control.reason == "patience: no better log_likelihood in 2 validations; all had diverged tasks"
    assert loop.stopped


def test_directions():
    for learner, wanted in (
        (new(lambda f: CNP(f, Linear), gp()), {"log_likelihood": True, "mse": False, "coverage90": None}),
        (new(lambda f: CNP(f, Linear), pictures()), {"accuracy_support": True, "log_likelihood": True}),
    ):
        found = metrics.declared(learner)
        assert {name: metrics.direction(found, name) for name in wanted} == wanted


# --- the methods ----------------------------------------------------------------------------------------------------


def forward(net: MLP, x: np.ndarray) -> np.ndarray:
    layers = [*net.body, net.head]
    for i, layer in enumerate(layers):
        x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    return x


def test_cnp_is_its_equations():
    learner = new(lambda f: CNP(f, Linear, sigma_floor=0.2, **SMALL), gp())
    batch = learner.train_batch(torch.arange(200))
    values = vmap(lambda e: learner.meta_loss(e)[0])(batch._replace(info={})).detach()
    for i in range(200):
        x, y, at, target, _ = parts_of(batch, i)
        r = forward(learner.encoder, np.stack([x, y], -1)).mean(0)
        out = forward(learner.decoder.net, np.concatenate([np.tile(r, (6, 1)), at[:, None]], -1))
        mean, sd = out[:, 0], 0.2 + 0.8 * np.log1p(np.exp(out[:, 1]))
        nll = 0.5 * ((target - mean) / sd) ** 2 + np.log(sd * np.sqrt(2 * np.pi))
        assert abs(nll.mean() - float(values[i])) < 1e-10


@pytest.mark.parametrize("kind", ["regression", "classes"])
@BOTH
def test_the_meta_gradient_by_finite_differences(make, kind):
    family = gp() if kind == "regression" else pictures()
    learner = new(lambda f: make(f, partial(MLP, hidden=[6], activation="tanh")), family)
    assert finite_differences(learner, learner.train_batch(torch.arange(5))._replace(info={})) < 1e-6


@pytest.mark.parametrize("kind", ["regression", "classes"])
def test_the_residual_block_is_its_equations(kind):
    """Means and deviations of layer norm by torch's own; the rest of the prediction goes the way it went without."""
    learner = new(lambda f: MAKES["acnp_residual"](f, Linear), gp() if kind == "regression" else pictures())
    x, y, at = normal(5, learner.inputs), normal(5, 1), normal(7, learner.inputs)
    y = y if kind == "regression" else torch.eye(3, dtype=F64)[[0, 1, 2, 2, 0]]
    block = learner.block
    with torch.no_grad():
        for norm in (block.norm, block.norm_net):
            norm.weight.copy_(normal(12))
            norm.bias.copy_(normal(12) / 2)
        for sets in (y, y[:0]):  # of no example nothing is read, and the query's own embedding is left
            kept = learner.fit(x[: len(sets)], sets, torch.tensor(0))
            found = learner.read(kept, at)
            q = learner.place(at)
            read = learner.attention(q, kept["keys"], kept["values"], kept["member"])
            r = read + (q @ block.skip.weight.T + block.skip.bias)[:, None]
            r = torch.layer_norm(r, (12,), block.norm.weight, block.norm.bias)
            by_hand = forward(block.net, r.flatten(0, 1).numpy()).reshape(r.shape)
            r = torch.layer_norm(r + torch.from_numpy(by_hand), (12,), block.norm_net.weight, block.norm_net.bias)
            assert largest_difference(found, learner.decoder(r, at)) < 1e-12
            learner.block = None
            assert largest_difference(found, learner.read(kept, at)) > 1e-3
            learner.block = block


def test_attention_equals_torch_multihead_attention():
    ours, theirs = CrossAttention(12, 3).double(), nn.MultiheadAttention(12, 3, bias=False, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in (ours.query, ours.key, ours.value)]))
        theirs.out_proj.weight.copy_(ours.mix.weight)
        query, key, value = normal(7, 12), normal(5, 12), normal(5, 11)[:, :1] * normal(5, 12)
        keys, values = ours.memory(key, value)
        member = torch.ones(5, 1, dtype=F64)
        expected, weights = theirs(query[None], key[None], value[None], average_attn_weights=False)
        assert largest_difference(ours(query, keys, values, member)[:, 0], expected[0]) < 1e-12
        assert largest_difference(ours.weights(query, keys, member)[:, 0], weights[0]) < 1e-12


def test_classes_are_attended_and_averaged_each_by_itself():
    query, key, h = normal(2, 7, 4), normal(2, 6, 4) * 30, normal(6, 5)
    member = torch.eye(4, dtype=F64)[[0, 2, 0, 2, 2, 1]]  # nothing in class 3
    weights, mean = attention(query, key, member), means(h, member)
    for c in range(4):
        own = member[:, c] > 0
        alone = attention(query, key[:, own], torch.ones(int(own.sum()), 1, dtype=F64))[:, 0]
        assert largest_difference(weights[:, c][..., own], alone) < 1e-12
        assert (weights[:, c][..., ~own] == 0).all()
        assert largest_difference(mean[c], h[own].mean(0) if own.any() else torch.zeros(5, dtype=F64)) < 1e-12


@BOTH
def test_renaming_the_classes_renames_the_logits(make):
    learner = new(lambda f: make(f, partial(MLP, hidden=[6])), pictures(ways=4))
    one = task(learner.family.sample("test", torch.arange(1)), 0)
    order = torch.tensor([2, 0, 3, 1])
    first = learner.predict(learner.adapt(one.support, one.key), one.query.x)
    renamed = Examples(one.support.x, one.support.y[:, order])
    second = learner.predict(learner.adapt(renamed, one.key), one.query.x)
    assert largest_difference(second, first[:, order]) < 1e-12
    assert first.detach().std(-1).min() > 1e-4  # and they differ


@BOTH
def test_an_empty_context(make):
    learner = new(lambda f: make(f, Linear), gp([0, 4], 6, bucket=10))
    empty = learner.family.sample("train", torch.arange(20), shots=0)._replace(info={})
    params = {name: p.detach() for name, p in learner.meta_parameters().items()}
    for mapping in ("vmap", "loop"):
        learner.set_mapping(mapping, "cpu")
        gradient, value, _ = learner.meta_gradient(params, empty)
        assert value.isfinite()
        assert all(g.isfinite().all() for g in gradient.values())
        assert any(g.any() for g in gradient.values())
    one = task(empty, 0)
    read = torch.zeros(6, 1, 12, dtype=F64)
    if getattr(learner, "block", None):
        read = learner.block(read, learner.place(one.query.x).unsqueeze(1))
    zeros = learner.decoder(read, one.query.x)
    assert torch.equal(learner.predict(learner.adapt(one.support, one.key), one.query.x), zeros)
    assert learner.views(empty) == {}


@BOTH
def test_a_context_is_a_set(make):
    """Its order says nothing, nor does a second copy of every point; its points do."""
    learner = new(lambda f: make(f, Linear), gp())
    one = task(learner.family.sample("test", torch.arange(1)), 0)
    orders = ([4, 2, 0, 1, 3], [0, 1, 2, 3, 4] * 2, [0, 1, 2, 3])
    first, *others = (
        learner.predict(learner.adapt(rows(one.support, order), one.key), one.query.x)
        for order in ([0, 1, 2, 3, 4], *orders)
    )
    assert largest_difference(others[0], first) < 1e-12
    assert largest_difference(others[1], first) < 1e-12
    assert largest_difference(others[2], first) > 1e-4
    assert (first[:, 1] > 0.1).all()  # the floor of sigma


def test_both_targets_and_the_record():
    family = gp([0, 4], 6, bucket=10)
    learner = new(lambda f: CNP(f, Linear, targets="both", sigma_floor=0.05, **SMALL), family)
    plain, batch = family.sample("train", torch.arange(10)), learner.train_batch(torch.arange(10))
    assert torch.equal(batch.query.y, torch.cat((plain.support.y, plain.query.y), 1))
    assert torch.equal(batch.support.x, plain.support.x)
    assert learner.finish() == {"targets": "both", "context_in_targets": True, "context": [0, 4], "sigma_floor": 0.05}
    assert new(lambda f: ACNP(f, Linear, **SMALL, heads=2), pictures(shots=2)).finish()["context"] == [2, 2]
    assert list(learner.metrics) == ["log_likelihood", "mse", "coverage50", "coverage90"]


@BOTH
def test_the_likelihood_of_classes(make):
    learner = new(lambda f: make(f, partial(MLP, hidden=[5])), pictures(ways=3))
    assert list(learner.metrics) == ["accuracy", "log_likelihood"]
    found = evaluate(learner, "test", 10, ["queries"]).arrays["log_likelihood"]
    for i in range(10):
        one = task(learner.family.sample("test", torch.tensor([i])), 0)
        with torch.no_grad():
            logits = learner.predict(learner.adapt(one.support, one.key), one.query.x)
        right = torch.softmax(logits, -1)[one.query.y.bool()]
        assert abs(found[i, 0] - float(right.log().mean())) < 1e-12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: CNP(f, Linear, width=0), "width=0: must be at least 1"),
        (lambda f: CNP(f, Linear, sigma_floor=0.0), "sigma_floor=0.0: must be above 0 and below 1"),
        (lambda f: CNP(f, Linear, targets="all"), "targets=all: must be query or both"),
        (lambda f: ACNP(f, Linear, width=10, heads=4), "heads=4: must divide width=10"),
        (lambda f: ACNP(f, Linear, key_layers=0), "key_layers=0: must be at least 1"),
        (lambda f: CNP(f, nn.Linear(1, 1)), "model: CNP needs a network with a layer named head"),
    ],
)
def test_method_settings(make, message):
    with pytest.raises(ValueError, match="^" + message):
        make(gp())


@BOTH
def test_contract_of_several_targets_and_of_varying_contexts(make):
    check_learner(lambda f: make(f, Linear), LinearTasks(5, 4, inputs=3, outputs=2), tasks=20)


@BOTH
def test_a_short_training_beats_the_prior(make):
    """Nearly constant functions: what a mean of the targets says is soon learned. N(0, 1.09) scores -1.46 nats."""
    family = gp([0, 8], 8, length=4.0, noise=0.3, bucket=16)
    learner = new(lambda f: make(f, Linear), family)
    loop = OuterLoop(learner, torch.optim.Adam(learner.meta_parameters().values(), lr=0.01), meta_batch=16)
    before = evaluate(learner, "test", 100, []).arrays["log_likelihood"].mean()
    for step in range(100):
        loop.step(step)
    scores = evaluate(learner, "test", 100, []).arrays
    assert before < -1.2
    assert scores["log_likelihood"].mean() > -1.0
    assert abs(scores["coverage90"].mean() - 0.9) < 0.08


# --- what is shown --------------------------------------------------------------------------------------------------


def test_the_attention_is_a_view():
    learner = new(lambda f: MAKES["acnp"](f, Linear), gp())
    episode = learner.family.sample("val", torch.arange(2))
    table = learner.views(episode)["attention"]
    assert table.values.shape == (6, 5)
    assert largest_difference(table.values.sum(1), torch.ones(6)) < 1e-12
    assert table.column_names == [f"{x:.2f}" for x in sorted(episode.support.x[0, :, 0].tolist())]
    assert table.row_names == [f"{x:.2f}" for x in sorted(episode.query.x[0, :, 0].tolist())]
    classes = new(lambda f: MAKES["acnp"](f, Linear), pictures())
    table = classes.views(classes.family.sample("val", torch.arange(2)))["attention"]
    assert largest_difference(table.values.sum(1), torch.full((6,), 3.0)) < 1e-12  # one for each class


def test_gaussian_predictions_are_drawn_with_their_band():
    family = gp()
    episode = family.sample("val", torch.arange(2))

    def predict(x):
        return torch.stack((torch.cat((0 * x, 1 + 0 * x), -1), torch.cat((x, 0.5 + 0 * x), -1)), 1)

    axes = curves(episode, predict, [0, 1], truth=lambda x: torch.cat((2 * x, 0.1 + 0 * x), -1)).axes[1]
    lines = {str(drawn.get_label()): drawn for drawn in axes.lines}
    x = np.asarray(lines["true function"].get_xdata())
    np.testing.assert_allclose(lines["its 95 % band"].get_ydata(), 2 * x + 0.196)
    (filled,) = axes.collections
    edges = filled.get_paths()[0].vertices
    for sign in (-1, 1):
        assert any(np.allclose(point, (x[70], x[70] + sign * 0.98)) for point in edges)
    assert "query" in lines
    plain = curves(episode, lambda x: x[:, None], [0]).axes[0]
    assert not plain.collections
    assert "prediction" in {drawn.get_label() for drawn in plain.lines}


def test_point_predictors_learn_on_the_family():
    assert list(new(lambda f: MAML(f, Linear), gp()).metrics) == ["mse"]
