"""The expected time and memory of a training, measured before it starts."""

from types import SimpleNamespace

import pytest
import torch

from metaexp.tasks.sine import Sine
from metaexp.training import expectation as module
from metaexp.training.expectation import expectation


class Heavy:
    """Needs 30 MB and 0.02 s for each task of a meta-batch."""

    mapping = "vmap"

    def __init__(self):
        self.family, self.p = Sine(), torch.nn.Parameter(torch.zeros(1))

    def meta_parameters(self):
        return {"p": self.p}

    def train_batch(self, indices):
        return self.family.sample("train", indices)

    def meta_gradient(self, params, episode):
        tasks = len(episode.key)
        self.clock[0] += 0.02 * tasks
        torch.ones(tasks * 30 * 1024, 256)


@pytest.fixture
def heavy(monkeypatch):
    learner, clock = Heavy(), [0.0]
    learner.clock = clock
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    return SimpleNamespace(learner=learner, meta_batch=50, world=1, accumulate=1, compiled=False)


def test_what_a_task_adds_is_extrapolated_to_the_meta_batch(heavy):
    line = expectation(heavy, 2000)
    assert line.startswith("expected: 1 s per outer step, ")
    assert "for 2000 steps" in line
    gigabytes = float(line.split(" and ")[1].split(" GB")[0])
    assert gigabytes == pytest.approx(1.5, abs=0.35)


def test_a_loop_needs_the_memory_of_one_task(heavy):
    heavy.learner.mapping = "loop"
    assert "MB of memory" in expectation(heavy, 20000)


def test_nothing_is_said_of_a_small_or_short_training(heavy):
    heavy.meta_batch = 2
    assert expectation(heavy, 2000) is None
    heavy.meta_batch = 50
    assert expectation(heavy, 100) is None
