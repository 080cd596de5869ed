"""The picture of a few episodes: support set, and predictions before and after adaptation; and a method's own views."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from metaexp.algos.views import Heatmap, Scatter, View
from metaexp.errors import MetaexpError
from metaexp.evaluation.scores import Scores
from metaexp.evaluation.shots_curve import ShotsCurve
from metaexp.evaluation.trials import few
from metaexp.loggers.run_loggers import RunLoggers
from metaexp.metric_names import near, split_name
from metaexp.metrics import declared, direction
from metaexp.storage.metrics_log import read_rows
from metaexp.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)


def shape_of(config: dict[str, Any]) -> "Callable[[Figure], None] | None":
    """What brings figures into the width that the settings ask for; None: they stay as drawn."""
    width = config.get("figures", {}).get("width")

    def shape(figure: "Figure") -> None:
        from metaexp.plots.style import resize

        resize(figure, width)

    return None if width is None else shape


@contextmanager
def board_form(figure: "Figure") -> Iterator[None]:
    """The form in which TensorBoard shows a figure."""
    from metaexp.plots.style import on_a_board

    with on_a_board(figure):
        yield


def draw_episodes(learner: Any, split: str, tasks: int) -> "Figure":
    """The first tasks of a split in the form that the family names, before, after one and after all inner steps.

    If the number of support examples varies, a medium number is used. Worlds draw trials.
    """
    from metaexp.plots.pictures import picture_for  # matplotlib takes half a second to import

    family = learner.family
    if learner.acts:
        from metaexp.plots.trials import trials_picture

        return trials_picture(family, *few(learner, split, tasks))
    varying = family.varying(split)
    shots = (varying.fewest + varying.most + 1) // 2 if varying else None
    indices = torch.arange(tasks, device=family.device)
    episode = family.sample(split, indices, **({"shots": shots} | family.common(split, indices)))
    last = learner.test_steps
    shown = sorted({0, min(1, last), last})

    paths: list[list[Any]] = []  # of each task, adapted once

    def predict(x: Tensor) -> Tensor:  # [tasks, m, *x_shape] -> [tasks, len(shown), m, out]
        rows = []
        for task in range(tasks):
            if len(paths) == task:
                paths.append(learner.test_path(tree_map(lambda t, task=task: t[task], episode)))
            path = paths[task]
            rows.append(torch.stack([learner.predict(path[min(step, len(path) - 1)], x[task]) for step in shown]))
        return torch.stack(rows)

    with torch.no_grad():
        return picture_for(family)(episode, predict, shown)


def show_views(learner: Any, split: str, loggers: RunLoggers, step: int) -> None:
    """A learner's views of the first tasks of a split, as `view_NAME`; points also in TensorBoard's projector.

    A picture is no reason to lose a run: a view that fails causes one line of warning.
    """

    def views() -> dict[str, View]:
        indices = torch.arange(learner.view_tasks, device=learner.family.device)
        episode = learner.family.sample(split, indices, **learner.family.common(split, indices))
        with torch.no_grad():
            found: dict[str, View] = learner.views(episode)
        return found

    def show(name: str, view: View) -> None:
        from metaexp.plots.views import draw, point_columns, point_marks  # matplotlib takes half a second to import

        loggers.figure(f"{split}/view_{name}", draw(view), step)
        if isinstance(view, Scatter) and view.points.shape[1] > 2:
            loggers.embedding(f"{split}/view_{name}", view.points, point_columns(view), point_marks(view))

    def attempt(what: str, action: Callable[..., Any], *args: Any) -> Any:
        try:
            return action(*args)
        except MetaexpError:  # a full disk
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0][:150]
            log.info(f"warning: {what} of {type(learner).__name__} left out ({type(error).__name__}: {reason})")

    for name, view in (attempt("views", views) or {}).items():
        attempt(f"view {name}", show, name, view)


def draw_test(
    learner: Any,
    folder: RunFolder,
    loggers: RunLoggers,
    scores: Scores,
    beside: dict[str, Any],
    by_shots: ShotsCurve,
    step: int,
    config: dict[str, Any],
) -> None:
    """Pictures of a test: adaptation curves, curves against shots, calibration, the course of training."""
    from metaexp.plots.curves import adaptation_curve, training_curve  # matplotlib takes half a second to import
    from metaexp.plots.reliability import reliability
    from metaexp.plots.shots import shots_picture

    method = config["choices"]["algo"]
    title = f"{method} on {config['choices']['task']}"
    metrics = declared(learner)
    for name, values in scores.arrays.items():
        lines = {}
        for floor, found in beside.items():
            if (other := near(found, name)) is not None:
                curve = other[np.isfinite(other).all(1)].mean(0)
                lines[floor] = float(curve[0]) if len(curve) == 1 else curve
        better = direction(metrics, name)
        figure = adaptation_curve(name, values, lines, title, better, method)
        loggers.figure(f"test/adaptation_{name}", figure, step)
        if split_name(name).metric in learner.metrics:
            loggers.histogram(f"test/{name}_per_task", values[:, -1], step)
    for name, values in by_shots.arrays.items():
        others = {floor: near(found, name) for floor, found in by_shots.floors.items()}
        others = {floor: other for floor, other in others.items() if other is not None}
        figure = shots_picture(name, by_shots.shots, values, others, title, direction(metrics, name))
        loggers.figure(f"test/shots_{name}", figure, step)
    if scores.calibration:
        loggers.figure("test/calibration", reliability(scores.calibration, title), step)
    if rows := read_rows(folder.path):
        first = next(iter(scores.arrays))
        loggers.figure("train/curve", training_curve(rows, first, title, direction(metrics, first)), step)


def draw_kinds(learner: Any, loggers: RunLoggers, result: dict[str, Any], step: int) -> None:
    """Where tasks have kinds, a table of each of the learner's metrics: mean per kind, beside the baselines."""
    from metaexp.plots.views import draw  # matplotlib takes half a second to import

    for name, entry in result["test"].items():
        if split_name(name).metric not in learner.metrics or "by_kind" not in entry:
            continue
        columns = {result["algo"]: entry}
        columns |= {floor: other for floor, found in result["floors"].items() if (other := near(found, name))}
        kinds = list(entry["by_kind"])
        means = [[one["by_kind"][kind]["mean"] for one in columns.values()] for kind in kinds]
        values = torch.tensor([[float("nan") if mean is None else mean for mean in row] for row in means])
        title = f"{name} after the last step, mean per kind of task"
        loggers.figure(
            f"test/by_kind_{name}", draw(Heatmap(values, "kind", "", kinds, list(columns), title, name)), step
        )
