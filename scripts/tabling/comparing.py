"""One study from its table to its numbers."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
Values = dict[str, dict[str, dict[str, dict[str, list[float]]]]]  # cell -> measure -> row -> task -> value per seed
AGAINST = ("pooled regression + task offset", "pooled logistic regression + task offset", "user + item means")


def write_rows(table: Table, n: Numbers, file: Path) -> None:
    """The table with a column `split`, the rows of each task together and in order; without columns that have one value
    in training, which `task=table` refuses.

    Raises:
        SystemExit: other data are there already, from which runs were made.
    """
    where = {task: word for word, tasks in n.split.items() for task in tasks}
    frame = table.frame.iloc[np.concatenate([n.rows[task] for task in where])].copy()
    frame["split"] = frame[table.by].astype(str).map(where)
    training = frame[frame["split"] == "train"]
    same = [name for name in table.features if training[name].nunique(dropna=False) < 2]
    text = frame.drop(columns=same).to_csv(index=False)
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


class Fold(NamedTuple):
    """One division of the tasks, and its trials by split and cell."""

    numbers: Numbers
    cells: dict[str, Cells]
    home: Path


def compare(
    name: str, plan: dict[str, Any], places: dict[str, Path], folder: Path, budget: float, only: Sequence[str] | None
) -> Iterator[dict[str, Any]]:
    """All numbers of a study, for its JSON file: after the baselines, and again after each method."""
    torch.set_num_threads(1)
    spec, study = plan["studies"][name], STUDIES[name](places)
    kinds = {key: one for key, one in plan["methods"][spec["methods"]].items() if only is None or key in only}
    given = methods.Budget(
        max(2, int(spec["steps"] * budget)), max(2, int(spec["search_steps"] * budget)), plan["search_seed"],
        spec.get("seeds", plan["seeds"]),
    )  # fmt: skip
    folds = list(divided(study, folder))
    scores = Scores(study)
    for fold in folds:
        for row, asks in study.baselines(fold.numbers, fold.cells["val"]):
            scores.baselines.append(row)
            for cell, ask in asks.items():
                scores.add(fold, cell, row, [[ask(fold.cells[part][cell])] for part in ("val", "test")])
        print(f"{name}: baselines of {fold.home.name} done", flush=True)
    about: dict[str, Any] = {}
    header = {
        "name": name, "source": study.table.source, "date": time.strftime("%Y-%m-%d"), "versions": versions(),
        "machine": machine(torch.device("cpu")), "commit": commit(), "steps": given.steps,
        "search_steps": given.search_steps, "seeds": given.seeds, "folds": len(folds),
        "meta_batch": next(word for word in plan["common"] if word.startswith("meta_batch=")).split("=")[1],
        "split": {part: len(study.table.folds[0][part]) for part in ("train", "val", "test")}, "methods": about,
    }  # fmt: skip
    yield header | {"cells": scores.told()}
    learned = [Learned(study, fold, plan, spec) for fold in folds] if kinds else []
    for row, method in kinds.items():
        for fold, one in zip(folds, learned, strict=True):
            typed = [*one.typed, *method["settings"]]
            went, learners = methods.search_and_train(
                method, typed, one.coder.family, given, fold.home / row, one.judge
            )
            about.setdefault(row, []).append(went)
            for learner in learners:
                methods.finish(learner)
            for cell in fold.cells["test"]:
                asked = (fold.cells[part][cell] for part in ("val", "test"))
                scores.add(fold, cell, row, [[one.coder.ask(made, part) for made in learners] for part in asked])
        print(f"{name}: {row} done ({sum(sum(w['cpu_seconds']) for w in about[row]):.0f} s of training)", flush=True)
        yield header | {"cells": scores.told()}


def divided(study: Study, folder: Path) -> Iterator[Fold]:
    """The folds, or the one division, of a study."""
    folds = len(study.table.folds)
    for place in range(folds):
        n = numbers(study.table, place)
        home = folder / f"fold{place}" if folds > 1 else folder
        yield Fold(n, {part: study.cells(n, part) for part in ("val", "test")}, home)


class Learned:
    """What methods need in a fold: the file, what is typed, the coder, and the judge of their validation trials."""

    def __init__(self, study: Study, fold: Fold, plan: dict[str, Any], spec: dict[str, Any]):
        file = fold.home / "table.csv"
        write_rows(study.table, fold.numbers, file)
        self.typed = [*plan["common"], *words(study.table, file), *spec.get("words", [])]
        self.coder = Coder(study.table, fold.numbers, self.typed)
        self.judge = judged(study, fold.numbers, fold.cells["val"], self.coder)


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


class Scores:
    """The scores of all rows: cell -> measure -> row -> task -> its value for each seed."""

    def __init__(self, study: Study):
        self.study = study
        self.baselines: list[str] = []
        self.val: Values = {}
        self.test: Values = {}

    def add(self, fold: Fold, cell: str, row: str, pair: Sequence[Sequence[Sequence[np.ndarray]]]) -> None:
        """A row's predictions in a cell: of validation and of test, for each seed, those of each trial."""
        n, cells = fold.numbers, fold.cells
        for word, measure in self.study.measures.items():
            for seed, (first, last) in enumerate(zip(*pair, strict=True)):
                cut = compared.threshold(n, cells["val"][cell], first) if measure.threshold else None
                for part, made, into in (("val", first, self.val), ("test", last, self.test)):
                    place = into.setdefault(cell, {}).setdefault(word, {}).setdefault(row, {})
                    for task, value in compared.by_task(n, cells[part][cell], made, measure, cut).items():
                        place.setdefault(task, []).append(value)
                        if len(place[task]) > seed + 1:
                            raise ValueError(f"{row}: task {task} is there in two folds")

    def told(self) -> dict[str, Any]:
        """The tables of all cells, and for each cell the method that is best on validation tasks."""
        name, first = next(iter(self.study.measures.items()))
        sign, found = (1 if first.larger else -1), {}
        for cell, measured in self.test.items():
            found[cell] = {}
            for word, scores in measured.items():
                arrays = {row: np.array(list(tasks.values())).T for row, tasks in scores.items()}
                larger = self.study.measures[word].larger
                found[cell][word] = compared.rows(arrays, self.baselines, larger, AGAINST)
                found[cell][word]["larger_is_better"] = larger
            learned = {row: tasks for row, tasks in self.val[cell][name].items() if row not in self.baselines}
            levels = {
                row: sign * float(np.mean([np.mean(v) for v in tasks.values()])) for row, tasks in learned.items()
            }
            found[cell]["best_on_validation"] = max(levels, key=lambda row: levels[row]) if levels else None
        return found


def commit() -> str:
    """The commit of the code, in short."""
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
