"""Numbers that the checks compare: differences of trees, meta-losses at any parameters, finite differences."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from metaexp.algos.base import MetaLearner
from metaexp.mapping import map_tasks
from metaexp.models.functional import functional_call
from metaexp.types import Episode, Examples


def task(episode: Episode, index: int) -> Episode:
    """One task of a meta-batch, without the task dimension."""
    support, query = (Examples(part.x[index], part.y[index]) for part in (episode.support, episode.query))
    return Episode(support, query, episode.key[index], {name: value[index] for name, value in episode.info.items()})


def tasks_of(episode: Episode, index: Any) -> Episode:
    """Some tasks of a meta-batch, as a meta-batch."""
    return task(episode, torch.as_tensor(index))  # type: ignore[arg-type]


def rows(examples: Examples, order: Any) -> Examples:
    """The given rows of one task's examples."""
    return Examples(examples.x[order], examples.y[order])


def parameters(learner: MetaLearner) -> dict[str, Tensor]:
    """Copies of the meta-parameters."""
    return {name: p.detach().clone() for name, p in learner.meta_parameters().items()}


def state(learner: MetaLearner) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, also those that no checkpoint holds."""
    tensors = (*learner.named_parameters(), *learner.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in tensors}


def largest_difference(a: Any, b: Any) -> float:
    """Largest |a - b| over all leaves of two trees of tensors, relative to max(1, largest |b|); NaN if any leaf is."""
    pairs = [(x.detach(), y.detach()) for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True)]
    scale = largest([1.0, *(float(y.abs().max()) for _, y in pairs if y.numel())])
    return largest([float((x - y).abs().max()) for x, y in pairs if x.numel()]) / scale


def relative_difference(a: Any, b: Any) -> float:
    """Largest |a - b| over all leaves of two trees of tensors of the same shapes, relative to the largest |b|.

    Integers and booleans count as numbers. 0 where both are equal, also if both are 0; NaN if any number is.
    """
    pairs = [(x.detach().double(), y.detach().double()) for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True)]
    scale = largest([float(y.abs().max()) for _, y in pairs if y.numel()])
    apart = largest([float((x - y).abs().max()) for x, y in pairs if x.numel()])
    return apart / scale if scale > 0 else apart


def largest(values: list[float]) -> float:
    """Like `max`, but NaN if any value is (Python's `max` may miss it), and 0 for an empty list."""
    return float(torch.tensor([0.0, *values], dtype=torch.float64).max())


def finite_differences(
    learner: MetaLearner, episode: Episode, directions: int = 3, step: float | Sequence[float] = 1e-6
) -> float:
    """Largest relative error of the meta-gradient against central differences of the meta-loss.

    The differences are along random directions in the space of the meta-parameters. Only for methods whose
    meta-gradient IS the gradient of their meta-loss (not FOMAML, not Reptile). Of several steps, each direction takes
    that of the least error: a kink (ReLU, pooling) between the two points spoils one step, a wrong gradient all.
    """
    start = parameters(learner)
    gradient = learner.meta_gradient(start, episode)[0]
    draw = torch.Generator().manual_seed(0)
    steps = [step] if isinstance(step, float) else list(step)
    errors = []
    for _ in range(directions):
        along = {k: torch.randn(p.shape, generator=draw, dtype=p.dtype) for k, p in start.items()}
        exact = float(sum((gradient[k] * along[k]).sum() for k in start))
        least = float("nan")
        for length in steps:
            up, down = (
                _meta_loss(learner, {k: p + sign * length * along[k] for k, p in start.items()}, episode)
                for sign in (1, -1)
            )
            numeric = (up - down) / (2 * length)
            error = abs(numeric - exact) / abs(numeric) if numeric or exact else 0.0
            least = error if not least <= error else least
            if least < 1e-7:
                break
        errors.append(least)
    return largest(errors)


def _meta_loss(learner: MetaLearner, params: dict[str, Tensor], episode: Episode) -> float:
    """Mean meta-loss of a meta-batch at these meta-parameters."""
    shell = _Loss(learner)

    # Learners tell frozen parameters by `requires_grad`.
    tensors = {f"learner.{name}": value.detach().requires_grad_() for name, value in params.items()}

    def one(part: Episode) -> Tensor:
        loss: Tensor = functional_call(shell, tensors, (part,))
        return loss

    with torch.no_grad():
        return float(map_tasks(one, episode, learner.mapping).mean())


class _Loss(torch.nn.Module):
    # functional_call calls forward; this makes forward the loss of ONE task.
    def __init__(self, learner: MetaLearner):
        super().__init__()
        self.learner = learner

    def forward(self, part: Episode) -> Tensor:
        return self.learner.task_loss(part)[0]
