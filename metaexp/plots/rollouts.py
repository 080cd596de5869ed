"""Predicted courses of systems that move, beside the true ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import vmap

from metaexp.plots.episodes import Predict
from metaexp.plots.style import BLACK, GREY, array, legend, limit, new_panels, shades, step_name, tidy
from metaexp.tasks.dynamics import Dynamics
from metaexp.types import Episode

STEPS = 50


def rollouts(family: Dynamics, episode: Episode, predict: Predict, shown: Sequence[int], title: str = "") -> Figure:
    """The course of each system over 50 steps, and what the model predicts of it from the first state and the actions.

    Pendulum: its angle from the upright against time. Arm: the angles of both links. Bicycle: the path of its rear
    axle. See `metaexp.plots.episodes.curves` for the arguments; the first 6 tasks are drawn.
    """
    tasks, system = min(len(episode.key), 6), family.system
    states, actions = vmap(lambda key: family.course(key, STEPS))(episode.key)  # [tasks, 51, n], [tasks, 50, a]

    def followed(place: int) -> Tensor:  # [tasks, 51, n] after the inner step shown[place]
        found = [states[:, 0]]
        for action in actions.unbind(1):
            change = predict(system.inputs(found[-1], action)[:, None])[:, place, 0, : family.y_dim]
            found.append(system.moved(found[-1], action, change))
        return torch.stack(found, 1)

    lines = [array(followed(place)) for place in range(len(shown))]
    true, alone = array(states), list(shown) == [0]
    colours = shades(1) if alone else ([GREY] if shown[0] == 0 else []) + shades(len(shown) - (shown[0] == 0))
    figure, panels = new_panels(tasks, title or f"{STEPS} steps from the first state on, fed with its own predictions")
    for task, axes in enumerate(panels):
        _course(axes, family, true[task], BLACK, "true course", 1.8, "-")
        for line, step, colour in zip(lines, shown, colours, strict=True):
            label = "prediction" if alone else step_name(step)
            width, dashes = 2.4 if step == shown[-1] else 1.4, "--" if step == 0 and not alone else "-"
            _course(axes, family, line[task], colour, label, width, dashes)
        seen = [_heights(family, course[task]).ravel() for course in (true, lines[-1])]
        limit(axes, np.concatenate(seen), also=np.concatenate([_heights(family, line[task]).ravel() for line in lines]))
    legend(figure, panels[0])
    return figure


def _heights(family: Dynamics, states: np.ndarray) -> np.ndarray:
    """What is drawn upwards of states [51, n]: [51, curves]."""
    found: np.ndarray = states[:, list(family.system.curves) or [1]]
    return found


def _course(
    axes: Axes, family: Dynamics, states: np.ndarray, colour: Any, label: str, width: float, dashes: str
) -> None:
    """One course, states [51, n]."""
    system, heights = family.system, _heights(family, states)
    across = system.dt * np.arange(len(states)) if system.curves else states[:, 0]
    for curve in range(heights.shape[1]):
        name = label if curve == 0 else None
        axes.plot(across, heights[:, curve], color=colour, linewidth=width, linestyle=dashes, label=name)
    tidy(axes, "time [s]" if system.curves else "x [m]", system.curve_name)
