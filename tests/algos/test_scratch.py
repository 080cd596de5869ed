"""Training from scratch: the closed form on f(x) = w x; more in test_finetune.py."""

import torch
from references import LINE, Parabola, close, lines

from metaexp.algos.scratch import Scratch
from metaexp.contract import new, task
from metaexp.inner import SGD


def test_scratch_closed_form():
    learner = new(lambda f: Scratch(f, LINE, test_lr=0.01, test_epochs=4, inner=SGD()), lines())
    w = learner.model.head.weight.detach().flatten()
    one = task(learner.family.sample("test", torch.arange(1)), 0)
    assert learner.test_steps == 4
    close(
        learner.adapt(one.support, one.key)["head.weight"].flatten(), Parabola(one.support).descend(w, 0.01, 4)[None, 0]
    )
    assert not learner.trains
