"""The grammar of a score's name, PREFIX_METRIC_MODE; only this module writes and parses it. Does not import torch.

METRIC is a key of `learner.metrics`. MODE is the source of batch statistics at test, for a model that depends on the
batch: `accuracy_transductive`, `accuracy`, `accuracy_support`. A model that does not depend on the batch has one score
without a mode. PREFIX marks additional scores of a method: `child_0_mse`, `uniform_mse`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

# Mode, the source of batch statistics at test -> the suffix that it adds to a metric's name.
SUFFIXES = {"queries": "_transductive", "single": "", "support": "_support"}
# Directions of metrics in older results, which do not contain `larger_is_better`; None: neither is better.
KNOWN: dict[str, bool | None] = {
    "mse": False,
    "accuracy": True,
    "log_likelihood": True,
    "coverage50": None,
    "coverage90": None,
}


class Direction(NamedTuple):
    """Which direction of a metric is better, as far as results record it."""

    known: bool
    larger: bool | None  # None: neither, as for a coverage, which has a right value in the middle


class Name(NamedTuple):
    """A score's name, split into its parts."""

    metric: str  # with its prefix
    suffix: str  # suffix of the mode; "" without a mode and for the mode "single"


def metric_name(metric: str, suffix: str) -> str:
    """The name of a metric's score in the mode with this suffix (one of `SUFFIXES`)."""
    return metric + suffix


def split_name(name: str) -> Name:
    """The inverse of `metric_name`."""
    for suffix in SUFFIXES.values():
        if suffix and name.endswith(suffix) and name != suffix:
            return Name(name.removesuffix(suffix), suffix)
    return Name(name, "")


def forms(metric: str, names: Iterable[str]) -> list[str]:
    """Those of the names that are this metric in any mode, in their order; names with a prefix do not count."""
    return [name for name in names if split_name(name).metric == metric]


def near(values: Mapping[str, Any], name: str) -> Any:
    """The value of a score, else of the same metric in another mode, else None.

    For example, a baseline has `accuracy` where a test has `accuracy_support`. A baseline without, say, a likelihood is
    not a baseline for it.
    """
    if name in values:
        return values[name]
    others = forms(split_name(name).metric, values)
    return values[others[0]] if others else None


def metric_of(name: str, metrics: Iterable[str]) -> str | None:
    """Which of the metrics a score measures, whatever its prefix and mode; None if none of them."""
    bare, best = split_name(name).metric, None
    for metric in metrics:
        if bare == metric:
            return metric
        if bare.endswith(f"_{metric}") and (best is None or len(metric) > len(best)):
            best = metric
    return best


def recorded_direction(name: str, summaries: Iterable[Mapping[str, Any]]) -> Direction:
    """The direction that a score's summaries in result.json declare as `larger_is_better`; in older ones, by its name.

    If summaries contradict each other, the direction is not known.
    """
    declared = {summary["larger_is_better"] for summary in summaries if "larger_is_better" in summary}
    if len(declared) == 1:
        return Direction(True, declared.pop())
    metric = None if declared else metric_of(name, KNOWN)
    return Direction(metric is not None, None if metric is None else KNOWN[metric])
