"""Tasks shared among processes: every chunk is scored once, and everyone gets the bits of one process."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from metaexp.algos.maml import MAML
from metaexp.evaluation.baselines import baselines
from metaexp.evaluation.scores import evaluate, validator
from metaexp.evaluation.sharing import Shared
from metaexp.evaluation.shots_curve import shots_curve
from metaexp.models.mlp import MLP
from metaexp.system.group import Group
from metaexp.tasks.sine import Sine


class Threads(Group):
    """The ranks of one process's threads: `gather` without a network."""

    def __init__(self, rank: int, world: int, shared: dict[str, Any]):
        super().__init__(rank, world)
        self.shared = shared

    def gather(self, value: Any) -> list[Any]:
        self.shared["values"][self.rank] = value
        self.shared["barrier"].wait(30)
        values = list(self.shared["values"])
        self.shared["barrier"].wait(30)
        return values

    def first(self, make: Callable[[], Any], device: Any = "cpu") -> Any:
        return self.gather(make() if self.rank == 0 else None)[0]


def on_ranks(world: int, work: Callable[[Group], Any]) -> list[Any]:
    """What `work` returns, or the error that it raises, on every rank."""
    shared = {"values": [None] * world, "barrier": threading.Barrier(world)}
    results: list[Any] = [None] * world

    def one(rank: int) -> None:
        try:
            results[rank] = work(Threads(rank, world, shared))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


SEEDED = threading.Lock()  # torch's generator is that of all threads


def learner() -> Any:
    with SEEDED:
        torch.manual_seed(0)
        return MAML(
            Sine(5, 6, test={"shots": 4, "queries": 3, "ways": None}), lambda x, out: MLP(x, out, [8]), test_steps=2
        )


@pytest.mark.parametrize("world", [2, 3])
def test_scores_and_digest_have_the_bits_of_one_process(world: int) -> None:
    def work(group: Group) -> Any:
        ticks: list[int] = []
        return evaluate(learner(), "test", 23, ["queries"], chunk=5, tick=ticks.append, group=group), ticks

    alone, ticks = evaluate(learner(), "test", 23, ["queries"], chunk=5), [5, 10, 15, 20, 23]
    for scores, ticked in on_ranks(world, work):
        assert ticked == ticks  # so that all can vote together
        assert scores.query_sha256 == alone.query_sha256
        assert (scores.indices == np.arange(23)).all()
        assert list(scores.arrays) == list(alone.arrays)
        for name, values in alone.arrays.items():
            assert values.dtype == scores.arrays[name].dtype == np.float64
            assert values.tobytes() == scores.arrays[name].tobytes()


def test_every_piece_is_done_once_and_kept_in_order() -> None:
    done: list[tuple[int, int]] = []

    def work(group: Group) -> Any:
        shared, beside = Shared(group), []
        for piece in range(8):
            shared.do(
                lambda piece=piece: (done.append((group.rank, piece)), piece * piece)[1],
                lambda piece=piece: beside.append(piece),
            )
        return shared.results(), beside

    results = on_ranks(3, work)
    assert [result for result, _ in results] == [[0, 1, 4, 9, 16, 25, 36, 49]] * 3
    assert [beside for _, beside in results] == [[1, 2, 4, 5, 7], [], []]
    assert sorted(done) == sorted((piece % 3, piece) for piece in range(8))


def test_an_error_on_one_rank_is_that_of_one_process_on_all() -> None:
    def work(group: Group) -> Any:
        shared = Shared(group)
        for piece in range(7):

            def make(piece: int = piece) -> int:
                if piece in (3, 4):
                    raise ValueError(f"piece {piece}")
                return piece

            shared.do(make)
        return shared.results()

    for error in on_ranks(2, work):
        assert type(error) is ValueError
        assert str(error) == "piece 3"  # the first that one process would meet


def test_baselines_the_curve_and_the_mean_of_validation_tasks() -> None:
    family, tuned = Sine(5, 6), learner()
    alone = baselines(family, "test", 11, chunk=3)
    curve = shots_curve(learner(), [1, 4], 12, "queries", lambda done: None)
    mean = validator(tuned)(130)

    def work(group: Group) -> Any:
        found = baselines(family, "test", 11, chunk=3, group=group)
        return found, shots_curve(learner(), [1, 4], 12, "queries", lambda done: None, group=group)

    for found, made in on_ranks(2, work):
        assert {name: list(values) for name, values in found.items()} == {n: list(v) for n, v in alone.items()}
        assert all((found[n][m] == alone[n][m]).all() for n in alone for m in alone[n])
        assert made.shots == curve.shots
        assert all((made.arrays[name] == curve.arrays[name]).all() for name in curve.arrays)
    assert on_ranks(2, lambda group: validator(learner(), group=group)(130)) == [mean, mean]
