"""What a validation produces: a row of metrics with the baselines, scalars and pictures."""

import time
from collections.abc import Callable
from typing import Any

from metaexp.evaluation.baselines import VALIDATED, baselines
from metaexp.evaluation.intervals import summary
from metaexp.evaluation.scores import Scores
from metaexp.loggers.run_loggers import RunLoggers
from metaexp.loggers.tensorboard import validation_scalars
from metaexp.metric_names import forms, near, split_name
from metaexp.metrics import declared, direction, score_names
from metaexp.training.figures import draw_episodes, show_views

PICTURES = 30.0  # least seconds between pictures of validation tasks


def validation_floors(
    learner: Any, tasks: int, loggers: RunLoggers, step: int, tick: Callable[[int], None]
) -> dict[str, dict[str, float | None]]:
    """Means of the baselines and upper bounds on the validation tasks, also as lines in TensorBoard's charts.

    Args:
        learner: the one that was validated.
        tasks: number of validation tasks.
        loggers: where the lines go.
        step: the outer step that they end at.
        tick: see `baselines`.

    Returns:
        baseline -> metric -> mean over the tasks; None where every task diverged.
    """
    found = baselines(learner.family, "val", tasks, tick=tick)
    floors = {name: {metric: summary(values)["mean"] for metric, values in own.items()} for name, own in found.items()}
    first, lines = next(iter(learner.metrics)), {}
    for metric in score_names(learner.metrics, learner.modes(["queries"])):
        for name, known in floors.items():
            value = near(known, metric)
            drawn = name == "mean" and split_name(metric).metric == first  # a line that grows with every validation
            if value is not None and not drawn:
                lines[f"floor/{name}/{metric}"] = value
    loggers.constants(lines, step)
    return floors


class Validation:
    """Turns the scores of validation tasks into rows, scalars and pictures.

    Args:
        learner: the learner that is scored.
        tasks: number of validation tasks.
        loggers: where scalars and pictures go.
        before: the baseline's name that the weights of step 0 are: scratch, or parent if they come from another run.
    """

    def __init__(self, learner: Any, tasks: int, loggers: RunLoggers, before: str = "scratch"):
        self.learner, self.tasks, self.loggers, self.before = learner, tasks, loggers, before
        self.metric = next(iter(learner.metrics))
        self._floors: dict[str, dict[str, float | None]] | None = None
        self._drawn = time.monotonic()  # no picture before the first step, which it would delay

    def row(self, scores: Scores, step: int, best: dict[str, Any]) -> dict[str, Any]:
        """The row of metrics.jsonl. At step 0 the scores become the baseline `before`, kept in `best` as scratch."""
        row: dict[str, Any] = {"kind": "val", "step": step}
        for name, values in scores.arrays.items():
            found = summary(values)
            row[name] = {key: found[key] for key in ("mean", "ci95", "median", "diverged")}
            row[name]["per_step"] = [{key: step[key] for key in ("mean", "ci95")} for step in found["per_step"]]
        if self._floors is None:  # they learn nothing
            found = baselines(self.learner.family, "val", self.tasks, VALIDATED)
            self._floors = {
                floor: {name: summary(values)["mean"] for name, values in arrays.items()}
                for floor, arrays in found.items()
            }
        if step == 0:
            best["scratch"] = {name: summary(values)["mean"] for name, values in self._judged(scores)}
        row["floors"] = {**self._floors, self.before: best.get("scratch", {})}
        return row

    def scalars(self, scores: Scores, row: dict[str, Any]) -> dict[str, float]:
        """Write the row's numbers to the loggers; returns the metrics to show, by name."""
        shown: dict[str, float] = {}
        values: dict[str, float] = {}
        for name in scores.arrays:
            found = row[name]
            if found["mean"] is None:
                continue
            if split_name(name).metric in self.learner.metrics:
                shown[name] = found["mean"]
                values |= validation_scalars(name, found["per_step"])
            else:
                values[f"val/{name}"] = found["mean"]
        for metric, per_task in self._judged(scores):
            self.loggers.histogram(f"val/{metric}_per_task", per_task[:, -1], row["step"])
            for baseline, known in row["floors"].items():
                value = near(known, metric)
                if value is not None:
                    values[f"floor/{baseline}/{metric}"] = value
        self.loggers.scalars(values, row["step"])
        return shown

    def draw(self, scores: Scores, step: int, scratch: dict[str, float], last: bool) -> None:
        """Draws the validation tasks at the last validation, and before it at most once per PICTURES seconds."""
        if not (self.loggers.active and self.loggers.draws) or not (last or time.monotonic() - self._drawn > PICTURES):
            return
        from metaexp.plots.curves import adaptation_curve  # matplotlib takes half a second to import

        self.loggers.figure("val/episodes", draw_episodes(self.learner, "val", 4), step)
        for name, values in self._judged(scores):
            lines = {self.before: scratch[name]} if scratch.get(name) is not None else None
            better = direction(declared(self.learner), name)
            method = type(self.learner).__name__
            figure = adaptation_curve(name, values, lines, larger_is_better=better, method=method)
            self.loggers.figure(f"val/adaptation_{name}", figure, step)
        if last:
            show_views(self.learner, "val", self.loggers, step)
        self._drawn = time.monotonic()

    def _judged(self, scores: Scores) -> list[tuple[str, Any]]:
        """The first metric in each of its normalisation modes."""
        return [(name, scores.arrays[name]) for name in forms(self.metric, scores.arrays)]
