"""Pictures of episodes: support set, predictions before and after adaptation. `plots.pictures` chooses among them.

Every function returns a `matplotlib.figure.Figure` that the caller owns (no pyplot, no global state).

They share one form, `Picture`: (episode, predict, shown) -> Figure, where `predict(x)` maps inputs
[tasks, m, *x_shape] to the predictions after each of the inner steps `shown`: [tasks, len(shown), m, out].
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from metaexp.plots.outside import mark_outside, note_outside
from metaexp.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    array,
    legend,
    limit,
    new_figure,
    new_panels,
    shades,
    step_name,
    tidy,
    whole_numbers,
)
from metaexp.types import Episode

Predict = Callable[[Tensor], Tensor]
Picture = Callable[[Episode, Predict, Sequence[int]], Figure]

ROW = 1.5  # height of a row of images with its captions, in image widths
GAP = 0.6  # between support and queries, likewise
CELLS = 13  # images in a row


def curves(
    episode: Episode,
    predict: Predict,
    shown: Sequence[int],
    title: str = "",
    truth: Callable[[Tensor], Tensor] | None = None,
    truth_name: str = "true function",
) -> Figure:
    """1-D regression: support points and the predicted function after each of the inner steps `shown`.

    For Gaussian predictions and truths (a mean and a standard deviation), the mean and its band +-1.96 sd are drawn;
    for predictions, the band of the last step only.

    Args:
        episode: x [tasks, n, 1], y [tasks, n, 1]; the first 6 tasks are drawn.
        predict: [tasks, m, 1] -> [tasks, len(shown), m, 1 or 2], see the module.
        shown: inner steps, ascending; 0 is the prediction before adaptation.
        title: of the figure.
        truth: [tasks, m, 1] -> [tasks, m, 1 or 2], the functions themselves; without it, or if it is Gaussian, the
            query points are drawn.
        truth_name: its label.
    """
    tasks = len(episode.support.x)
    (support_x, support_y), (query_x, query_y) = (map(array, part) for part in (episode.support, episode.query))
    every_x = np.concatenate([support_x.ravel(), query_x.ravel()])
    x = np.linspace(every_x.min(), every_x.max(), 200)
    points = episode.support.x.new_tensor(x).view(1, -1, 1).expand(tasks, -1, -1)
    found, gaussian = (
        array(predict(points)),
        2 * episode.support.y.shape[-1],
    )  # width of a Gaussian's mean and deviation
    lines, band = found[..., 0], _half_width(found[:, -1], gaussian)  # [tasks, shown, 200], [tasks, 200] or None
    told = None if truth is None else array(truth(points))
    true, true_band = (None, None) if told is None else (told[..., 0], _half_width(told, gaussian))

    figure, panels = new_panels(min(tasks, 6), title)
    alone = list(shown) == [0]  # a method without steps
    colours = shades(1) if alone else ([GREY] if shown[0] == 0 else []) + shades(len(shown) - (shown[0] == 0))
    for task, axes in enumerate(panels):
        if true is not None:
            axes.plot(x, true[task], color=BLACK, linewidth=1.3, label=truth_name)
        if true is not None and true_band is not None:
            for sign, name in ((1, "its 95 % band"), (-1, None)):
                axes.plot(x, true[task] + sign * true_band[task], ":", color=BLACK, linewidth=1.1, label=name)
        if (true is None or true_band is not None) and query_x.size:
            axes.plot(query_x[task], query_y[task], "o", mfc="none", mec=GREY, markersize=5, label="query")
        for line, step, colour in zip(lines[task], shown, colours, strict=True):
            dashes, width = ("--", 1.5) if step == 0 and not alone else ("-", 2.4 if step == shown[-1] else 1.4)
            label = "prediction" if alone else step_name(step)
            axes.plot(x, line, color=colour, linestyle=dashes, linewidth=width, label=label)
        if band is not None:
            edges = lines[task, -1] - band[task], lines[task, -1] + band[task]
            axes.fill_between(x, *edges, color=colours[-1], alpha=0.2, linewidth=0, label="95 % band")
        marker: dict[str, Any] = {"marker": "^", "linestyle": "none", "markersize": 8, "mec": "white", "zorder": 5}
        axes.plot(support_x[task], support_y[task], color=VERMILION, label="support", **marker)
        whole_numbers(axes, 6)
        seen = [support_y[task].ravel(), query_y[task].ravel(), *([] if true is None else [true[task]])]
        if true is not None and true_band is not None:
            seen += [true[task] - true_band[task], true[task] + true_band[task]]
        limit(axes, np.concatenate(seen), also=lines[task])
        for row, (line, colour) in enumerate(zip(lines[task], colours, strict=True)):
            mark_outside(axes, x, line, colour, row)
        place = axes.get_subplotspec()
        rows, columns = (1, 1) if place is None else place.get_geometry()[:2]
        axes.set_xlabel("input x" if task >= (rows - 1) * columns else "", fontsize=12)
        axes.set_ylabel("target y" if task % columns == 0 else "", fontsize=12)
    legend(figure, panels[0])
    return figure


def _half_width(values: np.ndarray, gaussian: int) -> np.ndarray | None:
    """1.96 standard deviations of the first target's predictions [..., width], if they are Gaussian."""
    return 1.96 * values[..., gaussian // 2] if values.shape[-1] == gaussian else None


def scatter(episode: Episode, predict: Predict, shown: Sequence[int], title: str = "") -> Figure:
    """Regression of any shape: predicted against true query targets, first and last step shown, over all tasks.

    See `curves` for the arguments; predictions are [tasks, len(shown), m, y_dim], or Gaussian.
    """
    true, predicted = array(episode.query.y), array(predict(episode.query.x))
    predicted = predicted[..., : true.shape[-1]]  # the means of Gaussian predictions
    ends = sorted({0, len(shown) - 1})
    figure, panels = new_panels(len(ends), title, height=4.8)
    colours = (BLUE, ORANGE, GREEN, PURPLE, VERMILION)
    named = 1 < true.shape[-1] <= len(colours)
    for end, axes in zip(ends, panels, strict=True):
        guess = predicted[:, end]
        for i in range(true.shape[-1]):
            label, colour = f"target {i + 1}" if named else None, colours[i % len(colours)]
            x, y = true[..., i].ravel(), guess[..., i].ravel()
            axes.plot(x, y, "o", color=colour, label=label, markersize=4, alpha=0.6, mec="none")
        axes.axline((0, 0), slope=1, color=BLACK, linewidth=1)
        limit(axes, true.ravel(), also=guess.ravel())
        note_outside(axes, guess, VERMILION)
        axes.set_xlim(axes.get_ylim())
        axes.set_box_aspect(1)  # for which, other than for an equal aspect, the layout leaves room
        tidy(axes, "true", "predicted" if end == 0 else "")
        axes.set_title(f"{step_name(shown[end])}: mse {float(np.mean((guess - true) ** 2)):.3g}", fontsize=12)
    if named:
        legend(figure, panels[0])
    return figure


def grid(episode: Episode, predict: Predict, shown: Sequence[int], title: str = "") -> Figure:
    """Classification of images: a row per episode, support on the left, queries with the predicted class on the right.

    A correct query has a green frame, a tick and its probability; a wrong one a dashed red frame, a cross and the true
    class. See `curves` for the arguments: x [tasks, n, C, H, W], y one-hot, predictions (logits)
    [tasks, len(shown), m, ways] of which the last step is drawn, for the first 4 episodes.
    """
    chance = _softmax(array(predict(episode.query.x))[:, -1])  # [tasks, m, ways]
    support, queries = array(episode.support.x), array(episode.query.x)
    given, true = array(episode.support.y).argmax(-1), array(episode.query.y).argmax(-1)
    rows, ways = min(len(support), 4), chance.shape[-1]
    left = min(support.shape[1], 5 if ways <= 5 else CELLS // 2)
    right = min(queries.shape[1], CELLS - left)

    figure = new_figure(9, 0.75 + rows * ROW * 8.8 / (left + right + GAP), title)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set(xlim=(0, left + right + GAP), ylim=(rows * ROW, -0.4), aspect="equal")
    share = float((chance.argmax(-1) == true).mean())
    axes.text(0.06, -0.12, f"support, {ways}-way {support.shape[1] // ways}-shot", fontsize=12, weight="bold")
    text = f"queries {step_name(shown[-1])}: {share:.1%} of {true.size} right"
    axes.text(left + GAP + 0.06, -0.12, text, fontsize=12, weight="bold")
    for row in range(rows):
        paint = _painter(axes, np.concatenate([support[row], queries[row]]))
        for column, i in enumerate(_spread(given[row], left, range(ways))):
            paint(support[row, i], column, row * ROW, f"{given[row, i] + 1}")
        for column, i in enumerate(_spread(true[row], right, given[row][_spread(given[row], left, range(ways))])):
            guess = int(chance[row, i].argmax())
            below = f"{chance[row, i, guess]:.0%}" if guess == true[row, i] else f"true {true[row, i] + 1}"
            paint(queries[row, i], left + GAP + column, row * ROW, f"{guess + 1}\n{below}", guess == true[row, i])
    return figure


def probabilities(episode: Episode, predict: Predict, shown: Sequence[int], title: str = "") -> Figure:
    """Classification of anything: class probabilities of every query (rows, sorted by class), the true class framed.

    See `grid` for the arguments.
    """
    chance = _softmax(array(predict(episode.query.x))[:, -1])  # [tasks, m, ways]
    true = array(episode.query.y).argmax(-1)
    figure, panels = new_panels(min(len(true), 4), title, height=4.6, columns=4)
    for task, axes in enumerate(panels):
        order = np.argsort(true[task], kind="stable")
        image = axes.imshow(chance[task][order], cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        for row, i in enumerate(order):
            good = chance[task, i].argmax() == true[task, i]
            colour, dashes = (GREEN, "-") if good else (VERMILION, "--")
            corner = (true[task, i] - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, linewidth=1.8, edgecolor=colour, linestyle=dashes))
        axes.set_title(f"{float((chance[task].argmax(-1) == true[task]).mean()):.0%} right", fontsize=12)
        axes.set_xlabel("class", fontsize=12)
        step = -(-chance.shape[-1] // 8)
        axes.set_xticks(range(0, chance.shape[-1], step), [str(c + 1) for c in range(0, chance.shape[-1], step)])
        axes.set_yticks([])
        axes.grid(False)
    panels[0].set_ylabel(f"queries {step_name(shown[-1])}", fontsize=12)
    figure.colorbar(image, ax=panels, label="probability (frame: true class)", shrink=0.8)
    return figure


def _softmax(logits: np.ndarray) -> np.ndarray:
    weight = np.exp(logits - logits.max(-1, keepdims=True))
    return weight / weight.sum(-1, keepdims=True)


def _spread(classes: np.ndarray, most: int, first: Sequence[int] | np.ndarray) -> list[int]:
    """At most `most` positions, taking one of every class in turn, those in `first` before others; sorted by class."""
    turn = [int((classes[:i] == c).sum()) for i, c in enumerate(classes)]
    order = sorted(range(len(classes)), key=lambda i: (classes[i] not in first, turn[i], classes[i]))
    return sorted(order[:most], key=lambda i: (classes[i], i))


def _painter(axes: Axes, images: np.ndarray) -> Callable[..., None]:
    """A function that draws one of these images [n, C, H, W] in a cell, with a caption and, for queries, a verdict."""
    low, span = float(images.min()), float(np.ptp(images)) or 1.0
    looks = {
        None: (GREY, BLACK, "-", 0.8, ""),
        True: (GREEN, GREEN, "-", 2.2, "\u2713 "),
        False: (VERMILION, VERMILION, "--", 2.2, "\u2717 "),
    }
    drawing = np.median((images - low) / span) < 0.05  # ink on paper: show the ink dark

    def paint(image: np.ndarray, x: float, y: float, text: str, right: bool | None = None) -> None:
        scaled = np.moveaxis((image - low) / span, 0, -1)  # [H, W, C]
        scaled = scaled if scaled.shape[-1] == 3 else scaled.mean(-1)
        box, colours = (x + 0.06, x + 0.94, y + 0.94, y + 0.06), "gray_r" if drawing else "gray"
        axes.imshow(scaled, cmap=colours, vmin=0, vmax=1, extent=box)
        colour, ink, dashes, width, mark = looks[right]
        frame = Rectangle((x + 0.06, y + 0.06), 0.88, 0.88, fill=False, ec=colour, linestyle=dashes, linewidth=width)
        axes.add_patch(frame)
        axes.text(x + 0.5, y + 0.98, mark + text, ha="center", va="top", fontsize=10, color=ink)

    return paint
