"""`train_tasks`: a family with fewer training tasks."""

from collections.abc import Mapping
from typing import Any

import torch

from metaexp.errors import ConfigError
from metaexp.tasks.base import TaskFamily


def use_few(family: TaskFamily, config: Mapping[str, Any]) -> TaskFamily:
    """The family, with as many training tasks as the configuration says.

    Raises:
        ConfigError: there are fewer training tasks, or the family cannot have fewer.
        DataError: there is nothing to fit in so few.
    """
    few = config.get("train_tasks", "all")  # runs older than this setting lack it
    if few == "all" or family.test_only:
        return family
    try:
        family.restrict(few)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if family.limited_by_key:
        shots = family.sizes["train"]["shots"]
        one, again = (family.sample("train", torch.tensor([i]), shots=shots) for i in (0, few))
        if not torch.equal(one.query.x, again.query.x):
            raise ConfigError(
                f"train_tasks={few}: {type(family).__name__}.sample must draw from self.keys(split, indices), or the "
                "class have a method `restrict`"
            )
    return family
