"""The picture of a few episodes: support set, and predictions before and after adaptation."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from metaexp.types import Examples

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_episodes(learner: Any, split: str, tasks: int) -> "Figure":
    """The first tasks of a split in the form that the family names, before, after one and after all inner steps.

    Where the number of support examples varies they have a middling one.
    """
    family = learner.family
    varying = family.varying(split)
    shots = (varying.fewest + varying.most + 1) // 2 if varying else None
    episode = family.sample(split, torch.arange(tasks, device=family.device), shots=shots)
    last = learner.test_steps
    shown = sorted({0, min(1, last), last})

    def predict(x: Tensor) -> Tensor:  # [tasks, m, *x_shape] -> [tasks, len(shown), m, out]
        rows = []
        for task in range(tasks):
            support = Examples(episode.support.x[task], episode.support.y[task])
            path = learner.path(support, episode.key[task], last)
            rows.append(torch.stack([learner.predict(path[min(step, len(path) - 1)], x[task]) for step in shown]))
        return torch.stack(rows)

    with torch.no_grad():
        return family.picture(episode, predict, shown)
