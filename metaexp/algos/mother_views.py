"""What a mother shows of its inner workings (see `metaexp.algos.mother`)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metaexp.algos.views import Bars, Heatmap, Scatter, View


def mother_views(
    seen: dict[str, Tensor], keys: Tensor, kind: Tensor | None, kind_names: Sequence[str] = ()
) -> dict[str, View]:
    """Pictures of a few tasks.

    `weights`: mean weight of each child per kind of task; `judgements`: log losses as judged against what they are;
    `tasks`: embedded tasks and the children's keys. Where the tasks have kinds, also `kinds`: the embedded tasks by
    their kind, and `agreement`: the adjusted Rand index of the kinds and the child that the mother weights most, that
    each feedback prefers, and that is best on the queries.

    Args:
        seen: of each task `weights`, `log_loss`, `log_held_out`, `log_judged`, `distance` [tasks, M] and `embedding`
            [tasks, d].
        keys: of the children, [M, d].
        kind: a number for each task, [tasks]; None: each task is its own kind.
        kind_names: of the kinds by number; without, the numbers.
    """
    tasks, count = seen["weights"].shape
    device = keys.device
    several = kind is not None
    kind = torch.arange(tasks, device=device) if kind is None else kind
    kinds = sorted(set(kind.tolist()))
    labels = {k: kind_names[k] if several and k < len(kind_names) else str(k) for k in kinds}
    names = [f"child {i}" for i in range(count)]
    table = torch.stack([seen["weights"][kind == k].mean(0) for k in kinds])
    children = torch.arange(count, device=device).repeat(tasks)
    judged = torch.stack((seen["log_loss"].flatten(), seen["log_judged"].flatten()), 1)
    places = torch.cat((seen["embedding"], keys))
    colour = torch.cat((seen["weights"].argmax(1), torch.arange(count, device=device)))
    views: dict[str, View] = {
        "weights": Heatmap(table, "kind of task", "child", list(labels.values()), names, "mean weight"),
        "judgements": Scatter(judged, children, ["task"] * len(judged), "log query loss of a child, and as judged"),
        "tasks": Scatter(places, colour, ["task"] * tasks + ["key"] * count, "embedded tasks by their first child"),
    }
    if several:
        found = agreement(seen, kind)
        title = f"embedded tasks by kind; adjusted Rand index of the first child {found['mother']:.2f}"
        words = [labels[k] for k in kind.tolist()]
        views["kinds"] = Scatter(seen["embedding"], kind, ["task"] * tasks, title, "kind", labels, words)
        values = torch.tensor(list(found.values()))
        views["agreement"] = Bars(
            values, list(found), "agreement of the first child with the kind", "adjusted Rand index"
        )
    return views


def agreement(seen: dict[str, Tensor], kind: Tensor) -> dict[str, float]:
    """The adjusted Rand index of the kinds and the first child by the mother's weights and by each feedback.

    `best` is the child with the least loss on the queries: what a perfect mother would choose.
    """
    signs = {"mother": -seen["weights"], "held_out": seen["log_held_out"], "judged": seen["log_judged"]}
    signs |= {"nearest": seen["distance"], "best": seen["log_loss"]}
    return {name: adjusted_rand(value.argmin(1), kind) for name, value in signs.items()}


def adjusted_rand(one: Tensor, two: Tensor) -> float:
    """How well two partitions of the same n things agree: 1 if equal, 0 on average if independent.

    "Comparing partitions", Hubert, Arabie, 1985, equation 5: the number of pairs that both put together, less its
    expectation for random partitions with the same sizes of parts, over the largest possible value of the same.

    Args:
        one, two: int64 [n], labels of any values.
    """
    _, a = torch.unique(one, return_inverse=True)
    _, b = torch.unique(two, return_inverse=True)
    width = int(b.max()) + 1
    table = torch.bincount(a * width + b, minlength=(int(a.max()) + 1) * width).view(-1, width).double()

    def pairs(counts: Tensor) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, rows, columns, total = pairs(table), pairs(table.sum(1)), pairs(table.sum(0)), len(one) * (len(one) - 1) / 2
    expected = rows * columns / total if total else 0.0
    most = (rows + columns) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)
