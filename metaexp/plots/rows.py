"""Pictures of the tasks of a table, in the target's own unit: trajectories, or predicted against true values."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metaexp.plots.episodes import Picture, Predict
from metaexp.plots.outside import note_outside
from metaexp.plots.style import (
    BLACK,
    BLUE,
    GREY,
    VERMILION,
    array,
    legend,
    limit,
    new_panels,
    shades,
    step_name,
    tidy,
)
from metaexp.types import Episode

MOST = 6  # tasks in one picture


def table_picture(family: Any) -> Picture:
    """Trajectories where the family's rows are in the order of a time, otherwise predicted against true targets.

    Args:
        family: a regression on rows of a table, with `names` of the tasks, `target_name`, `y_mean` and `y_std`; of
            trajectories also `time` and `time_units` (the name of the time's column, its mean and deviation).
    """
    mean, std = float(family.y_mean), float(family.y_std)

    def draw(episode: Episode, predict: Predict, shown: Sequence[int], title: str = "") -> Figure:
        guess = array(predict(episode.query.x))[..., :1]  # of Gaussian predictions the mean
        true, known = (array(part.y) for part in (episode.query, episode.support))
        y = {"guess": guess * std + mean, "true": true * std + mean, "known": known * std + mean}
        tasks = min(len(true), MOST)
        figure, panels = new_panels(tasks, title)
        when = _times(family, episode)
        for task, axes in enumerate(panels[:tasks]):
            own = {name: values[task] for name, values in y.items()}
            if when is None:
                _scatter(axes, own, shown, family.target_name)
            else:
                _trajectory(axes, own, shown, [part[task] for part in when], family.target_name, family.time_units[0])
            error = np.sqrt(np.mean((own["guess"][-1] - own["true"]) ** 2)) if own["true"].size else np.nan
            name = family.names[int(episode.info["task"][task])]
            axes.set_title(f"{name}: rmse {error:.3g}", fontsize=12)
        legend(figure, panels[0])
        return figure

    return draw


def _times(family: Any, episode: Episode) -> list[np.ndarray] | None:
    """Times of support and query rows, [tasks, n] each; None without a time."""
    if not family.ordered or family.time is None:
        return None
    _, mean, std = family.time_units
    return [array(part.x)[..., family.time] * std + mean for part in (episode.support, episode.query)]


def _looks(shown: Sequence[int]) -> list[tuple[int, Any, str]]:
    """(place among `shown`, colour, name) of the predictions that are drawn: before, if there are steps, and after."""
    if list(shown) == [0]:
        return [(0, BLUE, "prediction")]
    return [(0, GREY, step_name(0)), (len(shown) - 1, shades(1)[0], step_name(shown[-1]))]


def _scatter(axes: Axes, y: dict[str, np.ndarray], shown: Sequence[int], target: str) -> None:
    for place, colour, name in _looks(shown):
        axes.plot(y["true"], y["guess"][place], "o", color=colour, markersize=5, alpha=0.7, mec="none", label=name)
    axes.axline((float(y["true"].mean()), float(y["true"].mean())), slope=1, color=BLACK, linewidth=1)
    limit(axes, np.concatenate([y["true"].ravel(), y["known"].ravel()]), also=y["guess"].ravel())
    for row, (place, colour, _) in enumerate(_looks(shown)):
        note_outside(axes, y["guess"][place], colour, row)
    axes.set_xlim(axes.get_ylim())
    tidy(axes, f"true {target}", f"predicted {target}")


def _trajectory(
    axes: Axes, y: dict[str, np.ndarray], shown: Sequence[int], when: Sequence[np.ndarray], target: str, time: str
) -> None:
    draw: Callable[..., Any] = axes.plot
    order = np.argsort(when[1], kind="stable")
    draw(when[1][order], y["true"][order], "o", mfc="none", mec=GREY, markersize=6, label="query")
    for place, colour, name in _looks(shown):
        draw(when[1][order], y["guess"][place][order], ".-", color=colour, linewidth=1.8, label=name)
    draw(when[0], y["known"], "^-", color=VERMILION, mec="white", markersize=8, linewidth=1, label="support", zorder=5)
    limit(axes, np.concatenate([y["true"].ravel(), y["known"].ravel()]), also=y["guess"].ravel())
    for row, (place, colour, _) in enumerate(_looks(shown)):
        note_outside(axes, y["guess"][place], colour, row)
    tidy(axes, time, target)
