"""Checks that ANY algorithm, task family and network must pass, including your own.

    from metaexp.contract import check_family, check_learner, check_model

    def test_my_method():
        check_learner(lambda family: MyMethod(family, partial(MLP, hidden=[8])), Sine(shots=5, queries=5))

All checks run in float64 on the CPU, and raise AssertionError with a message about what is wrong. `audit` asks further
questions and returns a table instead: are the numbers of a learner on a family to be trusted?
"""

import copy
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from metaexp.algos.base import MODES, MetaLearner
from metaexp.algos.views import Heatmap, Scatter
from metaexp.audit.auditor import audit
from metaexp.audit.measures import finite_differences, largest, largest_difference, parameters, rows, task
from metaexp.contract.worlds import check_actor, check_world
from metaexp.evaluation.scores import evaluate, score, validator
from metaexp.mapping import map_tasks
from metaexp.outer.meta_training import MetaTraining
from metaexp.tasks.base import TaskFamily
from metaexp.tasks.classes import Classes
from metaexp.types import Episode, Examples

__all__ = [
    "audit", "check_actor", "check_family", "check_learner", "check_model", "check_world", "finite_differences",
    "largest", "largest_difference",
    "new", "parameters", "pictures", "rows", "task",
]  # fmt: skip
SPLITS = ("train", "val", "test")
Make = Callable[[TaskFamily], MetaLearner]


def pictures(side: int = 8, ways: int = 3, shots: int = 2, queries: int = 2, **settings: Any) -> Classes:
    """A small family of image classes, 1 x side x side: 10 for training, 5 for validation and 5 for test."""
    draw = torch.Generator().manual_seed(0)
    each = 12
    centres = torch.rand(20, 1, 1, side, side, generator=draw, dtype=torch.float64)
    data = centres + 0.3 * torch.rand(20, each, 1, side, side, generator=draw, dtype=torch.float64)
    splits = {"train": list(range(10)), "val": list(range(10, 15)), "test": list(range(15, 20))}
    family = Classes(data.flatten(0, 1), [each] * 20, splits, shots, queries, ways, **settings)
    family.to("cpu", torch.float64)
    return family


def new(make: Make, family: TaskFamily, seed: int = 0) -> MetaLearner:
    """A learner in float64, with weights drawn with this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(family).to(torch.float64)


# --- families -------------------------------------------------------------------------------------------------------


def check_family(family: TaskFamily, tasks: int = 50) -> None:
    """Check what `metaexp.tasks.base` requires of every task family."""
    family.to("cpu", torch.float64)
    index = torch.arange(tasks)
    seen: set[int] = set()
    for split in SPLITS:
        episode = family.sample(split, index)
        _check_shapes(family, split, episode)
        for part in (torch.tensor([tasks - 1]), torch.arange(1, tasks, 3).flip(0)):
            _equal([leaf[part] for leaf in tree_leaves(episode)], tree_leaves(family.sample(split, part)), "batch")
        keys = set(episode.key.tolist())
        assert len(keys) == tasks, f"{split}: two tasks share a key"
        assert not keys & seen, f"{split}: shares a task with another split"
        seen |= keys
        other = copy.copy(family)
        other.seed = family.seed + 1
        same = torch.equal(episode.query.x, other.sample(split, index).query.x)
        assert same == (split != "train"), f"{split}: {'does not depend' if same else 'depends'} on the seed"
        _check_nested(family, split, index)
    _check_pool(family)


def _equal(a: list[Tensor], b: list[Tensor], what: str) -> None:
    assert len(a) == len(b)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True)), f"the same task has different values: {what}"


def _check_shapes(family: TaskFamily, split: str, episode: Episode) -> None:
    sizes, tasks = family.sizes[split], len(episode.key)
    ways = sizes["ways"] or 1
    for part, size in ((episode.support, sizes["shots"] or 0), (episode.query, sizes["queries"] or 0)):
        width = ways if family.classification else family.y_dim
        assert part.x.shape == (tasks, ways * size, *family.x_shape)
        assert part.y.shape == (tasks, ways * size, width)
        assert part.x.dtype == part.y.dtype == torch.float64
        assert part.x.isfinite().all()
        assert part.y.isfinite().all()
        if family.classification:
            assert bool(((part.y == 0) | (part.y == 1)).all()), "classes are one-hot"
            assert (part.y.sum(-1) == 1).all(), "one class per example"
            assert (part.y.sum(-2) == size).all(), f"{size} examples per class"
    assert episode.key.shape == (tasks,)
    assert episode.key.dtype == torch.int64
    assert all(len(value) == tasks for value in episode.info.values())


def _check_nested(family: TaskFamily, split: str, index: Tensor) -> None:
    """A support set with fewer shots is the beginning of one with more; the queries do not depend on the shots."""
    shots = max(2, int(family.sizes[split]["shots"] or 1))
    try:
        more, fewer = family.sample(split, index, shots=shots), family.sample(split, index, shots=1)
    except ValueError:
        return  # the data do not have that many
    _equal([*more.query], [*fewer.query], "queries with more shots")
    ways = family.sizes[split]["ways"] or 1
    for one, all_of_them in zip(fewer.support, more.support, strict=True):
        first = [_by_class(family, part, more_or_fewer) for part, more_or_fewer in ((all_of_them, more), (one, fewer))]
        assert first[0].shape[:3] == (len(index), ways, shots)
        assert torch.equal(first[0][:, :, :1], first[1]), "the 1-shot support set is not the beginning of a larger one"


def _by_class(family: TaskFamily, values: Tensor, episode: Episode) -> Tensor:
    """[tasks, n, ...] -> [tasks, ways, shots, ...], in the order of each class; one class for regression."""
    if not family.classification:
        return values.unsqueeze(1)
    order = episode.support.y.argmax(-1).argsort(dim=-1, stable=True)
    ordered = torch.stack([v[o] for v, o in zip(values, order, strict=True)])
    return ordered.unflatten(1, (episode.support.y.shape[-1], -1))


def _check_pool(family: TaskFamily) -> None:
    whole = family.pool("train", torch.arange(6), 4)
    assert whole.x.shape == (6, 4, *family.x_shape)
    assert whole.y.shape == (6, 4, family.pool_dim)
    part = torch.tensor([5, 2])
    _equal([t[part] for t in whole], [*family.pool("train", part, 4)], "pool")
    if family.classification:
        assert (whole.y.sum(-1) == 1).all()


# --- learners -------------------------------------------------------------------------------------------------------


def check_learner(make: Make, family: TaskFamily, tasks: int = 200) -> None:
    """Check what `metaexp.algos.base` requires of every meta-learner.

    Args:
        make: makes the learner for a family, e.g. `lambda family: MAML(family, partial(MLP, hidden=[8]))`.
        family: a small family of the kind that the learner is for; it is set to float64.
        tasks: number of tasks over which the meta-loss and its gradient must be finite.
    """
    family.to("cpu", torch.float64)
    first, second = new(make, family).state_dict(), new(make, family).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items()), "the seed does not fix the weights"
    state = torch.get_rng_state()
    learner = new(make, family)
    if not learner.reads_info:  # otherwise examples alone are not enough
        _check_one_task(learner)
        _check_path(learner)
    if learner.trains:
        _check_meta_loss(learner, tasks)
        _check_training(learner)
    _check_test(learner)
    _check_views(learner)
    if not learner.reads_info:
        _check_saving(learner, new(make, family, seed=1))
    assert torch.equal(state, torch.get_rng_state()), "draws from torch's global generator: draw from the task's key"


def prediction_shape(learner: MetaLearner, y: Tensor) -> tuple[int, int]:
    """Shape of the prediction for targets y [n, y_dim]; a Gaussian prediction has means and standard deviations."""
    return len(y), y.shape[-1] * (2 if "coverage50" in learner.metrics else 1)


def _check_one_task(learner: MetaLearner) -> None:
    family = learner.family
    index = torch.tensor([3, 4])
    one, other = (task(family.sample("test", index), i) for i in range(2))
    with torch.no_grad():
        adapted = learner.adapt(one.support, one.key)
        predicted = learner.predict(adapted, one.query.x)
        assert predicted.shape == prediction_shape(learner, one.query.y)
        assert predicted.isfinite().all()
        learner.predict(learner.adapt(other.support, other.key), other.query.x)
        assert torch.equal(predicted, learner.predict(adapted, one.query.x)), "predict depends on earlier calls"
        if learner.permutation_invariant:
            order = torch.arange(len(one.support.x)).flip(0)
            again = learner.predict(learner.adapt(rows(one.support, order), one.key), one.query.x)
            assert largest_difference(again, predicted) < 1e-8, "depends on the order of the support examples"
        empty = [] if family.classification else [{"shots": 0}]  # a support set may be empty
        for sizes in ({"shots": 1}, {"queries": 0}, *empty):
            small = task(family.sample("test", index, **sizes), 0)
            out = learner.predict(learner.adapt(small.support, small.key), small.query.x)
            assert out.shape == prediction_shape(learner, small.query.y)
            assert out.isfinite().all(), f"not finite with {sizes}"


def _check_path(learner: MetaLearner) -> None:
    """The path has steps + 1 points, or 1; the first is before adaptation; a shorter path is the start of a longer."""
    episode = learner.family.sample("test", torch.tensor([0, 1]))
    one, other = task(episode, 0), task(episode, 1)

    def curve(support: Examples, steps: int) -> list[Tensor]:
        return [learner.predict(point, one.query.x) for point in learner.path(support, one.key, steps)]

    with torch.no_grad():
        long = curve(one.support, 3)
        assert len(long) in (1, 4), f"{len(long)} points for 3 steps"
        assert all(point.isfinite().all() for point in long)
        if len(long) == 4:
            assert torch.equal(curve(other.support, 3)[0], long[0]), "path[0] depends on the support set"
            assert not torch.equal(curve(other.support, 3)[1], long[1]), "path[1] does not depend on the support set"
            for steps in (0, 1):
                short = curve(one.support, steps)
                assert len(short) == steps + 1
                assert all(torch.equal(a, b) for a, b in zip(short, long, strict=False))


def _check_meta_loss(learner: MetaLearner, tasks: int) -> None:
    """Finite, with a finite gradient, over all tasks; over the first few, the same under every mapping of tasks."""
    learner.settle()
    mappings: tuple[str | int, ...] = () if learner.mapping_reason else ("vmap", 3)
    learner.set_mapping(mappings[0] if mappings else "loop", "cpu", tried=True)
    batch = learner.train_batch(torch.arange(tasks))._replace(info={})
    with torch.no_grad():
        losses, _ = map_tasks(learner.task_loss, batch, learner.mapping)
    assert losses.shape == (tasks,)
    assert losses.isfinite().all(), f"meta-loss not finite on tasks {(~losses.isfinite()).nonzero().flatten().tolist()}"
    gradient, value, _ = learner.meta_gradient(parameters(learner), batch)
    assert all(g.isfinite().all() for g in gradient.values()), "meta-gradient not finite"
    assert any(bool(g.any()) for g in gradient.values()), "meta-gradient is 0"
    assert abs(float(value - losses.mean())) < 1e-10 * max(1.0, abs(float(value)))
    few = learner.train_batch(torch.arange(10))._replace(info={})
    found = {}
    for mapping in (*mappings, "loop"):
        learner.set_mapping(mapping, "cpu", tried=True)
        found[mapping] = learner.meta_gradient(parameters(learner), few)[:2]
    for mapping in mappings:
        assert largest_difference(found[mapping], found["loop"]) < 1e-10, f"{mapping} and loop differ"
    learner.set_mapping("loop" if learner.mapping_reason else "auto", "cpu", tried=True)
    no_queries = few._replace(query=Examples(few.query.x[:, :0], few.query.y[:, :0]))
    gradient, value, _ = learner.meta_gradient(parameters(learner), no_queries)
    assert value.isfinite(), "meta-loss not finite without queries"
    assert all(g.isfinite().all() for g in gradient.values()), "meta-gradient not finite without queries"


def _check_training(learner: MetaLearner) -> None:
    before = parameters(learner)
    loop = MetaTraining(learner, torch.optim.SGD(learner.meta_parameters().values(), lr=0.01), meta_batch=4)
    steps = [loop.step(i) for i in range(2)]
    assert all(step.loss.isfinite() and step.norm.isfinite() for step in steps)
    after = parameters(learner)
    assert all(p.isfinite().all() for p in after.values())
    assert largest_difference(after, before) > 0, "two outer steps changed nothing"
    assert int(learner.meta_step.item()) == 2  # type: ignore[operator]


def _check_test(learner: MetaLearner) -> None:
    learner.finish(validator(learner))
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    scores = evaluate(learner, "test", 5, list(MODES), chunk=5)
    again = evaluate(learner, "test", 5, list(MODES), chunk=2)
    assert scores.query_sha256 == again.query_sha256
    for name, values in scores.arrays.items():
        assert values.shape == (5, len(learner.test_path(task(learner.family.sample("test", torch.tensor([0])), 0))))
        assert abs(values - again.arrays[name]).max() < 1e-9, "scores depend on the chunk"
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items()), "testing changed it"
    empty = learner.family.sample("test", torch.arange(2), shots=1, queries=0)
    empty = empty if learner.reads_info else empty._replace(info={})
    with torch.no_grad():
        found = map_tasks(lambda e: score(learner, e, learner.modes(list(MODES))), empty, learner.mapping)
    assert all(value.isfinite().all() for value in found.values()), "a metric over 0 queries is 0, not NaN"


def _check_views(learner: MetaLearner) -> None:
    """The shapes and names in a method's views are consistent; figures are drawn from them."""
    with torch.no_grad():
        views = learner.views(learner.family.sample("test", torch.arange(4)))
    for name, view in views.items():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", name), f"view {name!r}: the name becomes that of a file"
        if isinstance(view, Scatter):
            assert view.points.dim() == 2
            assert len(view.points) == len(view.colour) == len(view.kind)
        elif isinstance(view, Heatmap):
            assert view.values.dim() == 2
            assert len(view.row_names) in (0, view.values.shape[0])
            assert len(view.column_names) in (0, view.values.shape[1])
        else:
            assert view.values.shape == (len(view.names),)


def _check_saving(learner: MetaLearner, other: MetaLearner) -> None:
    other.load_state_dict(learner.state_dict())
    one = task(learner.family.sample("val", torch.tensor([0])), 0)
    with torch.no_grad():
        a, b = (m.predict(m.adapt(one.support, one.key), one.query.x) for m in (learner, other))
    assert torch.equal(a, b), "state_dict does not hold all that a prediction needs"


# --- networks -------------------------------------------------------------------------------------------------------


def check_model(make: Callable[[tuple[int, ...], int], nn.Module], x_shape: tuple[int, ...], out: int = 3) -> None:
    """Check that a network maps [n, *x_shape] to [n, out], finite, also for n = 1, with a gradient per parameter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make(x_shape, out).double()
        x = torch.randn(6, *x_shape, dtype=torch.float64)
        weight = torch.randn(6, out, dtype=torch.float64)
    prediction = model(x)
    assert prediction.shape == (6, out)
    assert prediction.isfinite().all()
    (weight * prediction).sum().backward()
    zero = []
    for name, p in model.named_parameters():
        assert p.grad is not None, f"no gradient reaches {name}"
        assert p.grad.isfinite().all(), f"the gradient of {name} is not finite"
        zero += [] if p.grad.any() else [name]
    if zero:  # at the start alone, behind a layer that begins at 0?
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for p in moved.parameters():
                p.add_(0.1 * torch.cos(torch.arange(p.numel()).to(p)).view(p.shape))
        moved.zero_grad()
        (weight * moved(x)).sum().backward()
        for name in zero:
            gradient = moved.get_parameter(name).grad
            assert gradient is not None, f"no gradient reaches {name}"
            assert gradient.any(), f"the gradient of {name} is 0"
    assert model(x[:1]).shape == (1, out)
    assert torch.equal(model(x), prediction), "a second call gives a different result"
