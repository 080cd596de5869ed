"""What a result says, in words: how much better the method is than the baselines that need no meta-training."""

import math
from collections.abc import Mapping
from typing import Any

from metaexp.metric_names import near

AGAINST = {
    "parent": "the run that it started from",
    "neighbour": "nearest neighbour",
    "scratch": "without meta-training",
    "mean": "the mean predictor",
    "random": "acting at random",
}
MOST = 2  # comparisons


def in_words(result: Mapping[str, Any]) -> str:
    """One line about the first metric; "" where there is nothing to compare with or no direction is better.

    Something is called better only if the two intervals say so: the difference is larger than the root of the sum of
    the squares of their half-widths. (That is wider than the paired interval, since both are tested on the same
    tasks.) Where few tasks carry a mean, medians are compared.
    """
    name, value = next(iter(result["test"].items()))
    larger = value.get("larger_is_better")
    if larger is None:
        return ""
    said: list[str] = []
    for floor, label in AGAINST.items():
        other = near(result.get("floors", {}).get(floor) or {}, name)
        if other is not None and len(said) < MOST and (text := _against(value, other, larger, label)):
            said.append(text)
    return f"{name} {', '.join(said)}" if said else ""


def _against(value: Mapping[str, Any], other: Mapping[str, Any], larger: bool, label: str) -> str:
    heavy = bool(value.get("heavy_tailed") or other.get("heavy_tailed"))
    own, floor = _known(value, heavy), _known(other, heavy)
    if own is None or floor is None:
        return ""
    by = " by the median" if heavy else ""
    (a, wide), (b, other_wide) = own, floor
    if abs(a - b) <= math.hypot(wide, other_wide):
        return f"not clearly different from {label}{by}"
    better = (a > b) == larger
    if not larger and min(a, b) > 0:
        times = max(a, b) / min(a, b)
        return f"{times:.{0 if times >= 100 else 1}f} times {'better' if better else 'WORSE'} than {label}{by}"
    points = larger and min(a, b) >= 0 and max(a, b) <= 1
    far = f"{100 * abs(a - b):.1f} points" if points else f"{abs(a - b):.3g}"
    return f"{far} {'better' if better else 'WORSE'} than {label}{by}"


def _known(value: Mapping[str, Any], median: bool) -> tuple[float, float] | None:
    """A mean or median and the half-width of its interval; None if there is none."""
    ends = value.get("median_ci")
    if median:
        if value.get("median") is None or ends is None:
            return None
        return float(value["median"]), (float(ends[1]) - float(ends[0])) / 2
    if value.get("mean") is None or value.get("ci95") is None:
        return None
    return float(value["mean"]), float(value["ci95"])
