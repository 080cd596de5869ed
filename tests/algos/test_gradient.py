"""What all gradient methods share: settings of the test, and one output per class."""

import pytest
import torch
from references import LINE, NET, Parabola, close, lines

from metaexp.algos.anil import ANIL
from metaexp.algos.boil import BOIL
from metaexp.algos.maml import MAML
from metaexp.algos.metasgd import MetaSGD
from metaexp.algos.reptile import Reptile
from metaexp.contract import new, pictures, task


@pytest.mark.parametrize("make", [MAML, Reptile])
def test_rates_and_steps_at_test_are_settings_of_their_own(make):
    learner = new(lambda f: make(f, LINE, inner_lr=0.02, inner_steps=2, test_lr=0.005, test_steps=7), lines())
    w = learner.model.head.weight.detach().flatten()
    one = task(learner.family.sample("test", torch.arange(1)), 0)
    support = Parabola(one.support)
    assert learner.test_steps == 7
    with torch.no_grad():
        path = torch.stack([p["head.weight"].flatten()[0] for p in learner.path(one.support, one.key, 7)])
        adapted = learner.adapt(one.support, one.key)["head.weight"].flatten()
    close(path, torch.stack([support.descend(w, 0.005, k)[0] for k in range(8)]))
    close(adapted, support.descend(w, 0.02, 2))
    same = make(lines(), LINE, inner_lr=0.02, inner_steps=2)
    assert (same.test_lr, same.test_steps) == (0.02, 2)


@pytest.mark.parametrize("make", [ANIL, BOIL, MetaSGD])
def test_other_ways_at_test_are_refused_where_the_head_is_kept(make):
    with pytest.raises(ValueError, match=r"^task.test.ways=2: \w+ has one output per class, so task.ways=3 too"):
        make(pictures(ways=3, test={"ways": 2}), NET)
