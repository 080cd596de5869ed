"""One test task of each kind: the function, the support set, a method's prediction and the Bayes prediction."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from metaexp.plots.style import BLACK, GREEN, VERMILION, tidy
from metaexp.tasks.mixture import KINDS, NAMES, Mixture
from metaexp.types import Episode, Examples

GRID = 41  # points along a side of a map


def draw(folder: Path, method: str, family: Mixture) -> Figure:
    """Kinds of one number as curves, those of two as maps: function, Bayes, the run's prediction, and its error."""
    from metaexp.estimator import load

    learner = load(folder)._source.learner
    figure = Figure(figsize=(13, 11), dpi=110, layout="constrained", facecolor="white")
    grid = figure.add_gridspec(4, 4)
    places = [grid[i // 2, 2 * (i % 2) : 2 * (i % 2) + 2] for i in range(4)]
    for place, name in zip(places, NAMES[:4], strict=True):
        _curve(figure.add_subplot(place), learner, method, family, name)
    for row, name in zip((2, 3), NAMES[4:], strict=True):
        _maps(figure, [figure.add_subplot(grid[row, j]) for j in range(4)], learner, method, family, name)
    return figure


def _task(family: Mixture, name: str) -> Episode:
    """The first test task of this kind."""
    index = torch.arange(200)
    place = int((family.sample("test", index).info["kind"] == NAMES.index(name)).nonzero()[0])
    episode = family.sample("test", index[place : place + 1])
    support, query = (Examples(part.x[0], part.y[0]) for part in (episode.support, episode.query))
    return Episode(support, query, episode.key[0], {key: value[0] for key, value in episode.info.items()})


def _known(learner: Any, family: Mixture, name: str, task: Episode, x: torch.Tensor) -> dict[str, np.ndarray]:
    with torch.no_grad():
        adapted = learner.test_path(task._replace(info={}))[-1]
        found = {"method": learner.predict(adapted, x)[:, 0], "Bayes": family.bayes(task, x)[:, 0]}
    own = task.info["parameters"][: len(KINDS[name].ranges)]
    found["function"] = KINDS[name].function(x[:, 0], x[:, 1], *own)
    return {key: value.numpy() for key, value in found.items()}


def _curve(axes: Any, learner: Any, method: str, family: Mixture, name: str) -> None:
    task, u = _task(family, name), torch.linspace(*family.x_range, 200)
    found = _known(learner, family, name, task, torch.stack((u, torch.ones_like(u)), 1))
    axes.plot(u, found["function"], color=BLACK, lw=1.5, label="function")
    axes.plot(u, found["Bayes"], color=VERMILION, lw=2, ls="--", label="Bayes")
    axes.plot(u, found["method"], color=GREEN, lw=2, label=method)
    axes.plot(task.support.x[:, 0], task.support.y[:, 0], "o", color=BLACK, ms=6, mfc="white", label="support")
    tidy(axes, "u (v = 1)", "y")
    axes.set_title(f"{name}: {_errors(found, method)}", fontsize=11)
    axes.legend(fontsize=9, frameon=False)


def _maps(figure: Figure, axes: list[Any], learner: Any, method: str, family: Mixture, name: str) -> None:
    task, side = _task(family, name), torch.linspace(*family.x_range, GRID)
    x = torch.cartesian_prod(side, side)
    found = _known(learner, family, name, task, x)
    low, high = (float(f(found["function"])) for f in (np.min, np.max))
    shown = [("function", found["function"]), ("Bayes", found["Bayes"]), (method, found["method"])]
    for ax, (label, values) in zip(axes, shown, strict=False):
        image = _image(ax, family, values, label, cmap="viridis", vmin=low, vmax=high)
        ax.scatter(
            *task.support.x.T, c=task.support.y[:, 0], cmap="viridis", vmin=low, vmax=high, edgecolors="white", s=45
        )
    figure.colorbar(image, ax=axes[2], shrink=0.9)
    error = found["method"] - found["function"]
    most = float(np.abs(error).max())
    image = _image(axes[3], family, error, f"{method} - function", cmap="RdBu_r", vmin=-most, vmax=most)
    figure.colorbar(image, ax=axes[3], shrink=0.9)
    axes[0].set_ylabel("v", fontsize=11)
    axes[0].set_title(f"{name}: function", fontsize=11)
    axes[3].set_title(f"{method} - function\n{_errors(found, method)}", fontsize=10)


def _image(ax: Any, family: Mixture, values: np.ndarray, title: str, **style: Any) -> Any:
    ax.set_title(title, fontsize=11)
    ax.set_xlabel("u", fontsize=11)
    return ax.imshow(values.reshape(GRID, GRID).T, origin="lower", extent=(*family.x_range, *family.x_range), **style)


def _errors(found: dict[str, np.ndarray], method: str) -> str:
    """Mean squared distances from the function on the points shown."""
    own, known = (float(((found[key] - found["function"]) ** 2).mean()) for key in ("method", "Bayes"))
    return f"squared error: {method} {own:.3f}, Bayes {known:.3f}"
