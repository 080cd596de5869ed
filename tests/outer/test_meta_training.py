"""The outer step: clipping, accumulation, schedules, the finite check, the clock, and compiled against eager."""

import copy
from functools import partial

import lightning as L
import pytest
import torch
from references import reported

from metaexp.algos.maml import MAML
from metaexp.algos.reptile import Reptile
from metaexp.contract import largest_difference, new, parameters, pictures
from metaexp.errors import ConfigError, NonFiniteError
from metaexp.inner import Adam
from metaexp.models.cnn4 import CNN4
from metaexp.models.mlp import MLP
from metaexp.outer import LinearToZero
from metaexp.outer.eager_step import first_task
from metaexp.outer.loaders import Span, Stops
from metaexp.outer.meta_training import MetaTraining
from metaexp.outer.optimisers import make_optimizer
from metaexp.tasks.sine import Sine
from metaexp.types import Examples

F64 = torch.float64
NET = partial(MLP, hidden=[8], activation="tanh")


def sines(**settings) -> Sine:
    return Sine(**{"shots": 5, "queries": 5} | settings).to("cpu", F64)


def maml(**settings) -> MAML:
    return new(lambda f: MAML(f, NET, inner_lr=0.05, inner_steps=2, **settings), sines())


def loop_of(learner, make=lambda p: torch.optim.SGD(p, lr=0.1), **settings) -> MetaTraining:
    return MetaTraining(learner, make_optimizer(make, learner), **settings)


# --- the step -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.Adam(p, lr=0.01),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
        lambda p: torch.optim.RMSprop(p, lr=0.01),
    ],
)
def test_a_step_is_the_optimisers_on_the_meta_gradient(make):
    learner = maml()
    loop = loop_of(learner, make, meta_batch=4)
    theirs = {k: torch.nn.Parameter(p) for k, p in parameters(learner).items()}
    optimizer = make(list(theirs.values()))
    for step in range(5):
        batch = learner.family.sample("train", 4 * step + torch.arange(4))._replace(info={})
        gradient, value, logs = learner.meta_gradient({k: p.detach() for k, p in theirs.items()}, batch)
        for k, p in theirs.items():
            p.grad = gradient[k]
        optimizer.step()
        result = loop.step(step)
        assert largest_difference(parameters(learner), {k: p.detach() for k, p in theirs.items()}) < 1e-14
        assert result.loss == value
        assert abs(float(result.norm) - float(torch.cat([g.flatten() for g in gradient.values()]).norm())) < 1e-13
        assert result.logs == logs
        assert int(learner.meta_step) == step + 1
    assert all(p.grad is None for p in learner.parameters())


@pytest.mark.parametrize("fused", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_fused_optimisers_meet_gradients_in_the_layout_of_the_parameters(fused):
    # No batch norm: the gradient of a bias before it is only rounding, which Adam would turn into a step.
    net = partial(CNN4, filters=4, norm="layer")
    learner = new(lambda f: MAML(f, net, inner_lr=0.1, mapping="loop"), pictures(side=16))
    loop = loop_of(learner, partial(fused, lr=0.01, fused=True), meta_batch=2)
    theirs = {k: torch.nn.Parameter(p) for k, p in parameters(learner).items()}
    optimizer = fused(list(theirs.values()), lr=0.01, fused=False)
    other = 0
    for step in range(3):
        batch = learner.train_batch(2 * step + torch.arange(2))._replace(info={})
        gradient = learner.meta_gradient({k: p.detach() for k, p in theirs.items()}, batch)[0]
        other += sum(gradient[k].stride() != p.stride() for k, p in theirs.items())
        for k, p in theirs.items():
            p.grad = gradient[k].contiguous()
        optimizer.step()
        loop.step(step)
        assert largest_difference(parameters(learner), {k: p.detach() for k, p in theirs.items()}) < 1e-12
    assert other  # otherwise nothing was tested: a convolution's gradient is channels-last


@pytest.mark.parametrize(
    ("value", "norm"), [(0.05, None), (None, 0.5), (0.05, 0.1), (None, 1e6), (1e6, None), (None, 1e-3)]
)
def test_clipping_equals_torchs(value, norm):
    """By value first, then by norm; `Step.norm` is the norm before clipping."""
    learner = maml()
    start = parameters(learner)
    gradient = learner.meta_gradient(start, learner.family.sample("train", torch.arange(4))._replace(info={}))[0]
    params = {k: torch.nn.Parameter(p) for k, p in start.items()}
    for k, p in params.items():
        p.grad = gradient[k].clone()
    before = torch.nn.utils.get_total_norm([p.grad for p in params.values()])
    if value is not None:
        torch.nn.utils.clip_grad_value_(params.values(), value)
    if norm is not None:
        torch.nn.utils.clip_grad_norm_(params.values(), norm)
    result = loop_of(learner, meta_batch=4, clip_value=value, clip_norm=norm).step(0)
    moved = {k: (start[k] - p) / 0.1 for k, p in parameters(learner).items()}
    assert largest_difference(moved, {k: p.grad for k, p in params.items()}) < 1e-13
    assert abs(float(result.norm) - float(before)) < 1e-13


@pytest.mark.parametrize("algo", ["maml", "reptile"])
def test_accumulating_equals_one_large_meta_batch(algo):
    """A meta-batches of B tasks are the same tasks, and give the same step, as one of A B tasks."""
    ends = []
    for accumulate, meta_batch in ((1, 12), (3, 4), (12, 1)):
        learner = maml()
        if algo == "reptile":
            learner = new(lambda f: Reptile(f, NET, inner=Adam(beta1=0.0), state="carried"), sines())
        loop = loop_of(learner, meta_batch=meta_batch, accumulate=accumulate, clip_norm=0.5)
        results = [loop.step(i) for i in range(4)]
        ends.append((learner.state_dict(), [(r.loss, r.norm, r.logs) for r in results]))
    for other in ends[1:]:
        assert largest_difference(other, ends[0]) < 1e-12


def test_ranks_take_disjoint_tasks_that_make_up_the_meta_batch():
    seen = []
    for rank in range(3):
        loop = loop_of(maml(), meta_batch=6, accumulate=2, rank=rank, world=3)
        seen += [first_task(loop, 1, part) + i for part in range(2) for i in range(2)]
    assert sorted(seen) == list(range(12, 24))


class Stopper(L.Callback):
    """Stops after outer step 5 and records every step."""

    def __init__(self):
        self.seen = []

    def on_outer_step_end(self, trainer, training, step):
        self.seen.append((step, training.clock))
        training.stopped = step == 5


def test_a_span_ends_where_a_callback_stops_it():
    learner, stopper = maml(), Stopper()
    loop = loop_of(learner, meta_batch=2, steps=12, every=[3])
    trainer = L.Trainer(
        accelerator="cpu", callbacks=[stopper], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(loop)
    assert stopper.seen == [(step, step) for step in (1, 2, 3, 4, 5)]
    assert int(learner.meta_step) == trainer.global_step == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"meta_batch": 0}, "meta_batch=0: must be at least 1"),
        ({"accumulate": 0}, "accumulate=0: must be at least 1"),
        ({"clip_norm": 0.0}, "clip.norm=0.0: must be above 0"),
        ({"clip_value": -1.0}, "clip.value=-1.0: must be above 0"),
        ({"clip_norm": float("nan")}, "clip.norm=nan: must be above 0"),
        ({"meta_batch": 5, "world": 2}, "meta_batch=5: must be a multiple of the 2 processes"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(ValueError) as caught:
        loop_of(maml(), **settings)
    assert str(caught.value) == message


def test_nothing_to_learn():
    learner = maml()
    learner.model.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter that requires a gradient"):
        make_optimizer(torch.optim.Adam, learner)


# --- spans ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "steps", "intervals"), [(0, 100, [30, 7]), (13, 50, [10]), (50, 50, [3]), (0, 1, [9])]
)
def test_spans_end_at_every_multiple(start, steps, intervals):
    stops, found = Stops(steps, intervals), [start]
    while found[-1] < steps:
        found.append(stops.after(found[-1]))
    ends = [s for s in range(start + 1, steps + 1) if s == steps or any(s % i == 0 for i in intervals)]
    assert found[1:] == ends


# --- schedules ------------------------------------------------------------------------------------------------------


def test_linear_to_zero_is_its_closed_form():
    learner = maml()
    optimizer = make_optimizer(partial(torch.optim.SGD, lr=0.4), learner)
    loop = MetaTraining(learner, optimizer, LinearToZero(optimizer, 8), meta_batch=2)
    rates = []
    for step in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        loop.step(step)
    assert rates == [0.4 * max(0.0, 1 - step / 8) for step in range(10)]


def test_linear_to_zero_goes_on_exactly_from_its_state():
    def made():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
        return optimizer, LinearToZero(optimizer, 7)

    optimizer, schedule = made()
    for _ in range(3):
        optimizer.step()
        schedule.step()
    saved = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    again, resumed = made()
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    for _ in range(4):
        for o, s in ((optimizer, schedule), (again, resumed)):
            o.step()
            s.step()
        assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_linear_to_zero_of_no_steps():
    """steps=0 trains nothing and must still make its parts."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    LinearToZero(optimizer, 0)
    assert optimizer.param_groups[0]["lr"] in (0.0, 0.3)


def test_a_torch_schedule_is_stepped_once_per_outer_step():
    learner = maml()
    optimizer = make_optimizer(partial(torch.optim.Adam, lr=0.01), learner)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    loop = MetaTraining(learner, optimizer, schedule, meta_batch=2, accumulate=3)
    for step in range(6):
        expected = 0.005 * (1 + torch.cos(torch.tensor(torch.pi * step / 6, dtype=F64)))
        assert abs(optimizer.param_groups[0]["lr"] - float(expected)) < 1e-12
        loop.step(step)


# --- the finite check -----------------------------------------------------------------------------------------------


class Spoiled(Sine):
    """Task 9 has a target that is NaN, or so large that only the gradient overflows."""

    bad = float("nan")

    def sample(self, split, indices, *sizes):
        episode = super().sample(split, indices, *sizes)
        y = torch.where((indices == 9)[:, None, None], self.bad, episode.query.y)
        return episode._replace(query=Examples(episode.query.x, y))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e200])
def test_a_step_that_is_not_finite_changes_nothing(bad):
    family = Spoiled(shots=5, queries=5).to("cpu", F64)
    family.bad = bad
    learner = new(lambda f: MAML(f, NET, inner_lr=0.05), family)
    optimizer = make_optimizer(partial(torch.optim.Adam, lr=0.01), learner)
    schedule = LinearToZero(optimizer, 20)
    loop = MetaTraining(learner, optimizer, schedule, meta_batch=4, clip_value=1.0)
    loop.run(Span(0, 2))
    before = copy.deepcopy((learner.state_dict(), optimizer.state_dict(), schedule.state_dict()))
    with pytest.raises(NonFiniteError) as caught:
        loop.run(Span(2, 5))
    assert caught.value.exit_code == 5
    for part in ("non-finite", "outer step 3", "training tasks 8 to 11", "algo.inner_lr=0.05"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    after = (learner.state_dict(), optimizer.state_dict(), schedule.state_dict())
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert int(learner.meta_step) == 2
    assert before[2] == after[2]
    flat = [torch.utils._pytree.tree_leaves(state[1]) for state in (before, after)]
    assert all(bool(torch.as_tensor(a == b).all()) for a, b in zip(*flat, strict=True))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_that_are_not_finite_may_be_skipped(accumulate):
    """As if the step did not exist, except for clock and schedule; one more skip than allowed is an error."""

    class Often(Sine):
        def sample(self, split, indices, *sizes):
            episode = super().sample(split, indices, *sizes)
            lost = (indices // (4 * accumulate)) % 3 == 1  # steps 2, 5, 8, ...
            y = torch.where(lost[:, None, None], torch.nan, episode.query.y)
            return episode._replace(query=Examples(episode.query.x, y))

    told = reported()
    learner = new(lambda f: MAML(f, NET, inner_lr=0.05), Often(shots=5, queries=5).to("cpu", F64))
    plain = new(lambda f: MAML(f, NET, inner_lr=0.05), Sine(shots=5, queries=5).to("cpu", F64))
    loops = []
    for each, skips in ((learner, 2), (plain, 0)):
        optimizer = make_optimizer(partial(torch.optim.Adam, lr=0.01), each)
        schedule, settings = LinearToZero(optimizer, 20), {"meta_batch": 4, "accumulate": accumulate, "skips": skips}
        loops.append(MetaTraining(each, optimizer, schedule, **settings))
    loop, other = loops
    loop.run(Span(0, 6))
    for step in range(6):
        if step in (1, 4):  # the same tasks except in these steps, which affect only the rate and the clock
            other.schedule.step()
            plain.meta_step.add_(1)
        else:
            other.step(step)
    assert told == [
        "not finite: skipped 1 outer step up to step 2, 1 of at most 2 so far",
        "not finite: skipped 1 outer step up to step 5, 2 of at most 2 so far",
    ]
    assert (loop.skipped, loop.count, other.count, int(learner.meta_step)) == (2, 4, 4, 6)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in learner.state_dict().items())
    assert torch.equal(loop.sums()["loss"], other.sums()["loss"])
    assert loop.schedule.state_dict() == other.schedule.state_dict()
    with pytest.raises(NonFiniteError, match=r"outer step 8 .*2 steps skipped before\): .* or skips"):
        loop.run(Span(6, 9))
    assert int(learner.meta_step) == 7


def test_the_first_step_may_be_skipped():
    family = Spoiled(shots=5, queries=5).to("cpu", F64)
    family.bad = float("nan")
    learner = new(lambda f: MAML(f, NET), family)
    loop = loop_of(learner, meta_batch=12, skips=1)
    assert loop.step(0).loss.isnan()
    assert loop.sums() is None
    assert loop.step(1).loss.isfinite()
    assert loop.count == 1
    with pytest.raises(ValueError, match="skips=-1: must be at least 0"):
        loop_of(learner, skips=-1)


def test_an_infinite_gradient_of_a_finite_loss_is_named():
    class Steep(MAML):
        def meta_loss(self, episode):
            zero = 0 * sum(p.sum() for p in self.model.parameters())
            return torch.sqrt(zero), {}  # 0, with an infinite slope

    learner = new(lambda f: Steep(f, NET), sines())
    with pytest.raises(NonFiniteError, match=r"non-finite meta-gradient norm (nan|inf) at outer step 1"):
        loop_of(learner).step(0)
