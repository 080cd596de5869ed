"""One cell of the matrix: a method on a family, trained within a budget and tested beside its floors."""

import hashlib
import json
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from metaexp.config.settings import load
from metaexp.errors import MetaexpError
from metaexp.evaluation.baselines import baselines
from metaexp.evaluation.intervals import difference
from metaexp.evaluation.scores import evaluate, validator
from metaexp.metrics import declared, direction
from metaexp.storage.saved_config import config_sha256
from metaexp.system.machine import forget_peak, peak_mb
from metaexp.training.build import Experiment

FIXED = ["device=cpu", "device.threads=1", "compile=false", "seed=0"]
GROUPS = str(Path(__file__).parent / "groups")
Arrays = dict[str, np.ndarray]


class Cell(NamedTuple):
    """A method on a family, and how long it may train.

    Attributes:
        budget: seconds of one core for the outer steps.
        tasks: test tasks; `validation`: validation tasks at each of four validations.
        words: what must be typed for this family.
    """

    algo: str
    task: str
    budget: float
    tasks: int
    validation: int
    words: tuple[str, ...] = ()
    floor_tasks: int = 0  # test tasks of the floors, of which the first `tasks` are compared; 0: `tasks`

    def config(self, steps: int | None = None) -> dict[str, Any]:
        """The settings; those of a run that is typed with so many steps."""
        length = [] if steps is None else [f"steps={steps}"]
        return load([f"algo={self.algo}", f"task={self.task}", *FIXED, *self.words, *length], GROUPS)

    def digest(self) -> str:
        """Of everything that the numbers depend on, except versions and machine."""
        config = self.config() | {"trusted": [], "typed": {}}
        text = json.dumps([config_sha256(config), self.budget, self.tasks, self.validation])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def affordable(cell: Cell) -> tuple[int, float]:
    """Outer steps within the budget, to two digits and at most the default number, and the seconds of one."""
    config = cell.config()
    training = Experiment(config).training
    times = []
    began = time.process_time()
    for index in range(12):
        start = time.process_time()
        training.advance(index)
        times.append(time.process_time() - start)
        if index >= 2 and time.process_time() - began > 0.1 * cell.budget:  # the first step warms up
            break
    each = float(np.median(times[1:] or times))
    steps = max(1, min(config["steps"], int(cell.budget / each)))
    unit = 10 ** max(0, len(str(steps)) - 2)
    return steps // unit * unit, each


def train(cell: Cell, config: dict[str, Any]) -> tuple[Any, dict[str, Any], float]:
    """(learner with its best weights on validation, its initial state, best validation mean)."""
    experiment = Experiment(config)
    learner, training, steps = experiment.learner, experiment.training, config["steps"]
    initial = {name: value.clone() for name, value in learner.state_dict().items()}
    metric = next(iter(learner.metrics))
    sign = 1 if direction(declared(learner), metric) is not False else -1
    best, kept = -np.inf, initial
    marks = {max(1, round(steps * part / 4)) for part in (1, 2, 3, 4)}
    for index in range(steps):
        training.advance(index)
        if index + 1 in marks:
            training.check()
            scores = evaluate(learner, "val", cell.validation, ["queries"], final=True).first(metric)
            value = sign * float(scores[:, -1].mean())
            if value > best:
                best, kept = value, {name: value.clone() for name, value in learner.state_dict().items()}
    learner.load_state_dict(kept)
    return learner, initial, sign * best


def tested(learner: Any, cell: Cell) -> Arrays:
    """The family's metrics on the test tasks after each inner step, queries in one batch: [tasks, steps + 1]."""
    learner.finish(validator(learner))
    return evaluate(learner, "test", cell.tasks, ["queries"]).arrays


@lru_cache(maxsize=4)
def _floors(task: str, words: tuple[str, ...], tasks: int) -> dict[str, Arrays]:
    """mean, neighbour and scratch on the test tasks; scratch chooses its rate on validation tasks."""
    cell = Cell("scratch", task, 0, tasks, 0, words)
    config = cell.config()
    found = baselines(Experiment(config).family, "test", tasks, ["mean", "neighbour"])
    return found | {"scratch": tested(Experiment(config).learner, cell)}


def run(cell: Cell) -> dict[str, Any]:
    """The cell's row: metric, floors, paired differences (above 0: better than the floor)."""
    forget_peak()
    began = time.process_time()
    steps, each = affordable(cell)
    config = cell.config(steps)
    learner, initial, validated = train(cell, config)
    trained = time.process_time() - began
    family = learner.family
    name = next(iter(declared(family)))
    sign = 1.0 if direction(declared(family), name) is not False else -1.0
    arrays = tested(learner, cell)
    own = _last(arrays, name)
    learner.load_state_dict(initial)
    beside = {
        floor: _last(found, name)[: cell.tasks]
        for floor, found in _floors(cell.task, cell.words, cell.floor_tasks or cell.tasks).items()
    }
    beside["untrained"] = _last(tested(learner, cell), name)
    pairs = {floor: difference(sign * own[None], sign * scores[None]) for floor, scores in beside.items()}
    better = {f: None if d is None else [_number(d.mean), _number(d.half or 0.0), d.lost] for f, d in pairs.items()}
    return {
        "digest": cell.digest(), "steps": steps, "seconds_per_step": round(each, 5), "seconds": round(trained, 1),
        "metric": name, "larger_is_better": sign > 0, "mean": _number(own.mean()), "median": _number(np.median(own)),
        "validation": _number(validated), "peak_mb": peak_mb(),
        "per_step": [_number(v) for v in arrays[_form(arrays, name)].mean(0)],
        "floors": {floor: _number(scores.mean()) for floor, scores in beside.items()},
        "better_by": better,
    }  # fmt: skip


def guarded(cell: Cell) -> dict[str, Any]:
    """As `run`; a refusal or a training that diverges becomes the row's `failed`."""
    try:
        return run(cell)
    except (MetaexpError, ValueError, RuntimeError) as error:
        return {"digest": cell.digest(), "failed": str(error).splitlines()[0][:200]}


def _form(arrays: Arrays, name: str) -> str:
    return name if name in arrays else name + "_transductive"


def _last(arrays: Arrays, name: str) -> np.ndarray:
    return np.asarray(arrays[_form(arrays, name)][:, -1], dtype=float)


def _number(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None


torch.set_num_threads(1)
