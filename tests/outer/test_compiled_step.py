"""Compiled outer steps against eager ones: the whole step, and the meta-gradient of a piece."""

import copy
from functools import partial

import pytest
import torch
from compiling import OPTIMIZERS, compiler
from references import reported
from torch.utils._pytree import tree_leaves, tree_map

from metaexp.algos.maml import MAML
from metaexp.algos.metasgd import MetaSGD
from metaexp.algos.protonet import ProtoNet
from metaexp.algos.reptile import Reptile
from metaexp.contract import largest_difference, new, parameters, pictures
from metaexp.errors import NonFiniteError
from metaexp.inner import Adam
from metaexp.models.layers import Convolution, MaxPool
from metaexp.models.linear import Linear
from metaexp.models.mlp import MLP
from metaexp.outer import LinearToZero
from metaexp.outer.compiled_step import CompiledStep
from metaexp.outer.loaders import Span
from metaexp.outer.meta_training import MetaTraining
from metaexp.outer.optimisers import make_optimizer
from metaexp.tasks.sine import Sine
from metaexp.types import Examples

F64 = torch.float64
NET = partial(MLP, hidden=[3], activation="tanh")


class Table(Sine):
    """16 sines drawn once: without the hash behind the draws, a graph compiles in a third of the time."""

    def __init__(self, *sizes: int):
        super().__init__(*sizes)
        self.to("cpu", F64)
        self.table = super().sample("train", torch.arange(16))._replace(info={})

    def sample(self, split, indices, *sizes, **more):
        return tree_map(lambda t: t[indices % 16], self.table)


class Spoiled(Table):
    """Task 9 has a NaN target."""

    def __init__(self, *sizes: int):
        super().__init__(*sizes)
        query = self.table.query
        y = torch.where((torch.arange(16) == 9)[:, None, None], float("nan"), query.y)
        self.table = self.table._replace(query=Examples(query.x, y))


class Often(Table):
    """12 sines; those of steps 2, 5, 8, ... (of 4 tasks each) have NaN targets."""

    def sample(self, split, indices, *sizes, **more):
        episode = super().sample(split, indices % 12)
        y = torch.where((indices % 12 // 4 == 1)[:, None, None], float("nan"), episode.query.y)
        return episode._replace(query=Examples(episode.query.x, y))


class OneBlock(torch.nn.Module):
    """The smallest network with a convolution, a norm and a pool."""

    def __init__(self, x_shape, out):
        super().__init__()
        self.convolution, self.norm = Convolution(1, 2, 3, stride=2, padding=1), torch.nn.BatchNorm2d(2)
        self.pool, self.head = MaxPool(), torch.nn.Linear(2, out)

    def forward(self, x):
        return self.head(self.pool(torch.relu(self.norm(self.convolution(x)))).mean((2, 3)))


def of_pictures(model, mapping):
    """A learner on classes, whose targets are one matrix expanded over the tasks."""
    return lambda f: MAML(pictures(), model, inner_lr=0.05, mapping=mapping)


LEARNERS = {
    "maml": lambda f: MAML(Table(3, 3), NET, inner_lr=0.05),
    "chunks": lambda f: MAML(Table(3, 3), NET, inner_lr=0.05, mapping=2),
    "carried": lambda f: Reptile(Table(3, 3), Linear, inner_steps=1, inner=Adam(beta1=0.0), state="carried"),
    "classes": of_pictures(NET, "vmap"),
    "loop": of_pictures(OneBlock, "loop"),
}


def loops(name, optimizer="sgd", schedule=False, **settings):
    """The same learner twice: an eager loop and a compiled one, and the lines that the latter logged."""
    torch.compiler.reset()
    made, told = [], reported()
    for wanted in (False, True):
        learner = new(LEARNERS[name], None)
        chosen = make_optimizer(OPTIMIZERS[optimizer], learner)
        rates = LinearToZero(chosen, 10) if schedule else None
        made.append(MetaTraining(learner, chosen, rates, compiled=wanted, **settings))
    return *made, told


def ends(loop: MetaTraining):
    sums = loop.sums()
    assert sums is not None
    return loop.learner.state_dict(), sums, tree_leaves(loop.optimizer.state_dict()["state"])


# name, optimiser, schedule, meta-batch, accumulate, whether the whole step is one graph
CASES = [
    ("maml", "sgd", True, 4, 1, True),
    ("maml", "adamw", False, 4, 1, True),
    ("carried", "adam", False, 4, 1, True),
    ("classes", "sgd", False, 2, 1, True),
    ("maml", "rmsprop", True, 4, 1, False),
    ("chunks", "sgd", False, 4, 2, False),
    ("chunks", "sgd", False, 5, 1, False),
    ("loop", "adam", False, 4, 1, False),
]


@pytest.fixture
def op_by_op(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of machine code, whose compilation takes most of a test's time, the traced graph's own operations."""
    for name in ("ahead", "_inductor"):
        monkeypatch.setattr(f"metaexp.outer.compiler.{name}", lambda graph, _: lambda *tensors: list(graph(*tensors)))


@compiler
@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[] if i in (2, 7) else [pytest.mark.tier("long")]) for i, c in enumerate(CASES)],
    ids=["-".join(map(str, case)) for case in CASES],
)
def test_compiled_equals_eager(case):
    """As machine code; all cases in the tier of long tests."""
    check_equal_to_eager(case)


@pytest.mark.parametrize("case", CASES[:7], ids=["-".join(map(str, case)) for case in CASES[:7]])
def test_the_traced_step_equals_the_eager_one(case, op_by_op):
    """The same operation by operation; convolutions have no graph of this form."""
    check_equal_to_eager(case)


def check_equal_to_eager(case):
    """Three outer steps: parameters, clock, carried state, optimiser state, rates and sums of losses and norms."""
    name, optimizer, schedule, meta_batch, accumulate, whole = case
    eager, graph, told = loops(name, optimizer, schedule, meta_batch=meta_batch, accumulate=accumulate, clip_norm=0.5)
    for loop in (eager, graph):
        loop.run(Span(0, 2))
        last = loop.step(2)
        assert abs(last.loss - loop.loss()) == 0
    assert graph.compiled, told
    assert isinstance(graph._step, CompiledStep) == whole
    assert [len(tree_leaves(part)) for part in ends(graph)] == [len(tree_leaves(part)) for part in ends(eager)]
    assert largest_difference(ends(graph), ends(eager)) < 1e-10
    assert graph.optimizer.param_groups[0]["lr"] == eager.optimizer.param_groups[0]["lr"]
    assert graph.count == eager.count == 3
    assert int(graph.learner.meta_step) == 3
    assert len(told) == 1
    assert told[0].startswith("compiling the outer step")


@compiler
def test_a_whole_step_that_is_not_finite_changes_nothing_and_stops_all_after_it():
    LEARNERS["spoiled"] = lambda f: MAML(Spoiled(3, 3), NET, inner_lr=0.05)
    _, loop, _ = loops("spoiled", "adam", meta_batch=4)
    loop.run(Span(0, 2))
    before = copy.deepcopy(ends(loop))
    with pytest.raises(NonFiniteError, match="non-finite outer loss nan at outer step 3"):
        loop.run(Span(2, 6))
    assert largest_difference(ends(loop)[0], before[0]) == 0
    assert largest_difference(ends(loop)[2], before[2]) == 0
    assert int(loop.learner.meta_step) == 2


@compiler
def test_skipped_steps_are_those_of_the_eager_loop():
    """Also if a loop continues from the state of another: learner, optimiser, sums, count of skipped steps."""
    LEARNERS["spoiled"] = lambda f: MAML(Often(3, 3), NET, inner_lr=0.05)
    eager, graph, told = loops("spoiled", "adam", True, meta_batch=4, skips=3)
    _, second, _ = loops("spoiled", "adam", True, meta_batch=4, skips=3)
    eager.run(Span(0, 6))
    states = copy.deepcopy([part.state_dict() for part in (eager.learner, eager.optimizer, eager.schedule)])
    sums, count, skipped = eager.sums(), eager.count, eager.skipped
    for loop, span in ((eager, Span(6, 9)), (graph, Span(0, 4)), (graph, Span(4, 9))):
        loop.run(span)
    assert isinstance(graph._step, CompiledStep)
    assert (eager.skipped, graph.skipped, eager.count, graph.count) == (3, 3, 6, 6)
    assert largest_difference(ends(graph), ends(eager)) < 1e-10
    assert int(graph.learner.meta_step) == int(eager.learner.meta_step) == 9
    lines = [line for line in told if not line.startswith("compiling")]
    assert lines == [f"not finite: skipped {line} of at most 3 so far" for line in (
        "1 outer step up to step 2, 1", "1 outer step up to step 5, 2", "1 outer step up to step 8, 3",
        "1 outer step up to step 4, 1", "2 outer steps up to step 9, 3",
    )]  # fmt: skip
    assert graph.loss() == pytest.approx(eager.loss(), abs=1e-10)  # of the last step that was not skipped
    with pytest.raises(NonFiniteError, match=r"outer loss nan at outer step 11 .*3 steps skipped before"):
        graph.run(Span(9, 12))
    for part, state in zip((second.learner, second.optimizer, second.schedule), states, strict=True):
        part.load_state_dict(state)
    second.set_sums(sums, count)
    second.finite.skipped = skipped
    second.run(Span(6, 9))
    assert (second.skipped, second.count) == (3, 6)
    assert largest_difference(ends(second), ends(eager)) < 1e-10


@compiler
def test_going_on_from_saved_states_is_exact_to_the_bit():
    """Learner, optimiser and sums saved after 3 steps and loaded into a new loop, against 6 steps in one loop."""
    _, straight, _ = loops("maml", "adam", meta_batch=4)
    _, first, _ = loops("maml", "adam", meta_batch=4)
    _, second, _ = loops("maml", "adam", meta_batch=4)
    straight.run(Span(0, 6))
    first.run(Span(0, 3))
    second.learner.load_state_dict(copy.deepcopy(first.learner.state_dict()))
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.set_sums(first.sums(), first.count)
    second.run(Span(3, 6))
    assert second.count == 6
    assert largest_difference(ends(second), ends(straight)) == 0


@compiler
@pytest.mark.tier("long")
def test_threads_do_not_change_a_result():
    """Looped tasks spread over two threads give the same bits as one thread."""
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            _, loop, _ = loops("loop", meta_batch=6)
            loop.run(Span(0, 2))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        results.append(ends(loop))
    assert largest_difference(*results) == 0


def test_schedules_of_more_than_the_rate_are_followed(op_by_op):
    """OneCycleLR also changes the momentum, which is a constant in the graph of a whole step."""
    made = []
    for wanted in (False, True):
        torch.compiler.reset()
        learner = new(LEARNERS["maml"], None)
        chosen = torch.optim.Adam(learner.meta_parameters().values(), lr=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(chosen, 0.05, total_steps=10)
        loop = MetaTraining(learner, chosen, schedule, meta_batch=4, compiled=wanted)
        loop.run(Span(0, 4))
        made.append(loop)
    assert made[1].compiled
    assert made[1].optimizer.param_groups[0]["betas"] == made[0].optimizer.param_groups[0]["betas"] != (0.9, 0.999)
    assert largest_difference(ends(made[1]), ends(made[0])) < 1e-10


def test_what_cannot_be_compiled_goes_on_without():
    class Odd(MAML):
        def meta_loss(self, episode):
            assert isinstance(episode.query.x.sum().item(), float)  # a traced tensor has no value
            return super().meta_loss(episode)

    family = Table(3, 3)
    learners = [new(lambda f: Odd(family, NET, mapping="loop"), None) for _ in range(2)]
    told = reported()
    made = [
        MetaTraining(learner, make_optimizer(OPTIMIZERS["sgd"], learner), compiled=c, meta_batch=2)
        for learner, c in zip(learners, (False, True), strict=True)
    ]
    for loop in made:
        loop.step(0)
    assert not made[1].compiled
    assert any("not possible here" in line and "\n" not in line for line in told)
    assert largest_difference(parameters(learners[1]), parameters(learners[0])) == 0


@pytest.mark.parametrize("kind", [MetaSGD, ProtoNet])
def test_the_step_of_a_method_without_a_plain_inner_rate_is_one_graph(kind, op_by_op):
    """Its operations, run one by one, against the eager step."""
    family = pictures() if kind is ProtoNet else Table(3, 3)
    learners = [new(lambda f: kind(family, NET), None) for _ in range(2)]
    for learner, wanted in zip(learners, (False, True), strict=True):
        loop = MetaTraining(learner, make_optimizer(OPTIMIZERS["sgd"], learner), compiled=wanted, meta_batch=2)
        loop.run(Span(0, 2))
    assert loop.compiled
    assert isinstance(loop._step, CompiledStep)
    assert largest_difference(parameters(learners[1]), parameters(learners[0])) < 1e-12


def test_where_the_compiler_fails_nothing_has_changed(monkeypatch, tmp_path):
    """Tracing runs the step once; the previous state is restored, and the eager step continues from there."""

    def fails(*args, **options):
        raise RuntimeError("no compiler")

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.compile", fails)
    monkeypatch.setattr("torch._inductor.aot_compile", fails)
    eager, failed, told = loops("carried", "adam", meta_batch=4)
    for loop in (eager, failed):
        loop.run(Span(0, 2))
    assert not failed.compiled
    assert "no compiler" in told[1]
    assert largest_difference(ends(failed), ends(eager)) == 0


def test_blocks_of_tasks_are_the_steps_own_tasks(monkeypatch, op_by_op):
    """Here tasks are drawn for three steps at once, from any step at which a run continues."""
    monkeypatch.setattr("metaexp.outer.batches.TASKS", 12)
    made = []
    for wanted in (False, True):
        learner = new(lambda f: MAML(f, Linear), Sine(shots=4, queries=3).to("cpu", F64))
        loop = MetaTraining(learner, make_optimizer(OPTIMIZERS["sgd"], learner), compiled=wanted, meta_batch=4)
        results = []
        for index in (0, 1, 2, 3, 4115, 4116, 10**7, 5):
            learner.meta_step.fill_(index)
            results.append(loop.step(index))
        assert loop.compiled == wanted
        assert not wanted or loop._step.steps == 3
        made.append(([r.loss for r in results], [r.norm for r in results], parameters(learner)))
    assert largest_difference(*made) < 1e-11
    assert len({float(loss) for loss in made[0][0]}) == 8
