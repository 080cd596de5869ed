"""Joint training in float64: closed forms on f(x) = w x, and the classifier over all training classes."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from references import LINE, Parabola, W, close, lines

from metaexp.algos.joint import Joint
from metaexp.contract import new, parameters, pictures, task
from metaexp.models.mlp import MLP


def test_joint_closed_form():
    """The plain gradient of the pooled loss; the fine-tuned weight after k steps."""
    learner = new(lambda f: Joint(f, LINE, batch=9, test_lr=0.01, test_epochs=4), lines())
    w = learner.model.head.weight.detach().flatten()
    pooled = Parabola(learner.family.pool("train", torch.arange(6), 9))
    gradient, value, _ = learner.meta_gradient(parameters(learner), learner.train_batch(torch.arange(6)))
    close(gradient[W].flatten(), pooled.gradient(w).mean()[None])
    close(value, pooled.loss(w).mean())
    one = task(learner.family.sample("test", torch.arange(1)), 0)
    path = torch.stack([p["head.weight"].flatten()[0] for p in learner.path(one.support, one.key, 4)])
    close(path, torch.stack([Parabola(one.support).descend(w, 0.01, k)[0] for k in range(5)]))


def test_joint_on_classes_is_a_classifier_over_all_training_classes():
    learner = new(lambda f: Joint(f, partial(MLP, hidden=[8]), batch=6, test_lr=0.1), pictures())
    assert learner.model.head.out_features == 10
    pooled = learner.family.pool("train", torch.arange(4), 6)
    gradient, value, logs = learner.meta_gradient(parameters(learner), learner.train_batch(torch.arange(4)))
    logits = learner.model(pooled.x.flatten(0, 1))
    labels = pooled.y.flatten(0, 1).argmax(-1)
    loss = F.cross_entropy(logits, labels)
    grads = torch.autograd.grad(loss, list(learner.meta_parameters().values()))
    close(gradient, dict(zip(learner.meta_parameters(), grads, strict=True)))
    close(value, loss.detach())
    close(logs["accuracy"], (logits.argmax(-1) == labels).double().mean())


def test_joint_draws_a_new_head_for_every_test_task():
    learner = new(lambda f: Joint(f, partial(MLP, hidden=[9]), test_lr=0.1, test_epochs=2), pictures(ways=3))
    episode = learner.family.sample("test", torch.arange(400))
    heads = []
    with torch.no_grad():
        for i in range(400):
            one = task(episode, i)
            start = learner.path(one.support, one.key, 0)[0]
            assert start["head.weight"].shape == (3, 9)
            assert torch.equal(start["body.0.weight"], learner.model.body[0].weight)
            heads.append(torch.cat([start["head.weight"].flatten(), start["head.bias"]]))
    drawn = torch.stack(heads)
    assert drawn.abs().max() <= 1 / 3  # torch's own initialisation: U[-1/sqrt(n), 1/sqrt(n)]
    assert abs(float(drawn.std()) - (1 / 3) / 3**0.5) < 0.005
    assert len(drawn[:, 0].unique()) == 400
    one = task(episode, 0)
    assert learner.predict(learner.adapt(one.support, one.key), one.query.x).shape == (6, 3)


def test_joint_needs_a_head_for_new_classes():
    with pytest.raises(ValueError, match="model: joint training needs a network with a linear layer named head"):
        Joint(pictures(), lambda x_shape, out: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, out)))
