"""CNP in float64 against numpy; more in test_neural_process.py."""

from functools import partial

import numpy as np
import torch
from references import SMALL_PROCESS, forward, gp, parts_of
from torch.func import vmap

from metaexp.algos.acnp import ACNP
from metaexp.algos.cnp import CNP
from metaexp.config.settings import load
from metaexp.contract import new, pictures
from metaexp.evaluation.baselines import baselines
from metaexp.evaluation.scores import evaluate, validator
from metaexp.models.linear import Linear
from metaexp.models.mlp import MLP
from metaexp.models.sets import keep_scale, perceptron
from metaexp.tasks.linear import Linear as Maps
from metaexp.training.build import Experiment


def test_cnp_is_its_equations():
    learner = new(lambda f: CNP(f, Linear, sigma_floor=0.2, **SMALL_PROCESS), gp())
    batch = learner.train_batch(torch.arange(200))
    values = vmap(lambda e: learner.meta_loss(e)[0])(batch._replace(info={})).detach()
    for i in range(200):
        x, y, at, target, _ = parts_of(batch, i)
        r = forward(learner.encoder, np.stack([x, y], -1)).mean(0)
        out = forward(learner.decoder.net, np.concatenate([np.tile(r, (6, 1)), at[:, None]], -1))
        mean, sd = out[:, 0], 0.2 + 0.8 * np.log1p(np.exp(out[:, 1]))
        nll = 0.5 * ((target - mean) / sd) ** 2 + np.log(sd * np.sqrt(2 * np.pi))
        assert abs(nll.mean() - float(values[i])) < 1e-10


def test_both_targets_and_the_record():
    family = gp([0, 4], 6, bucket=10)
    learner = new(lambda f: CNP(f, Linear, targets="both", sigma_floor=0.05, **SMALL_PROCESS), family)
    plain, batch = family.sample("train", torch.arange(10)), learner.train_batch(torch.arange(10))
    assert torch.equal(batch.query.y, torch.cat((plain.support.y, plain.query.y), 1))
    assert torch.equal(batch.support.x, plain.support.x)
    record = {"targets": "both", "context_in_targets": True, "context": [0, 4], "sigma_floor": 0.05}
    assert learner.finish(validator(learner)) == record
    classes = new(lambda f: ACNP(f, Linear, **SMALL_PROCESS, heads=2), pictures(shots=2))
    assert classes.finish(validator(classes))["context"] == [2, 2]
    assert list(learner.metrics) == ["log_likelihood", "mse", "coverage50", "coverage90"]


def test_behind_a_network_the_mean_learns_at_default_settings():
    """With torch's initial weights the deviation learns the targets' spread and the mean stays where it is."""

    def trained(*typed):
        config = load(["algo=cnp", "task=linear", "model=mlp", "device=cpu", "compile=false", "steps=150", *typed])
        experiment = Experiment(config)
        for index in range(config["steps"]):
            experiment.training.advance(index)
        return evaluate(experiment.learner, "val", 100, ["queries"], final=True).first("mse").mean()

    known = float(baselines(Maps(), "val", 100, ["mean"])["mean"]["mse"].mean())
    assert trained() < 0.5 * known
    assert trained("algo.init=torch", "algo.skip=false") > 0.5 * known


def test_of_vectors_x_itself_stands_beside_the_features():
    net = partial(MLP, hidden=[6])
    assert CNP(gp(), net, skip=True).inputs == 7
    assert CNP(gp(), net).inputs == 6
    assert CNP(gp(), Linear, skip=True).inputs == 1  # it is all there is
    assert CNP(pictures(), net, skip=True).inputs == 6
    x = torch.randn(4, 1)
    learner = CNP(gp(), net, skip=True)
    assert torch.equal(learner.features(x)[:, 6:], x)
    assert torch.equal(learner.features(x)[:, :6], learner.model(x))


def test_he_keeps_the_scale_of_a_signal_through_the_layers():
    torch.manual_seed(0)
    x = torch.randn(2000, 64)
    with torch.no_grad():
        spread = {init: make(perceptron(64, 256, 200, 7))(x).std(0).mean() for init, make in SCALES.items()}
    assert 0.5 < spread["he"] < 2
    assert spread["torch"] < 0.1


SCALES = {"he": keep_scale, "torch": lambda network: network}
