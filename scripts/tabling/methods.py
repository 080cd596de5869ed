"""Our methods on a table: the same number of candidates and outer steps for each, all choices on validation tasks.

A run is trained in this process. Five times on its way it predicts the validation trials, which are made like those of
the test, and the weights with the best validation score are kept. A finished run is two files, NAME.json and NAME.pt;
one whose JSON file is there and was made with the same settings is not made again.
"""

import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from metaexp.algos.trial import at_test
from metaexp.config.settings import load
from metaexp.errors import NonFiniteError
from metaexp.evaluation.scores import validator
from metaexp.mapping import map_tasks
from metaexp.models.attention import plain_attention
from metaexp.random import task_keys
from metaexp.training.build import Experiment
from metaexp.types import Episode, Examples
from tabling.trials import Trial

Encode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # rows -> x [n, d], y [n, y_dim]
Judge = Callable[[Any], float]  # learner -> validation score, larger is better
MARKS = 5  # validations of a run


class Budget(NamedTuple):
    """What every method gets alike."""

    steps: int
    search_steps: int
    search_seed: int
    seeds: list[int]


class Made(NamedTuple):
    """A finished run: what its file says, and where its weights are."""

    told: dict[str, Any]
    weights: Path


def candidates(method: dict[str, Any]) -> list[list[str]]:
    """All combinations of a method's `search` settings, as they are typed."""
    grid = method.get("search") or {}
    made = itertools.product(*grid.values())
    return [[f"{key}={json.dumps(value)}" for key, value in zip(grid, values, strict=True)] for values in made]


def experiment(words: Sequence[str], family: Any, seed: int, steps: int) -> Experiment:
    """The parts of a run on the family, whose training tasks then are those of the seed."""
    config = load([*words, f"seed={seed}", f"steps={steps}"], None)
    family.seed = seed
    return Experiment(config, family=family)


def run(file: Path, words: Sequence[str], family: Any, seed: int, steps: int, judge: Judge) -> Made:
    """Train, unless the files are there; the settings of earlier ones must be the same.

    Raises:
        SystemExit: the run was made with other settings.
    """
    asked = [*words, f"seed={seed}", f"steps={steps}"]
    if file.exists():
        told = json.loads(file.read_text(encoding="utf-8"))
        changed = sorted(set(told["asked"]) ^ set(asked))
        if changed:
            raise SystemExit(f"{file}: made with other settings ({' '.join(changed)}); move it away")
        return Made(told, file.with_suffix(".pt"))
    begun = time.process_time()
    made = experiment(words, family, seed, steps)
    learner, curve, failure = made.learner, [], ""
    marks = sorted({round(steps * part / MARKS) for part in range(1, MARKS + 1)} - {0}) if learner.trains else []
    best, kept = -np.inf, _state(learner)
    step = 0
    try:
        for mark in marks or [0]:
            while step < mark:
                made.training.advance(step)
                step += 1
            if mark:
                made.training.check()
            value = judge(learner) if mark else 0.0  # nothing is trained: nothing to choose
            curve.append([step, value])
            if value > best:
                best, kept = value, _state(learner)
    except NonFiniteError as error:
        failure = str(error).splitlines()[0]
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(kept, file.with_suffix(".pt"))
    spent = time.process_time() - begun
    told = {"asked": asked, "best": best, "curve": curve, "failure": failure, "cpu_seconds": round(spent, 1)}
    file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return Made(told, file.with_suffix(".pt"))


def _state(learner: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in learner.state_dict().items()}


def restored(words: Sequence[str], family: Any, seed: int, steps: int, made: Made) -> Any:
    """The learner of a finished run with its best weights."""
    learner = experiment(words, family, seed, steps).learner
    learner.load_state_dict(torch.load(made.weights, weights_only=True))
    return learner


def search_and_train(
    method: dict[str, Any], words: Sequence[str], family: Any, budget: Budget, home: Path, judge: Judge
) -> tuple[dict[str, Any], list[Any]]:
    """What was chosen and how the runs went, and the trained learner of each seed."""
    options, scores = candidates(method), [0.0]
    if len(options) > 1:
        scores = []
        for place, option in enumerate(options):
            file = home / f"candidate{place}.json"
            found = run(file, [*words, *option], family, budget.search_seed, budget.search_steps, judge)
            scores.append(found.told["best"] if not found.told["failure"] else -np.inf)
    chosen = options[int(np.argmax(scores))]
    typed = [*words, *chosen]
    seeds = budget.seeds if "search" in method else budget.seeds[:1]
    made = [run(home / f"seed{s}.json", typed, family, s, budget.steps, judge) for s in seeds]
    about = {"chosen": " ".join(chosen), "candidates": len(options), "search": scores}
    about |= {key: [one.told[key] for one in made] for key in ("curve", "failure", "cpu_seconds")}
    return about, [restored(typed, family, s, budget.steps, m) for s, m in zip(seeds, made, strict=True)]


def predictions(learner: Any, trials: Sequence[Trial], encode: Encode, together: int = 60) -> list[np.ndarray]:
    """What a learner predicts for the queries of each trial after learning its support: float64 [m, out].

    The targets of queries are never given to it. Trials with equally many support rows are done together, their queries
    padded with copies of the last one, whose predictions are dropped: a prediction does not depend on other queries in
    the networks used here, which have no batch norm.
    """
    learner.settle()
    groups: dict[int, list[int]] = {}
    for i in sorted(range(len(trials)), key=lambda place: len(trials[place].query)):
        groups.setdefault(len(trials[i].support), []).append(i)
    made: list[Any] = [None] * len(trials)
    with torch.no_grad(), at_test(learner), plain_attention():
        for members in groups.values():
            for start in range(0, len(members), together):
                part = members[start : start + together]
                for i, found in zip(part, _together(learner, [trials[i] for i in part], encode), strict=True):
                    made[i] = found[: len(trials[i].query)]
    return made


def _together(learner: Any, trials: Sequence[Trial], encode: Encode) -> np.ndarray:
    """[tasks, most queries, out] for trials with equally many support rows."""
    family, most = learner.family, max(len(trial.query) for trial in trials)

    def tensor(arrays: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.as_tensor(np.stack(arrays), dtype=family.dtype)

    support = [encode(trial.support) for trial in trials]
    query = [encode(np.pad(trial.query, (0, most - len(trial.query)), mode="edge"))[0] for trial in trials]
    known = Examples(tensor([x for x, _ in support]), tensor([y for _, y in support]))
    asked = tensor(query)
    hidden = Examples(asked, torch.zeros(*asked.shape[:2], known.y.shape[-1], dtype=family.dtype))
    episode = Episode(known, hidden, task_keys(0, "test", torch.arange(len(trials))), {})
    mode = next(iter(learner.modes(["queries"]).values()))

    def one(task: Episode) -> torch.Tensor:
        return learner.predict_as(mode, learner.test_path(task)[-1], task.support, task.query.x)

    return np.asarray(map_tasks(one, episode, learner.mapping).double().numpy())


def finish(learner: Any) -> None:
    """What a method chooses on validation tasks after training, such as its fine-tuning rate."""
    with torch.no_grad():
        learner.finish(validator(learner))
