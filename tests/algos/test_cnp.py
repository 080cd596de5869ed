"""CNP in float64 against numpy; more in test_neural_process.py."""

import numpy as np
import torch
from references import SMALL_PROCESS, forward, gp, parts_of
from torch.func import vmap

from metaexp.algos.acnp import ACNP
from metaexp.algos.cnp import CNP
from metaexp.contract import new, pictures
from metaexp.evaluation.scores import validator
from metaexp.models.linear import Linear


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
