"""Faults of every kind, seeded into a learner, a network, a family or a run: the check that is for it finds each."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metaexp.algos.maml import MAML
from metaexp.algos.protonet import ProtoNet
from metaexp.audit.auditor import RUNS
from metaexp.contract import audit, pictures
from metaexp.evaluation.scores import evaluate
from metaexp.models.mlp import MLP
from metaexp.outer import meta_training
from metaexp.tasks.classes import Classes
from metaexp.tasks.sine import Sine
from metaexp.types import Examples

NET = partial(MLP, hidden=[6], activation="tanh")
GRADIENT = "meta-gradient and finite differences agree"
ZERO = "the meta-gradient is not zero"
LOOP = "any mapping of tasks and the loop agree"
MIX = "tasks of a meta-batch do not mix"
BITS = "the same episode twice gives the same bits"
GLOBAL = "no draws from global random generators"
INDEX = "a task depends on seed, split, index alone"
RESUME = "a resumed run is the straight run, 3 steps"
CHOICE = "weights are chosen without test tasks"
WEIGHTS = "adapt and predict leave the weights alone"
TARGETS = "predictions do not see query targets"
OTHERS = "predictions do not see other queries"
PLACE = "predictions do not see the order of queries"
INFO = "predictions do not see info"
ORDER = "predictions do not see the support's order"
CLASSES = "predictions do not see the classes' order"
SUPPORT = "predictions do see the support targets"
SHUFFLED = "shuffled support targets tell nothing"
APART = "no training class in validation or test"
ROWS = "no training example in validation or test"
VALIDATION = "no validation example in test"
LABELS = "a class gets its label anew in every task"
WORKS = "it learns, adapts and predicts: not finite"


class Base(MAML):
    """The sound learner that the faults are seeded into."""

    def __init__(self, family, model=NET, mapping="vmap", **settings):
        super().__init__(family, model, inner_lr=0.05, inner_steps=2, mapping=mapping, **settings)


class Looped(Base):
    """One task after the other, so that code for one task may have a memory."""

    def __init__(self, family, model=NET):
        super().__init__(family, model, "loop")


# --- the meta-gradient


class Passed(Base):
    """First-order, passed off as exact."""

    def __init__(self, family):
        super().__init__(family, first_order=True)
        self.exact_gradient = True


class Detached(Base):
    """One inner step counts as a constant."""

    def initial(self):
        start = super().initial()
        return start | {"head.weight": start["head.weight"].detach() * 1}


class Cut(Base):
    """The whole inner loop is detached."""

    def adapt(self, support, key):
        return {name: value.detach() for name, value in super().adapt(support, key).items()}


class Halved(Base):
    """Under vmap the loss is another one."""

    def meta_loss(self, episode):
        loss, logs = super().meta_loss(episode)
        return (loss if self.mapping == "loop" else 1.01 * loss), logs


class Native(nn.Module):
    """Calls layer norm itself, whose second derivative is wrong under vmap."""

    def __init__(self, x_shape, out):
        super().__init__()
        self.body, self.head = nn.Linear(*x_shape, 6), nn.Linear(6, out)
        self.weight = nn.Parameter(torch.rand(6) + 0.5)

    def forward(self, x):
        return self.head(torch.tanh(F.layer_norm(self.body(x), (6,), self.weight)))


# --- memory and chance


class Carries(Looped):
    """A task starts from what the task before it has left."""

    left = 0.0

    def adapt(self, support, key):
        before, self.left = self.left, float(support.y.detach().mean())
        return {name: value + 0.1 * before for name, value in super().adapt(support, key).items()}


class Noisy(Looped):
    """Adds noise without a seed."""

    def predict(self, adapted, x):
        return super().predict(adapted, x) + torch.tensor(np.random.default_rng().normal())


class Reseeds(Looped):
    """Drops features by torch's global generator, which it seeds: repeatable, and yet nothing of its own."""

    def predict(self, adapted, x):
        torch.manual_seed(int(x.shape[0]))
        return F.dropout(super().predict(adapted, x), 0.1, training=True)


class Statistics(nn.Module):
    """Running statistics move at every forward pass, from task to task."""

    def __init__(self, x_shape, out):
        super().__init__()
        self.body, self.head = nn.Linear(*x_shape, 6), nn.Linear(6, out)
        self.mean = 0.0

    def forward(self, x):
        z = self.body(x)
        self.mean += 0.1 * (float(z.detach().mean()) - self.mean)
        return self.head(torch.tanh(z - self.mean))


class Mutates(Looped):
    """adapt leaves its mark on the weights."""

    def adapt(self, support, key):
        self.model.head.bias.data.add_(0.01 * support.y.detach().mean(0))
        return super().adapt(support, key)


class Mixes(Base):
    """The inputs of a meta-batch are centred over its tasks."""

    def train_batch(self, indices):
        episode = super().train_batch(indices)
        return episode._replace(query=Examples(episode.query.x - episode.query.x.mean(0), episode.query.y))


class Counts(Base):
    """Has a number that grows with the steps and is in no checkpoint."""

    steps = 0

    def absorb(self, logs):
        self.steps += 1
        with torch.no_grad():
            self.model.head.bias.add_(0.1 * self.steps)
        return logs


class ByCall(Sine):
    """The tasks depend on how often they were drawn."""

    calls = [0]

    def keys(self, split, indices):
        self.calls[0] += 1
        return super().keys(split, indices) + self.calls[0]


# --- leaks


class Peeks(Base):
    """At test the queries are in the support set."""

    def test_path(self, episode):
        both = Examples(*(torch.cat(pair) for pair in zip(episode.support, episode.query, strict=True)))
        return self.path(both, episode.key, 2)


class Asks(Looped):
    """Draws the test tasks once more, with their targets."""

    def path(self, support, key, steps):
        queries = self.family.sample("test", torch.arange(1)).query
        return super().path(Examples(queries.x[0], queries.y[0]), key, steps)


class Remembers(Base):
    """Has the test queries' targets in a table."""

    def __init__(self, family):
        super().__init__(family)
        query = family.sample("test", torch.arange(200)).query
        self.x, self.y = query.x.flatten(0, 1), query.y.flatten(0, 1)

    def predict(self, adapted, x):
        return self.y[torch.cdist(x, self.x.to(x.dtype)).argmin(1)].to(x.dtype) + 0 * super().predict(adapted, x)


class Reads(Base):
    """Knows the phase from the task's info."""

    def test_path(self, episode):
        phase = episode.info.get("phase", torch.zeros(()))
        return [{name: value + phase for name, value in point.items()} for point in super().test_path(episode)]


class Centred(nn.Module):
    """A norm over the batch that nobody knows of."""

    def __init__(self, x_shape, out):
        super().__init__()
        self.body, self.head = nn.Linear(*x_shape, 6), nn.Linear(6, out)

    def forward(self, x):
        z = self.body(x)
        return self.head(torch.tanh(z - z.mean(0)))


class Blocks(ProtoNet):
    """Takes the place of a support example for its class: tasks list them class after class."""

    def __init__(self, family, invariant=True):
        super().__init__(family, NET)
        self.permutation_invariant, self.classes_alike = invariant, False

    def fit(self, z, y, key):
        return super().fit(z, torch.eye(y.shape[1], dtype=y.dtype).repeat_interleave(len(y) // y.shape[1], 0), key)


class Queue(ProtoNet):
    """Takes the place of a query for its class."""

    def __init__(self, family):
        super().__init__(family, NET)

    def read(self, adapted, z):
        scores = super().read(adapted, z)
        return scores + torch.arange(len(z), dtype=z.dtype)[:, None] * torch.arange(scores.shape[1], dtype=z.dtype)


class Numbered(ProtoNet):
    """Class 0 is the likelier one."""

    def __init__(self, family):
        super().__init__(family, NET)

    def read(self, adapted, z):
        scores = super().read(adapted, z)
        return scores + torch.arange(scores.shape[1], dtype=z.dtype)


class Deaf(Base):
    """Predicts without the support set."""

    def adapt(self, support, key):
        return self.initial()

    def path(self, support, key, steps):
        return [self.initial()]


class Chooses(Base):
    """Sets a number by the test tasks before the test."""

    def finish(self, validate):
        score = float(evaluate(self, "test", 2, ["queries"]).arrays["mse"].mean())
        with torch.no_grad():
            self.model.head.bias.add_(score)
        return {}


class Broken(Base):
    """Cannot adapt."""

    def path(self, support, key, steps):
        raise RuntimeError("no step is possible")


class Explodes(Base):
    """The second prediction is not a number."""

    def predict(self, adapted, x):
        return super().predict(adapted, x) * torch.tensor(float("nan"))


# --- tasks


def table(train, val, test, twice=False):
    """12 classes of 6 rows; with `twice` the last class has the rows of the first."""
    x = torch.rand(12, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[11] = x[0] if twice else x[11]
    splits = {"train": train, "val": val, "test": test}
    return Classes(x.flatten(0, 1), [6] * 12, splits, 2, 2, 2)


def rows_of(family):
    """The arguments that make it."""
    return family.data, family.counts.tolist(), {s: m.tolist() for s, m in family.splits.items()}, 2, 2, 2


class Sorted(Classes):
    """The classes of a task are in the order of their numbers: the input alone tells the label."""

    def sample(self, split, indices, *sizes, **more):
        episode = super().sample(split, indices, *sizes, **more)
        first = episode.info["classes"][:, 0] % 2 == 1
        y = torch.where(first[:, None, None], episode.support.y.flip(-1), episode.support.y)
        return episode._replace(support=Examples(episode.support.x, y))


class Forgets(torch.optim.Adam):
    """Its state does not come back from a checkpoint."""

    def load_state_dict(self, state_dict):
        pass


def sines():
    return Sine(5, 4)


def shapes():
    return pictures(side=4)


LEARNERS = {
    "first order passed off as second": (Passed, sines, GRADIENT),
    "one tensor of the inner loop detached": (Detached, sines, GRADIENT),
    "the inner loop detached": (Cut, sines, ZERO),
    "another loss under vmap": (Halved, sines, LOOP),
    "a norm with a wrong second derivative under vmap": (partial(Base, model=Native), sines, LOOP),
    "the same against finite differences": (partial(Base, model=Native), sines, GRADIENT),
    "a task that follows another": (Carries, sines, MIX),
    "tasks of a meta-batch centred together": (Mixes, sines, INDEX),
    "noise without a seed": (Noisy, sines, BITS),
    "dropout by the global generator": (Reseeds, sines, GLOBAL),
    "adapt changes weights": (Mutates, sines, WEIGHTS),
    "a family that counts its calls": (Base, lambda: ByCall(5, 4), INDEX),
    "queries in the support set": (Peeks, sines, TARGETS),
    "asks the family for the test tasks": (Asks, sines, TARGETS),
    "has the test targets in a table": (Remembers, sines, SHUFFLED),
    "reads info": (Reads, sines, INFO),
    "a norm over the queries": (partial(Base, model=Centred), sines, OTHERS),
    "labels by the order of the support set": (Blocks, shapes, ORDER),
    "the same, declared": (partial(Blocks, invariant=False), shapes, SHUFFLED),
    "labels by the order of the queries": (Queue, shapes, PLACE),
    "class 0 preferred": (Numbered, shapes, CLASSES),
    "the support set ignored": (Deaf, sines, SUPPORT),
    "a number of steps in no checkpoint": (Counts, sines, RESUME),
    "finish looks at test tasks": (Chooses, sines, CHOICE),
    "NaN": (Explodes, sines, WORKS),
    "train and test share a class": (Base, lambda: table([0, 1, 2, 3], [4, 5], [3, 6, 7]), APART),
    "train and test share rows": (Base, lambda: table([0, 1, 2, 3], [4, 5], [10, 11], True), ROWS),
    "validation and test share rows": (Base, lambda: table([1, 2, 3], [0, 5], [10, 11], True), VALIDATION),
    "labels that the inputs tell": (Base, lambda: Sorted(*rows_of(apart())), LABELS),
}  # fmt: skip


def apart():
    return table([0, 1], [4, 5], [6, 7])


SOUND = {shapes: lambda family: ProtoNet(family, NET), sines: Base}


@pytest.mark.parametrize("fault", LEARNERS)
def test_a_fault_is_found_by_its_check(fault):
    make, family, check = LEARNERS[fault]
    found = audit(make, family(), only=[check])
    assert check in found.failed, found
    assert found[check].reason, found
    assert set(found.failed) <= {check, WORKS}
    assert not found.ok
    if check not in RUNS:  # of these, tests/audit/test_audit.py has a sound one
        sound = audit(SOUND.get(family, Base), family() if family in SOUND else apart(), only=[check])
        assert sound.ok, sound


def test_an_optimiser_or_a_schedule_that_forgets(monkeypatch):
    found = audit(Base, sines(), optimizer=Forgets, only=[RESUME])
    assert found.failed == [RESUME]
    assert "slots" in found[RESUME].reason
    monkeypatch.setattr(torch.optim.lr_scheduler.StepLR, "load_state_dict", lambda self, state: None)
    found = audit(Base, sines(), only=[RESUME])
    assert found.failed == [RESUME]
    assert "schedule" in found[RESUME].reason


def test_weights_chosen_on_test_tasks(monkeypatch):
    score = meta_training.Scoring
    monkeypatch.setattr(meta_training, "Scoring", lambda learner, split, *a, **k: score(learner, "test", *a, **k))
    found = audit(Base, sines(), only=[CHOICE])
    assert found.failed == [CHOICE]
    assert found[CHOICE].number > 0


def test_a_refused_module_is_one_row_with_the_refusal():
    def make(family):
        return MAML(family, nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1)))

    found = audit(make, sines())
    assert [row.ok for row in found.rows] == [False]
    assert found.rows[0].reason.startswith("model: Dropout")
    assert "global generator" in found.rows[0].reason


def test_running_statistics_that_pass_from_task_to_task_are_one_row_too():
    found = audit(partial(Looped, model=Statistics), sines())
    assert [row.ok for row in found.rows] == [False]
    assert "self.mean, so that one task would change the next" in found.rows[0].reason


class Recurrent(nn.Module):
    """A recurrent layer, which vmap cannot take."""

    def __init__(self, x_shape, out):
        super().__init__()
        self.body, self.head = nn.LSTM(1, 3, batch_first=True), nn.Linear(3, out)

    def forward(self, x):
        return self.head(self.body(x[..., None])[0][:, -1])


def test_a_network_that_vmap_cannot_take():
    found = audit(partial(Base, model=Recurrent, mapping="auto"), sines(), only=[LOOP])
    assert found.ok, found
    assert "mapping=auto takes the loop over tasks: vmap cannot take" in found[LOOP].reason
    found = audit(partial(Base, model=Recurrent), sines())
    assert [row.ok for row in found.rows] == [False]
    assert found.rows[0].reason.startswith("mapping=vmap: vmap cannot take")


class Sharper(Base):
    """Under vmap the predictions at test are others."""

    def predict_as(self, mode, adapted, support, x):
        return super().predict_as(mode, adapted, support, x) * (1 if self.mapping == "loop" else 1.01)


def test_other_predictions_under_vmap():
    found = audit(Sharper, sines(), only=[LOOP])
    assert found.failed == [LOOP]
    assert "under vmap the prediction is wrong by 0.01" in found[LOOP].reason


def test_what_raises_is_a_row_and_no_traceback():
    found = audit(Broken, sines())
    assert [(row.ok, row.reason) for row in found.rows] == [
        (False, "model: fails on the first task: RuntimeError: no step is possible")
    ]
    assert "FAIL" in str(found)
