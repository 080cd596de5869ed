"""What going on from an earlier run did to its test tasks, and to the new ones: before and after, paired by task."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from metaexp.errors import MetaexpError
from metaexp.evaluation.intervals import difference, summary
from metaexp.evaluation.scores import evaluate, number_of_tasks, validator
from metaexp.metrics import declared, direction
from metaexp.system.group import ALONE, Group
from metaexp.tasks.base import TaskFamily
from metaexp.training.build import Experiment
from metaexp.training.parent import Parent, prepared_family

QUIET = {"callbacks": {}, "logger": {}, "trainer": {}, "compile": False}
Arrays = dict[str, np.ndarray]


def against_parent(
    experiment: Experiment,
    after: dict[str, Tensor],
    new: tuple[Arrays, Arrays],
    tick: Callable[[int], None] = lambda done: None,
    group: Group = ALONE,
) -> dict[str, Any]:
    """The entry `parent` of result.json.

    Args:
        experiment: of a started run.
        after: the tested weights.
        new: scores of the new test tasks [tasks, steps + 1], with the parent's weights and with these.
        tick: as of `evaluate`. group: the processes that share the tasks.

    Returns:
        What is known of the parent, and for the `old` and the `new` test tasks each metric `before` and `after` with
        their paired `change`. `old` is {"why": reason} where the parent's data are not here.
    """
    parent = experiment.parent
    assert parent is not None
    larger = _directions(experiment.learner)
    told = parent.told | {"seen": parent.seen, "new": beside(*new, larger)}
    try:
        old = _old(experiment, parent, after, tick, group)
    except (MetaexpError, OSError, RuntimeError) as error:
        return told | {"old": {"why": " ".join(str(error).split())}}
    return told | {"old": old}


def _old(
    experiment: Experiment, parent: Parent, after: dict[str, Tensor], tick: Callable[[int], None], group: Group
) -> dict[str, Any]:
    config, trusted = experiment.config, {*experiment.config.get("trusted", ()), *parent.config["trusted"]}
    family = prepared_family(parent.config, trusted, parent.before)
    same = {"task": parent.config["task"], "test": parent.config["test"]}  # the parent's test
    one = Experiment(parent.config | {"device": config["device"]} | QUIET, family, experiment.ranks)
    two = Experiment(config | same | {"trusted": sorted(trusted)} | QUIET, family, experiment.ranks)
    found = []
    for parts, weights, mapping in (
        (one, parent.weights, parent.mapping),
        (two, after, experiment.learner.mapping),
    ):
        found.append(scores(parts, weights, mapping, tick, group))
    return beside(found[0].arrays, found[1].arrays, _directions(one.learner)) | {
        "tasks": len(found[0].indices),
        "query_sha256": found[0].query_sha256,
    }


def scores(
    parts: Experiment, weights: dict[str, Tensor], mapping: str | int, tick: Callable[[int], None], group: Group
) -> Any:
    """The scores of weights on the test tasks, as a test after training has them."""
    learner, test = parts.learner.to(parts.device), parts.config["test"]
    learner.set_mapping(mapping, parts.device, tried=True)
    learner.load_state_dict(weights)
    learner.finish(validator(learner, tick, group))
    tasks = number_of_tasks(_family(learner), "test", test["tasks"])
    return evaluate(learner, "test", tasks, test["normalise"], tick=tick, group=group)


def _family(learner: Any) -> TaskFamily:
    family: TaskFamily = learner.family
    return family


def _directions(learner: Any) -> Callable[[str], bool | None]:
    known = declared(learner)
    return lambda name: direction(known, name)


def beside(before: Arrays, after: Arrays, larger: Callable[[str], bool | None]) -> dict[str, Any]:
    """Each metric before and after, and the change with its 95 % interval over tasks; `better` in words of the metric:
    positive where after is better (None: no direction)."""
    found: dict[str, Any] = {}
    for name in [name for name in before if name in after]:
        one, two = before[name], after[name]
        kept = ("mean", "ci95", "tasks", "diverged")
        entry: dict[str, Any] = {
            when: {key: value for key, value in summary(values, larger(name)).items() if key in kept}
            for when, values in (("before", one), ("after", two))
        }
        change = difference(two[None, :, -1], one[None, :, -1])
        if change is not None:
            entry["change"], entry["change_ci95"] = change.mean, change.half
        entry["larger_is_better"] = larger(name)
        found[name] = entry
    return {"metrics": found}
