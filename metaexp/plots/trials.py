"""Pictures of worlds: trials in a few tasks, and how the reward grows within a task."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from metaexp.plots.baselines import LOOKS
from metaexp.plots.style import BLUE, GREY, SKY, legend, new_figure, new_panels, step_name, tidy, whole_numbers
from metaexp.tasks.world import Task, Trajectory

OWN = {"before adaptation": SKY, "before meta-training": GREY}  # colours of a method's own curves; the rest are BLUE


def trials_picture(world: Any, tasks: Sequence[Task], trials: Sequence[Sequence[Trajectory]]) -> Figure:
    """A row for each of the policies before, after one and after all inner steps, a column for each task.

    Each trial is drawn by the world (`World.sketch`).

    Args:
        tasks: hidden parameters, one by one.
        trials: the trial of each policy (after 0, 1, ... inner steps) in each of the tasks.
    """
    last = len(trials) - 1
    shown = sorted({0, min(1, last), last})
    figure = new_figure(3.1 * len(tasks), 2.9 * len(shown), "")
    panels = figure.subplots(len(shown), len(tasks), squeeze=False)
    for row, step in zip(panels, shown, strict=True):
        for axes, task, trial in zip(row, tasks, trials[step], strict=True):
            tidy(axes)
            world.sketch(axes, task, trial)
            name = f"{step_name(step)}: " if last and axes is row[0] else ""
            axes.set_title(f"{name}return {float(trial.reward.sum()):.3g}", fontsize=11, loc="left")
    return figure


def within_picture(
    own: Mapping[str, np.ndarray], beside: Mapping[str, np.ndarray], unit: str, title: str = ""
) -> Figure:
    """How learning goes within a task: reward per unit (left) and added up (right), means over tasks with 95 % bands.

    Args:
        own: what a policy of the method is called -> [2, units], mean and half-width.
        beside: baseline or heuristic -> likewise. With "informed", the right panel is the regret to it.
        unit: step or episode.
        title: of the figure.
    """
    figure, (left, right) = new_panels(2, title, height=4.6)
    top = beside.get("informed")
    tidy(left, unit, f"reward per {unit}")
    tidy(right, unit, "reward so far" if top is None else "regret so far")
    for name, (mean, half) in {**beside, **own}.items():
        x = np.arange(1, len(mean) + 1)
        known = name in LOOKS or name in own
        colour, dashes = (OWN.get(name, BLUE), "-") if name in own else LOOKS.get(name, (None, (0, (4, 3))))
        look: dict[str, Any] = {"color": colour if known else None, "linestyle": dashes}
        look["linewidth"] = 2.4 if name in own else 1.6
        (line,) = left.plot(x, mean, label=name, **look)
        left.fill_between(x, mean - half, mean + half, color=line.get_color(), alpha=0.18, linewidth=0)
        total = mean.cumsum() if top is None else (top[0] - mean).cumsum()
        right.plot(x, total, **look | {"color": line.get_color()})
    for axes in (left, right):
        whole_numbers(axes)
    legend(figure, left, 5)
    return figure
