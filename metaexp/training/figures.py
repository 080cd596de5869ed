"""The picture of a few episodes: support set, and predictions before and after adaptation; and a method's own views."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from metaexp.algos.views import Scatter, View
from metaexp.errors import MetaexpError
from metaexp.loggers.tensorboard import Board

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_episodes(learner: Any, split: str, tasks: int) -> "Figure":
    """The first tasks of a split in the form that the family names, before, after one and after all inner steps.

    Where the number of support examples varies they have a middling one.
    """
    from metaexp.plots.pictures import picture_for  # matplotlib takes half a second to import

    family = learner.family
    varying = family.varying(split)
    shots = (varying.fewest + varying.most + 1) // 2 if varying else None
    episode = family.sample(split, torch.arange(tasks, device=family.device), shots=shots)
    last = learner.test_steps
    shown = sorted({0, min(1, last), last})

    def predict(x: Tensor) -> Tensor:  # [tasks, m, *x_shape] -> [tasks, len(shown), m, out]
        rows = []
        for task in range(tasks):
            path = learner.test_path(tree_map(lambda t, task=task: t[task], episode))
            rows.append(torch.stack([learner.predict(path[min(step, len(path) - 1)], x[task]) for step in shown]))
        return torch.stack(rows)

    with torch.no_grad():
        return picture_for(family)(episode, predict, shown)


def show_views(learner: Any, split: str, board: Board, step: int, tell: Callable[[str], None]) -> None:
    """A learner's views of the first tasks of a split, as `view_NAME`; points also in TensorBoard's projector.

    A picture is no reason to lose a run: a view that fails is one line of warning.
    """

    def views() -> dict[str, View]:
        episode = learner.family.sample(split, torch.arange(learner.view_tasks, device=learner.family.device))
        with torch.no_grad():
            found: dict[str, View] = learner.views(episode)
        return found

    def show(name: str, view: View) -> None:
        from metaexp.plots.views import draw  # matplotlib takes half a second to import

        board.figure(f"{split}/view_{name}", draw(view), step)
        if isinstance(view, Scatter) and view.points.shape[1] > 2:
            board.embedding(f"{split}/view_{name}", view.points, {"kind": view.kind, "colour": view.colour.tolist()})

    def attempt(what: str, action: Callable[..., Any], *args: Any) -> Any:
        try:
            return action(*args)
        except MetaexpError:  # a full disk
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0][:150]
            tell(f"warning: {what} of {type(learner).__name__} left out ({type(error).__name__}: {reason})")

    for name, view in (attempt("views", views) or {}).items():
        attempt(f"view {name}", show, name, view)
