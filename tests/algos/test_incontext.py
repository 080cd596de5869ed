"""The in-context learner in float64 against one masked transformer in numpy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from references import CONTEXT, F64, answers, batch_of, close, families, made, sines
from torch import nn

from metaexp.contract import pictures, rows, task
from metaexp.models.transformer import TokenNorm


def numpy_masked(learner, z, y, z_query):
    """One transformer over support and queries together, whose mask shows every token the support set alone."""
    w = {name: p.detach().numpy() for name, p in learner.named_parameters()}
    erf = np.vectorize(math.erf)

    def linear(name, t):
        return t @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name, t):
        t = t - t.mean(-1, keepdims=True)
        return t / np.sqrt(t.var(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    n, total, heads = len(z), len(z) + len(z_query), 2
    tokens = linear("embed_x", np.concatenate((z, z_query)))
    tokens[:n] += linear("embed_y", y)
    mask = np.where(np.arange(total)[None] < n, 0.0, -np.inf) * np.ones((total, 1))
    for i in range(3):
        name = f"transformer.blocks.{i}"
        t = norm(f"{name}.norm", tokens)
        q, k, v = (linear(f"{name}.{part}", t) for part in ("query", "key", "value"))
        found = []
        for h in range(heads):
            own = slice(4 * h, 4 * h + 4)
            scores = q[:, own] @ k[:, own].T / 2.0 + mask
            weights = np.exp(scores - scores.max(1, keepdims=True))
            found.append(weights / weights.sum(1, keepdims=True) @ v[:, own])
        tokens = tokens + linear(f"{name}.out", np.concatenate(found, 1))
        hidden = linear(f"{name}.up", norm(f"{name}.norm_mlp", tokens))
        tokens = tokens + linear(f"{name}.down", hidden * 0.5 * (1 + erf(hidden / math.sqrt(2))))
    return linear("answer", norm("transformer.norm", tokens))[n:]


@families
def test_kept_keys_and_values_equal_one_masked_transformer_in_numpy_over_200_tasks(family):
    learner = made(CONTEXT, family())
    episodes = batch_of(learner, 200)
    found = answers(learner, episodes).numpy()
    with torch.no_grad():
        z, q = (learner.features(part.x.flatten(0, 1)).unflatten(0, part.x.shape[:2]) for part in episodes[:2])
    for i in range(200):
        expected = numpy_masked(learner, z[i].numpy(), episodes.support.y[i].numpy(), q[i].numpy())
        assert abs(found[i] - expected).max() < 1e-11 * max(1, abs(expected).max())


def test_the_memory_is_made_once_and_as_large_as_the_support_set():
    learner = made(CONTEXT, sines())
    one = task(batch_of(learner, 1), 0)
    memories = learner.adapt(one.support, one.key)
    n = len(one.support.x)
    assert [tuple(t.shape) for memory in memories for t in memory] == [(2, n, 4)] * 6
    longer = torch.cat((one.query.x, one.query.x + 1))
    close(learner.predict(memories, longer)[: len(one.query.x)], learner.predict(memories, one.query.x))


def test_layer_norm_equals_torch():
    draw = torch.Generator().manual_seed(0)
    norm = TokenNorm(8).double()
    with torch.no_grad():
        norm.weight.copy_(torch.rand(8, generator=draw, dtype=F64))
        norm.bias.copy_(torch.rand(8, generator=draw, dtype=F64))
    x = torch.randn(200, 5, 8, generator=draw, dtype=F64) * 10
    close(norm(x), F.layer_norm(x, (8,), norm.weight, norm.bias, 1e-5))


def test_the_picture_is_the_mean_attention_of_the_first_task():
    learner = made(CONTEXT, sines())
    episodes = batch_of(learner, 3)
    views = learner.views(episodes)
    assert list(views) == ["attention_layer0", "attention_layer1", "attention_layer2"]
    one = task(episodes, 0)
    query, support = (rows(part, part.x.flatten().argsort()) for part in (one.query, one.support))
    block = learner.transformer.blocks[0]
    with torch.no_grad():
        t = block.norm(learner.embed_x(learner.features(support.x)) + learner.embed_y(support.y))
        q, k = block.query(block.norm(learner.embed_x(learner.features(query.x)))), block.key(t)
        heads = [torch.softmax(q[:, h] @ k[:, h].T / 2, 1) for h in (slice(0, 4), slice(4, 8))]
    close(views["attention_layer0"].values, sum(heads) / 2)
    for view in views.values():
        assert view.values.shape == (len(query.x), len(support.x))
        close(view.values.sum(1), torch.ones(len(query.x), dtype=F64))
        assert view.row_names == [f"{x:.2f}" for x in query.x.flatten().tolist()]
        assert view.column_names == [f"{x:.2f}" for x in support.x.flatten().tolist()]
    classes = made(CONTEXT, pictures(shots=2))
    assert classes.views(batch_of(classes, 2))["attention_layer0"].column_names == ["0", "0", "1", "1", "2", "2"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: CONTEXT(f, heads=3), r"^width=8: must be a multiple of heads=3"),
        (lambda f: CONTEXT(f, layers=0), r"^layers=0: must be at least 1"),
        (lambda f: CONTEXT(f, hidden=0), r"^hidden=0: must be at least 1"),
        (lambda f: CONTEXT(f, normalise="no"), r"^normalise=no: must be running or batch"),
        (lambda f: CONTEXT(f, model=nn.Linear(1, 1)), r"^model: InContext needs a network with a layer named head"),
    ],
)
def test_a_setting_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(sines())


def test_other_ways_at_test_are_refused():
    with pytest.raises(ValueError, match=r"^task.test.ways=2: InContext has one output per class, so task.ways=3 too"):
        CONTEXT(pictures(ways=3, test={"ways": 2}))
