"""What hypernetworks and in-context learning share, in float64: sets, derivatives, and that they learn."""

from functools import partial

import pytest
import torch
from references import CNN, CONTEXT, HYPER, answers, batch_of, close, families, made, sines
from torch.func import hessian, jacrev, vmap

from metaexp.contract import finite_differences, parameters, pictures
from metaexp.models.mlp import MLP
from metaexp.outer.meta_training import MetaTraining
from metaexp.tasks.linear import Linear as LinearTasks
from metaexp.types import Examples

MAKES = {"hypernet": HYPER, "incontext": CONTEXT}
both = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
draw = torch.Generator().manual_seed(0)


@both
@families
def test_no_order_of_the_support_set_and_no_other_query_has_a_say_over_200_tasks(make, family):
    learner = made(make, family())
    episodes = batch_of(learner, 200)
    found = answers(learner, episodes)
    order = torch.randperm(episodes.support.x.shape[1], generator=draw)
    close(answers(learner, episodes._replace(support=Examples(*(t[:, order] for t in episodes.support)))), found)
    flipped = episodes._replace(support=Examples(episodes.support.x, episodes.support.y.flip(1)))
    assert (answers(learner, flipped) - found).abs().max() > 1e-3  # other pairs are another task
    close(answers(learner, episodes, episodes.query.x[:, 1:2]), found[:, 1:2])


@both
@families
def test_an_empty_support_set_gives_one_finite_answer_for_all_tasks(make, family):
    learner = made(make, family())
    episodes = batch_of(learner, 20)
    empty = episodes._replace(support=Examples(*(t[:, :0] for t in episodes.support)))
    found = answers(learner, empty, episodes.query.x[:1].expand_as(episodes.query.x))
    assert found.isfinite().all()
    close(found, found[:1].expand_as(found))
    gradient, value, _ = learner.meta_gradient(parameters(learner), empty)
    assert value.isfinite()
    assert all(g.isfinite().all() for g in gradient.values())


@both
@families
def test_the_meta_gradient_against_finite_differences(make, family):
    learner = made(make, family())
    assert finite_differences(learner, learner.train_batch(torch.arange(20))._replace(info={})) < 1e-6


@both
@pytest.mark.parametrize("mapping", ["vmap", "loop"])
def test_pictures_with_convolutions_against_finite_differences(make, mapping):
    learner = made(lambda f: make(f, model=CNN, mapping=mapping), pictures(side=16, shots=2))
    assert finite_differences(learner, learner.train_batch(torch.arange(4))._replace(info={})) < 1e-5


@both
def test_second_derivatives_in_the_inputs_are_right_under_vmap(make):
    """Of the predictor in its query, against central differences of the first derivative."""
    learner = made(make, sines())
    episodes = batch_of(learner, 20)

    def predictor(e):
        adapted = learner.adapt(e.support, e.key)
        return lambda x: learner.predict(adapted, x.view(1, 1)).view(())

    x = episodes.query.x[:, 0, 0]
    found = vmap(lambda e, at: hessian(predictor(e))(at))(episodes, x)
    up, down = (vmap(lambda e, at: jacrev(predictor(e))(at))(episodes, x + d) for d in (1e-5, -1e-5))
    assert found.abs().max() > 1e-2
    assert (found - (up - down) / 2e-5).abs().max() < 1e-7 * max(1, float(found.detach().abs().max()))


@both
def test_a_hundred_steps_teach_it_to_use_the_support_set(make):
    """In float32 on linear maps: the error is well below that with the support set of another task."""
    family = LinearTasks(shots=5, queries=10, inputs=1)
    torch.manual_seed(0)
    wide = {"encoder": [64, 64], "generator": [64]} if make is HYPER else {"width": 16, "layers": 2}
    learner = make(family, model=partial(MLP, hidden=[40, 40]), **wide)
    loop = MetaTraining(learner, torch.optim.Adam(learner.meta_parameters().values(), 5e-3), meta_batch=16)
    for step in range(100):
        loop.step(step)
    episodes = batch_of(learner, 200)
    other = episodes._replace(support=Examples(*(t.roll(1, 0) for t in episodes.support)))
    error, without = (float(((answers(learner, e) - e.query.y) ** 2).mean()) for e in (episodes, other))
    assert error < 0.25 * without
