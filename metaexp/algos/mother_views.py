"""What a mother shows of its inner workings (see `metaexp.algos.mother`)."""

import torch
from torch import Tensor

from metaexp.algos.views import Heatmap, Scatter, View


def mother_views(seen: dict[str, Tensor], keys: Tensor, kind: Tensor | None) -> dict[str, View]:
    """Three pictures of a few tasks.

    `weights`: mean weight of each child per kind of task; `judgements`: log losses as judged against what they are;
    `tasks`: embedded tasks and the children's keys.

    Args:
        seen: of each task `weights`, `log_loss`, `log_judged` [tasks, M] and `embedding` [tasks, d].
        keys: of the children, [M, d].
        kind: a number for each task, [tasks]; None: each task is its own kind.
    """
    tasks, count = seen["weights"].shape
    device = keys.device
    kind = torch.arange(tasks, device=device) if kind is None else kind
    kinds = sorted(set(kind.tolist()))
    names = [f"child {i}" for i in range(count)]
    table = torch.stack([seen["weights"][kind == k].mean(0) for k in kinds])
    children = torch.arange(count, device=device).repeat(tasks)
    judged = torch.stack((seen["log_loss"].flatten(), seen["log_judged"].flatten()), 1)
    places = torch.cat((seen["embedding"], keys))
    colour = torch.cat((seen["weights"].argmax(1), torch.arange(count, device=device)))
    return {
        "weights": Heatmap(table, "kind of task", "child", [str(k) for k in kinds], names, "mean weight"),
        "judgements": Scatter(judged, children, ["task"] * len(judged), "log query loss of a child, and as judged"),
        "tasks": Scatter(places, colour, ["task"] * tasks + ["key"] * count, "embedded tasks by their first child"),
    }
