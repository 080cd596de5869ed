"""What a learner predicts on its test tasks, query by query, in the user's units and words."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metaexp.evaluation.scores import Chunk


class Predicted(NamedTuple):
    """One test task after its last inner step."""

    task: int
    part: int | None  # of a task that is tested in parts (origins of a forecast): the part's index
    name: str | None  # of the task, or None
    classes: list[str] | None  # names of the outputs, in order; None for regression
    true: np.ndarray  # [m, y_dim] in the target's own units; [m] places among the classes
    values: dict[str, np.ndarray]  # mode -> [m, out]: targets, then standard deviations if Gaussian; probabilities


def predictions(learner: Any, kept: Sequence[Chunk], modes: list[str]) -> Iterator[Predicted]:
    """The tasks of a test, in the order of their indices within a size.

    Args:
        learner: as tested.
        kept: the predictions of `evaluate(..., keep=True)`.
        modes: the normalisation modes of that test.
    """
    family, wanted = learner.family, learner.modes(modes)
    for chunk in kept:
        indices = torch.from_numpy(chunk.indices).to(family.device)
        episode = family.sample("test", indices)
        found = {mode: torch.from_numpy(chunk.values[suffix]) for suffix, mode in wanted.items()}
        whole = family.merged("test", indices)
        for place, index in enumerate(chunk.indices.tolist()):
            part = None if whole is None else index
            task = index if whole is None else int(whole[place])
            true, values = episode.query.y[place].double().cpu(), {mode: v[place] for mode, v in found.items()}
            yield _told(family, episode.info, place, task, part, true, values)


def _told(
    family: Any, info: dict[str, Tensor], place: int, task: int, part: int | None, y: Tensor, values: dict[str, Tensor]
) -> Predicted:
    names = getattr(family, "names", None)
    name = str(names[int(info["task"][place])]) if names and "task" in info else None
    if family.classification:
        chance = {mode: value.softmax(-1).numpy() for mode, value in values.items()}
        return Predicted(task, part, name, _classes(family, info, place), y.argmax(-1).numpy(), chance)
    if hasattr(family, "y_mean"):
        mean, std = family.y_mean.double().cpu(), family.y_std.double().cpu()
        values = {mode: _in_units(value, y.shape[-1], mean, std) for mode, value in values.items()}
        y = y * std + mean
    return Predicted(task, part, name, None, y.numpy(), {mode: value.numpy() for mode, value in values.items()})


def _in_units(value: Tensor, y_dim: int, mean: Tensor, std: Tensor) -> Tensor:
    return torch.cat([value[..., :y_dim] * std + mean, value[..., y_dim:] * std], -1)


def _classes(family: Any, info: dict[str, Tensor], place: int) -> list[str]:
    """Names of an episode's classes in the order of its targets; their places where the family has no names."""
    names = getattr(family, "names", None)
    if names and "classes" in info:
        turned = info["rotation"][place].tolist() if "rotation" in info else [0] * len(info["classes"][place])
        found = zip(info["classes"][place].tolist(), turned, strict=True)
        return [f"{names[i]}" + (f" turned {90 * turns}" if turns else "") for i, turns in found]
    fixed = getattr(family, "classes", None)
    if isinstance(fixed, list) and len(fixed) == family.y_dim:
        return [str(name) for name in fixed]
    return [str(i) for i in range(family.y_dim)]
