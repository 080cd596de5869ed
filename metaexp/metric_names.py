"""The grammar of a score's name, PREFIX_METRIC_MODE, written and read here alone. Imports no torch.

METRIC is a key of `learner.metrics`. MODE says where a model that depends on the batch takes its statistics from at
test: `accuracy_transductive`, `accuracy`, `accuracy_support`. A model that does not depend on the batch has one figure
without a mode. PREFIX is what a method puts before further scores of its own: `child_0_mse`, `uniform_mse`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

# Where batch statistics come from at test -> what it appends to a metric's name.
SUFFIXES = {"queries": "_transductive", "single": "", "support": "_support"}
# Directions of the metrics that results without `larger_is_better` may hold; None: neither is better.
KNOWN: dict[str, bool | None] = {
    "mse": False,
    "accuracy": True,
    "log_likelihood": True,
    "coverage50": None,
    "coverage90": None,
}


class Direction(NamedTuple):
    """Which direction of a metric is better, as far as results say."""

    known: bool
    larger: bool | None  # None: neither, as of a coverage, which has a right value in the middle


class Name(NamedTuple):
    """A score's name taken apart."""

    metric: str  # with its prefix
    suffix: str  # of the mode; "" where there is none, or a single query at a time


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
    """Those of the names that are this metric in any mode, in their order; its prefixed relatives are not."""
    return [name for name in names if split_name(name).metric == metric]


def near(values: Mapping[str, Any], name: str) -> Any:
    """The value of a score, else of the same metric in another mode: a baseline has `accuracy`, a test
    `accuracy_support`. None where there is neither: a baseline without, say, a likelihood is no baseline of it."""
    if name in values:
        return values[name]
    others = forms(split_name(name).metric, values)
    return values[others[0]] if others else None


def metric_of(name: str, metrics: Iterable[str]) -> str | None:
    """The metric, among these, that a score measures, whatever its prefix and mode; None: none of them."""
    bare, best = split_name(name).metric, None
    for metric in metrics:
        if bare == metric:
            return metric
        if bare.endswith(f"_{metric}") and (best is None or len(metric) > len(best)):
            best = metric
    return best


def recorded_direction(name: str, summaries: Iterable[Mapping[str, Any]]) -> Direction:
    """As the summaries of a score in result.json declare it, `larger_is_better`; of older ones by a well-known name.

    Summaries that contradict each other declare nothing.
    """
    declared = {summary["larger_is_better"] for summary in summaries if "larger_is_better" in summary}
    if len(declared) == 1:
        return Direction(True, declared.pop())
    metric = None if declared else metric_of(name, KNOWN)
    return Direction(metric is not None, None if metric is None else KNOWN[metric])
