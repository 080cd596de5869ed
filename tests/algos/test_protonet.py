"""Prototypical networks in float64 against plain loops over classes and queries."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from references import CNN, F64, NET, close, cross_entropy, gradients, mlp, same_gradient, shaken, sines
from torch import Tensor, nn

from metaexp.algos.protonet import ProtoNet
from metaexp.config.settings import Settings
from metaexp.contract import new, pictures, task
from metaexp.errors import ConfigError
from metaexp.evaluation.scores import evaluate
from metaexp.models.identity import Identity
from metaexp.models.linear import Linear
from metaexp.outer.meta_training import MetaTraining
from metaexp.tasks.clusters import Clusters
from metaexp.types import Examples


def plain_logits(z: Tensor, labels: Tensor, queries: Tensor, ways: int, distance: str, scale: float) -> Tensor:
    """Class by class, query by query."""
    rows = []
    for q in queries:
        row = []
        for k in range(ways):
            members = [z[i] for i in range(len(z)) if labels[i] == k]
            centre = sum(members) / len(members)
            if distance == "euclidean":
                row.append(-sum((a - b) ** 2 for a, b in zip(q, centre, strict=True)))
            else:
                row.append(q @ centre / (q.norm() * centre.norm()) - 1)
        rows.append(scale * torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize(("distance", "scale"), [("euclidean", 1.0), ("cosine", 7.0)])
def test_protonet_equals_a_plain_loop(distance, scale):
    make = partial(ProtoNet, model=NET, distance=distance, scale=scale, embedding=5)
    learner = new(lambda f: make(f), pictures(shots=3, queries=2))
    batch = learner.train_batch(torch.arange(6))
    params = {k: p.detach().clone().requires_grad_() for k, p in learner.model.named_parameters()}
    total = torch.zeros((), dtype=F64)
    for i in range(6):
        one = task(batch, i)
        z, queries = mlp(params, one.support.x.flatten(1)), mlp(params, one.query.x.flatten(1))
        assert z.shape == (9, 5)
        logits = plain_logits(z, one.support.y.argmax(-1), queries, 3, distance, scale)
        close(learner.predict(learner.adapt(one.support, one.key), one.query.x), logits)
        total = total + cross_entropy(logits, one.query.y) / 6
    exact = torch.autograd.grad(total, list(params.values()))
    gradient, value = gradients(learner, batch)
    close(value, total)
    same_gradient(gradient, {f"model.{k}": g for k, g in zip(params, exact, strict=True)})


def test_prototypes_of_unequal_classes_are_means():
    learner = new(lambda f: ProtoNet(f, NET), pictures())
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    y = F.one_hot(torch.tensor([2, 0, 0, 2, 0]), 4).to(F64)
    found = learner.fit(z, y, torch.tensor(0))
    close(found[0], z[[1, 2, 4]].mean(0))
    close(found[2], z[[0, 3]].mean(0))
    assert not found[[1, 3]].any()  # no examples: finite all the same


class TorchNet(nn.Module):
    """CNN4 without its head, in torch's own layers."""

    def __init__(self, learner):
        super().__init__()
        blocks = zip(learner.model.convolutions, learner.model.norms, strict=True)
        self.blocks = nn.ModuleList()
        for convolution, norm in blocks:
            own = nn.Sequential(nn.Conv2d(convolution.in_channels, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU()).double()
            own[0].load_state_dict(convolution.state_dict())
            own[1].load_state_dict({"weight": norm.weight, "bias": norm.bias}, strict=False)
            self.blocks.append(own)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))


@pytest.mark.parametrize("mapping", ["vmap", "loop"])
def test_running_averages_are_those_of_torch(mapping):
    """Five steps on one episode each in torch's training mode, then a prediction in its eval mode."""
    learner = shaken(new(lambda f: ProtoNet(f, CNN, mapping=mapping), pictures(side=16, shots=2, queries=3)))
    reference = TorchNet(learner)
    loop = MetaTraining(learner, torch.optim.SGD(learner.meta_parameters().values(), lr=0.1), meta_batch=1)
    optimiser = torch.optim.SGD(reference.parameters(), lr=0.1)
    for step in range(5):
        one = task(learner.train_batch(torch.tensor([step])), 0)
        z = reference(torch.cat((one.support.x, one.query.x)))
        logits = plain_logits(z[:6], one.support.y.argmax(-1), z[6:], 3, "euclidean", 1.0)
        optimiser.zero_grad()
        loss = cross_entropy(logits, one.query.y)
        loss.backward()
        optimiser.step()
        result = loop.step(step)
        close(result.loss, loss)
        assert "statistics" not in result.logs
    for block, norm in zip(reference.blocks, learner.model.norms, strict=True):
        close(norm.mean, block[1].running_mean, 1e-9)
        close(norm.variance, block[1].running_var, 1e-9)
        assert (norm.variance - 1).abs().max() > 0.1
    reference.eval()
    one = task(learner.family.sample("test", torch.tensor([0])), 0)
    with torch.no_grad():
        logits = plain_logits(
            reference(one.support.x), one.support.y.argmax(-1), reference(one.query.x), 3, "euclidean", 1
        )
        adapted = learner.adapt(one.support, one.key)
        close(learner.predict(adapted, one.query.x), logits, 1e-9)
        close(learner.predict(adapted, one.query.x[:1]), logits[:1], 1e-9)  # no other query has a say
    assert learner.modes(["queries", "single"]) == {"": "running"}
    assert list(evaluate(learner, "test", 3, ["queries", "single"]).arrays) == ["accuracy"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distance": "l1"}, "distance=l1: must be euclidean or cosine"),
        ({"scale": -1.0}, "scale=-1.0: must be above 0"),
        ({"embedding": 0}, "embedding=0: must be at least 1"),
        ({"model": Linear}, "embedding=None: the network has no parameter before its head; set embedding"),
    ],
)
def test_protonet_refuses(settings, message):
    with pytest.raises(ValueError) as caught:
        ProtoNet(pictures(), **{"model": NET} | settings)
    assert str(caught.value) == message


@pytest.mark.parametrize("task_name", ["sine", "linear", "arrays"])
def test_protonet_on_regression_is_refused_by_the_configuration(task_name):
    with pytest.raises(ConfigError, match=r"algo=protonet needs kind classification, task=.* gives regression; use"):
        Settings([], None).load(["algo=protonet", f"task={task_name}"])


def test_protonet_refuses_a_family_without_classes():
    with pytest.raises(ValueError, match=r"^family: ProtoNet needs classes, Sine is regression"):
        ProtoNet(sines(), NET)


def test_with_no_body_nothing_is_learned_and_class_means_of_the_inputs_are_compared():
    family = Clusters(ways=3, shots=2, queries=4)
    learner = ProtoNet(family, Identity)
    assert not learner.trains
    support, query, key, _ = family.sample("test", torch.arange(1))
    means = torch.stack([support.x[0, 2 * i : 2 * i + 2].mean(0) for i in range(3)])
    found = learner.predict(learner.adapt(Examples(support.x[0], support.y[0]), key[0]), query.x[0])
    assert torch.allclose(found, -(torch.cdist(query.x[0], means) ** 2), atol=1e-5)
