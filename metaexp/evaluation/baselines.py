"""The baselines of every result, on the same tasks: mean, nearest neighbour; of trajectories the last value and drift;
and, where the family has one, oracle. In worlds: random actions, one who takes
every task for the average one, and one who knows it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaexp.algos.forecasts import Drift, Last
from metaexp.algos.informed import Informed
from metaexp.algos.mean import Mean
from metaexp.algos.neighbour import Neighbour
from metaexp.algos.nominal import Nominal
from metaexp.algos.oracle import Oracle
from metaexp.algos.random import Random
from metaexp.evaluation.scores import by_task, chunk_size, chunks, score
from metaexp.evaluation.sharing import Shared
from metaexp.mapping import map_tasks
from metaexp.metrics import Metric
from metaexp.system.group import ALONE, Group

BASELINES: dict[str, Any] = {
    "mean": Mean,
    "neighbour": Neighbour,
    "last": Last,
    "drift": Drift,
    "oracle": Oracle,
    "random": Random,
    "nominal": Nominal,
    "informed": Informed,
}
VALIDATED = ("mean", "random", "informed")  # those that stand beside every validation


def _learners(family: Any, names: Sequence[str] = tuple(BASELINES)) -> dict[str, Any]:
    acts = getattr(family, "acts", False)
    fit = (name for name in names if BASELINES[name].acts == acts and BASELINES[name].is_floor_of(family))
    return {name: BASELINES[name](family) for name in fit}


def baseline_metrics(family: Any) -> dict[str, Metric]:
    """All metrics that the baselines of a family report, by name."""
    return {name: metric for learner in _learners(family).values() for name, metric in learner.metrics.items()}


def baselines(
    family: Any,
    split: str,
    tasks: int,
    names: Sequence[str] = tuple(BASELINES),
    shots: int | None = None,
    chunk: int | None = None,
    tick: Callable[[int], None] = lambda done: None,
    group: Group = ALONE,
) -> dict[str, dict[str, np.ndarray]]:
    """Metrics of the first `tasks` tasks of a split: baseline -> metric -> float64 [tasks, 1].

    They learn nothing across tasks, so they need no run. The tasks are drawn once for all of them.

    Args:
        names: which baselines; those that do not apply to the family (`is_floor_of`) are left out.
        shots: support examples (per class); None: the split's.
        chunk: tasks drawn at once (None: 100, or as many as a world allows); does not change them.
        tick: called after every chunk with the number of tasks done; may raise to stop.
        group: the processes that share the chunks; all of them get everything.
    """
    learners, shared = _learners(family, names), Shared(group)
    chunk = chunk or max((chunk_size(learner) for learner in learners.values() if learner.acts), default=100)
    order: list[np.ndarray] = []

    def scored(indices: Tensor) -> dict[str, dict[str, np.ndarray]]:
        episode = family.sample(split, indices, shots=shots)
        found = {}
        for name, learner in learners.items():
            seen = episode if learner.reads_info else episode._replace(info={})
            values = map_tasks(partial(score, learner, modes={"": "queries"}, final=True), seen, "vmap")
            found[name] = {metric: value.double().cpu().numpy() for metric, value in values.items()}
        return found

    # In full precision: an oracle that rounds is no upper bound.
    with torch.no_grad(), torch.autocast(torch.device(family.device).type, enabled=False):
        for indices in chunks(family, split, tasks, chunk, shots):
            shared.do(partial(scored, indices))
            order.append(indices.cpu().numpy())
            tick(sum(map(len, order)))
    parts = shared.results()
    every = np.concatenate(order)
    return {name: by_task(family, split, every, [part[name] for part in parts])[1] for name in learners}
