"""What CNP and ACNP share, in float64: gradients, symmetries, the empty context, likelihoods."""

from functools import partial

import pytest
import torch
from references import F64, PROCESSES, gp
from torch import nn

from metaexp.algos.acnp import ACNP
from metaexp.algos.cnp import CNP
from metaexp.contract import check_learner, finite_differences, largest_difference, new, pictures, rows, task
from metaexp.evaluation.scores import evaluate
from metaexp.models.linear import Linear
from metaexp.models.mlp import MLP
from metaexp.outer.meta_training import MetaTraining
from metaexp.tasks.linear import Linear as LinearTasks
from metaexp.types import Examples

BOTH = pytest.mark.parametrize("make", PROCESSES.values(), ids=PROCESSES)


@pytest.mark.parametrize("kind", ["regression", "classes"])
@BOTH
def test_the_meta_gradient_by_finite_differences(make, kind):
    family = gp() if kind == "regression" else pictures()
    learner = new(lambda f: make(f, partial(MLP, hidden=[6], activation="tanh")), family)
    assert finite_differences(learner, learner.train_batch(torch.arange(5))._replace(info={})) < 1e-6


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
    loop = MetaTraining(learner, torch.optim.Adam(learner.meta_parameters().values(), lr=0.01), meta_batch=16)
    before = evaluate(learner, "test", 100, []).arrays["log_likelihood"].mean()
    for step in range(100):
        loop.step(step)
    scores = evaluate(learner, "test", 100, []).arrays
    assert before < -1.2
    assert scores["log_likelihood"].mean() > -1.0
    assert abs(scores["coverage90"].mean() - 0.9) < 0.08
