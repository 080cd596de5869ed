"""Gaussian clusters: closed forms."""

import math
from functools import partial

import torch
from torch.func import vmap

from metaexp.algos.protonet import ProtoNet
from metaexp.contract import check_learner
from metaexp.metrics import accuracy
from metaexp.models.mlp import MLP
from metaexp.tasks.clusters import Clusters


def double(family):
    return family.to("cpu", torch.float64)


def oracle(family, episode):
    """The oracle of every task on its queries: [tasks, m, out]."""
    return vmap(family.oracle)(episode, episode.query.x)


def test_clusters_have_their_centres_and_widths():
    family = double(Clusters(5, 15, ways=4, dim=3, spread=2.0, noise=0.5))
    episode = family.sample("train", torch.arange(500))
    centres = episode.info["centres"]  # [500, 4, 3]
    assert centres.shape == (500, 4, 3)
    assert abs(float(centres.mean())) < 4 * 2 / math.sqrt(centres.numel())
    assert abs(float(centres.std()) - 2) < 4 * 2 / math.sqrt(2 * centres.numel())
    errors = []
    for part, k in ((episode.support, 5), (episode.query, 15)):
        assert torch.equal(part.y.argmax(-1), torch.arange(4).repeat_interleave(k).expand(500, -1))  # class after class
        errors.append((part.x.view(500, 4, k, 3) - centres[:, :, None]) / 0.5)
        assert abs(float(errors[-1].mean())) < 4 / math.sqrt(errors[-1].numel())
        assert abs(float(errors[-1].std()) - 1) < 4 / math.sqrt(2 * errors[-1].numel())
    between = (errors[0] * errors[1][:, :, :5]).mean()  # support and queries are independent
    assert abs(float(between)) < 4 / math.sqrt(errors[0].numel())
    more = family.sample("train", torch.arange(500), ways=9)
    assert torch.equal(more.info["centres"][:, :4], centres)
    assert torch.equal(more.query.x[:, :60], episode.query.x)


def test_the_bayes_classifier():
    """Two classes at a distance r are told apart with probability Phi(r / (2 noise))."""
    family = double(Clusters(1, 200, ways=2, dim=3, noise=0.8))
    episode = family.sample("test", torch.arange(400))
    logits = oracle(family, episode)
    a, b = episode.info["centres"].unbind(1)
    r = (a - b).norm(dim=-1)
    normal = torch.distributions.Normal(0.0, 1.0)
    chance = normal.cdf(r / 1.6)
    found = vmap(accuracy)(logits, episode.query.y)
    assert abs(float((found - chance).mean())) < 4 * 0.5 / math.sqrt(400 * 400)
    assert float(((found - chance) / (chance * (1 - chance) / 400 + 1e-6).sqrt()).abs().max()) < 6
    # the logits are log densities up to a constant of the row
    density = torch.stack(
        [torch.distributions.Normal(c[:, None], 0.8).log_prob(episode.query.x).sum(-1) for c in (a, b)], -1
    )
    assert torch.allclose(logits.log_softmax(-1), density.log_softmax(-1), atol=1e-10)


def test_the_pool_has_classes_of_its_own():
    family = double(Clusters(noise=0.01, pool_classes=6, dim=2))
    assert family.pool_dim == 6
    means = {}
    for split in ("train", "val"):
        x, y = (t.flatten(0, 1) for t in family.pool(split, torch.arange(50), 60))
        means[split] = (y.T @ x) / y.sum(0)[:, None]
        assert abs(y.mean(0) - 1 / 6).max() < 4 * math.sqrt(5 / 36 / len(y))
        assert float((x - y @ means[split]).abs().max()) < 0.06  # each class is one cluster in all batches
    assert float(torch.cdist(means["train"], means["val"]).min()) > 0.005
    assert (
        not torch.isclose(
            family.sample("train", torch.arange(300)).info["centres"].view(-1, 1, 2), means["train"], atol=1e-3
        )
        .all(-1)
        .any()
    )
    other = double(Clusters(noise=0.01, pool_classes=6, dim=2, seed=1)).pool("train", torch.arange(50), 60)
    assert not torch.equal(other.x.flatten(0, 1), family.pool("train", torch.arange(50), 60).x.flatten(0, 1))


def test_learners_keep_their_contract_on_clusters():
    check_learner(lambda f: ProtoNet(f, partial(MLP, hidden=[6])), Clusters(2, 2, ways=3, test={"ways": 5, "shots": 1}))
