"""One study from its table to its numbers."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metaexp.config.settings import load
from metaexp.storage.checkpoint_file import versions
from metaexp.system.machine import machine
from metaexp.training.build import Experiment
from tabling import compared, methods
from tabling.floors import mean_score
from tabling.studies import STUDIES, Study
from tabling.table import Numbers, Table, numbers
from tabling.trials import Cells

ROOT = Path(__file__).resolve().parent.parent.parent
Scores = dict[str, dict[str, dict[str, dict[str, list[float]]]]]  # cell -> measure -> row -> task -> value per seed
AGAINST = ("pooled regression + task offset", "pooled logistic regression + task offset", "user + item means")


def write_rows(table: Table, split: dict[str, list[str]], n: Numbers, file: Path) -> None:
    """The table with a column `split`, the rows of each task together and in order.

    Raises:
        SystemExit: other data are there already, from which runs were made.
    """
    where = {task: word for word, tasks in split.items() for task in tasks}
    frame = table.frame.iloc[np.concatenate([n.rows[task] for task in where])].copy()
    frame["split"] = frame[table.by].astype(str).map(where)
    text = frame.to_csv(index=False)
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise SystemExit(f"{file}: its runs were made from other data; move the folder away")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def words(table: Table, file: Path) -> list[str]:
    """What must be typed for this table."""
    made = ["task=table", f'task.file="{file}"', f"task.by={table.by}", f"task.target={table.target}"]
    made += [f"task.kind={'classification' if table.classes else 'regression'}"]
    return made + ([f"task.order={table.order}"] if table.order else [])


class Coder:
    """The table as the family `task=table` has it, which scales and encodes columns by its training tasks.

    The family holds a task's rows in the order in which `write_rows` wrote them.
    """

    def __init__(self, table: Table, n: Numbers, typed: Sequence[str]):
        self.family: Any = Experiment(load([*typed, "algo=mean"], None)).family
        content = self.family.content
        starts = np.cumsum([0, *content.counts])
        self.place = np.full(len(n.y), -1)
        for i, name in enumerate(content.names):
            self.place[n.rows[str(name)]] = np.arange(starts[i], starts[i + 1])
        self.x, self.y = content.x.numpy(), content.y.numpy()
        classes = [str(label) for label in content.inputs.classes or []]
        self.positive = classes.index(table.classes[1]) if table.classes else None
        own = self.y[self.place, self.positive] if classes else self.y[self.place, 0] * self.std + self.mean
        if (self.place < 0).any() or not np.allclose(own, n.y, atol=1e-6):
            raise ValueError("the family's rows are not those of the table")

    mean = property(lambda self: float(self.family.y_mean))
    std = property(lambda self: float(self.family.y_std))

    def encode(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(x [n, d], y [n, y_dim]) of rows of the table."""
        return self.x[self.place[rows]], self.y[self.place[rows]]

    def ask(self, learner: Any, trials: Sequence[Any]) -> list[np.ndarray]:
        """A learner's predictions in the target's unit [m]: means, or probabilities of the positive class."""
        return [self._decoded(made) for made in methods.predictions(learner, trials, self.encode)]

    def _decoded(self, made: np.ndarray) -> np.ndarray:
        if self.positive is None:
            return np.asarray(made[:, 0] * self.std + self.mean)
        shown = np.exp(made - made.max(1, keepdims=True))
        return np.asarray(shown[:, self.positive] / shown.sum(1))


def compare(
    name: str, plan: dict[str, Any], places: dict[str, Path], folder: Path, budget: float, only: Sequence[str] | None
) -> dict[str, Any]:
    """All numbers of a study, for its JSON file."""
    torch.set_num_threads(1)
    spec, study = plan["studies"][name], STUDIES[name](places)
    kinds = {key: one for key, one in plan["methods"][spec["methods"]].items() if only is None or key in only}
    given = methods.Budget(
        max(2, int(spec["steps"] * budget)), max(2, int(spec["search_steps"] * budget)), plan["search_seed"],
        spec.get("seeds", plan["seeds"]),
    )  # fmt: skip
    test, val, about, baselines = {}, {}, {}, set()
    for fold, split in enumerate(study.table.folds):
        n = numbers(study.table, fold)
        home = folder / f"fold{fold}" if len(study.table.folds) > 1 else folder
        cells = {part: study.cells(n, part) for part in ("val", "test")}
        for cell in cells["val"]:
            for row, ask in study.baselines(n, cells["val"][cell]).items():
                baselines.add(row)
                keep(study, n, cells, cell, row, [[ask(cells[part][cell])] for part in ("val", "test")], val, test)
        print(f"{name}: baselines done", flush=True)
        if not kinds:
            continue
        write_rows(study.table, split, n, home / "table.csv")
        typed = [*plan["common"], *words(study.table, home / "table.csv"), *spec.get("words", [])]
        coder = Coder(study.table, n, typed)
        judge = judged(study, n, cells["val"], coder)
        for row, went, learners in methods.search_and_train(kinds, typed, coder.family, given, home, judge):
            about.setdefault(row, []).append(went)
            for learner in learners:
                methods.finish(learner)
            for cell in cells["test"]:
                pair = [[coder.ask(one, cells[part][cell]) for one in learners] for part in ("val", "test")]
                keep(study, n, cells, cell, row, pair, val, test)
            print(f"{name}: {row} done ({sum(went['cpu_seconds']):.0f} s of training)", flush=True)
    return {
        "name": name, "source": study.table.source, "date": time.strftime("%Y-%m-%d"), "versions": versions(),
        "machine": machine(torch.device("cpu")), "commit": commit(), "steps": given.steps,
        "search_steps": given.search_steps, "seeds": given.seeds, "folds": len(study.table.folds), "methods": about,
        "meta_batch": next(word for word in plan["common"] if word.startswith("meta_batch=")).split("=")[1],
        "split": {part: len(study.table.folds[0][part]) for part in ("train", "val", "test")},
        "cells": told(study, test, val, sorted(baselines)),
    }  # fmt: skip


def judged(study: Study, n: Numbers, cells: Cells, coder: Coder) -> methods.Judge:
    """The mean over cells of the first measure on validation trials, with its sign so that larger is better.

    Of each task and cell the first trial is taken.
    """
    first = next(iter(study.measures.values()))
    few = {cell: list({trial.task: trial for trial in reversed(trials)}.values()) for cell, trials in cells.items()}

    def judge(learner: Any) -> float:
        methods.finish(learner)
        scores = [mean_score(n, trials, coder.ask(learner, trials), first.score) for trials in few.values()]
        value = float(np.mean(scores)) * (1 if first.larger else -1)
        return value if np.isfinite(value) else -np.inf

    return judge


def keep(
    study: Study,
    n: Numbers,
    cells: dict[str, Cells],
    cell: str,
    row: str,
    pair: list[list[list[np.ndarray]]],  # of validation and of test: for each seed the predictions of each trial
    val: Scores,
    test: Scores,
) -> None:
    """Add the scores of a row in a cell, task by task and seed by seed."""
    for word, measure in study.measures.items():
        for seed, (first, last) in enumerate(zip(*pair, strict=True)):
            cut = compared.threshold(n, cells["val"][cell], first) if measure.threshold else None
            for part, made, into in (("val", first, val), ("test", last, test)):
                place = into.setdefault(cell, {}).setdefault(word, {}).setdefault(row, {})
                for task, value in compared.by_task(n, cells[part][cell], made, measure, cut).items():
                    place.setdefault(task, []).append(value)
                    if len(place[task]) > seed + 1:
                        raise ValueError(f"{row}: task {task} is there in two folds")


def told(study: Study, test: Scores, val: Scores, baselines: list[str]) -> dict[str, Any]:
    """The tables of all cells, and for each cell the method that is best on validation tasks."""
    name, first = next(iter(study.measures.items()))
    found: dict[str, Any] = {}
    for cell, measured in test.items():
        found[cell] = {}
        for word, scores in measured.items():
            arrays = {row: np.array(list(tasks.values())).T for row, tasks in scores.items()}
            found[cell][word] = compared.rows(arrays, baselines, study.measures[word].larger, AGAINST)
            found[cell][word]["larger_is_better"] = study.measures[word].larger
        learned = {row: tasks for row, tasks in val[cell][name].items() if row not in baselines}
        levels = {row: float(np.mean([np.mean(v) for v in tasks.values()])) for row, tasks in learned.items()}
        sign = 1 if first.larger else -1
        found[cell]["best_on_validation"] = max(levels, key=lambda row: sign * levels[row]) if levels else None
    return found


def commit() -> str:
    """The commit of the code, in short."""
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
