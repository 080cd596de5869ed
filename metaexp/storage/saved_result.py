"""result.json, read with its form checked: a file may have been edited by hand, cut short, or come from elsewhere."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from metaexp.checks import show
from metaexp.errors import CheckpointError

FORMAT = 1  # the newest format of result.json that is supported
_GROUPS = ("floors", "protocol", "speed", "memory", "weights")
_NUMBERS = ("speed.seconds", "speed.meta_steps_per_s", "memory.peak_mb", "parameters", "adapted_parameters", "steps")


def read_result(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The content of a run's result.json; and a line for each number outside the scores that is none, now None.

    Groups that it lacks are empty. Raises CheckpointError, with the file and the reason, if it cannot be read, is of a
    newer format, or holds a score or interval that is not a number.
    """
    file = Path(folder) / "result.json"
    result = _read(file)
    written = result.get("format", 1)
    if isinstance(written, bool) or not isinstance(written, int) or written > FORMAT:
        raise CheckpointError(f"{file}: written by format {show(written)}, this reads <={FORMAT}; use a newer metaexp")
    for name in _GROUPS:
        result[name] = value if isinstance(value := result.get(name), dict) else {}
    tests = {"test": result.get("test"), **{f"floors.{name}": one for name, one in result["floors"].items()}}
    for place, test in tests.items():
        if not isinstance(test, dict) or not all(isinstance(one, dict) for one in test.values()):
            raise CheckpointError(f"{file}: damaged, its key {place} does not hold metrics")
        for metric, one in test.items():
            if fault := next(_summary_faults(one), None):
                raise CheckpointError(f"{file}: damaged, {place}.{metric}.{fault}")
    if not tests["test"]:
        raise CheckpointError(f"{file}: damaged, its key test does not hold metrics")
    return result, list(_other_faults(file, result))


def _read(file: Path) -> dict[str, Any]:
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({os.strerror(error.errno or 0)})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: damaged, not JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(result, dict):
        raise CheckpointError(f"{file}: damaged, holds no result")
    return result


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value read from JSON is a number that a float can hold: neither NaN, inf, a bool nor too large."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _summary_faults(one: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the summary of a metric. A mean may be null only where every task diverged."""
    if "mean" not in one:
        yield "mean is missing"
    tasks, diverged = one.get("tasks"), one.get("diverged")
    for name in ("mean", "ci95", "median", "worst"):
        value = one.get(name)
        if value is not None and not _is_sized(value):
            yield f"{name}={_brief(value)}: not a number"
    for name in ("tasks", "diverged"):
        value = one.get(name)
        if value is not None and not (type(value) is int and 0 <= value < 1 << 53):
            yield f"{name}={_brief(value)}: not a number of tasks"
    if one.get("mean") is None and tasks is not None and diverged != tasks:
        yield "mean=null: not a number"
    if (one.get("ci95") or 0) < 0:
        yield f"ci95={_brief(one['ci95'])}: below 0"
    if not isinstance(one.get("larger_is_better"), bool | None):
        yield f"larger_is_better={_brief(one['larger_is_better'])}: neither true nor false"
    steps = one.get("per_step")
    if steps is not None and not (isinstance(steps, list) and all(map(_is_step, steps))):
        yield "per_step: not a list of means"
    if one.get("ece") is not None and not _is_error(one["ece"]):
        yield "ece: not a value with its interval"


def _is_step(one: Any) -> bool:
    return isinstance(one, dict) and "mean" in one and all(_is_sized_or_none(one.get(k)) for k in ("mean", "ci95"))


def _is_sized_or_none(value: Any) -> bool:
    return value is None or _is_sized(value)


def _is_error(one: Any) -> bool:
    """Whether it is a calibration error: a value with its interval."""
    if not isinstance(one, dict) or not _is_sized_or_none(one.get("value")):
        return False
    ends = one.get("ci95")
    return one.get("value") is None or (isinstance(ends, list) and len(ends) == 2 and all(map(_is_sized, ends)))


def _is_sized(value: Any) -> bool:
    return is_number(value) and abs(value) < 1e300  # sums and squares of a few such numbers stay finite


def _brief(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 63:
        return f"{'-' if value < 0 else ''}{value.bit_length()} bits"
    return json.dumps(value, default=str)[:60]


def _other_faults(file: Path, result: dict[str, Any]) -> Iterator[str]:
    for key in _NUMBERS:
        group, _, name = key.rpartition(".")
        node = result[group] if group else result
        value = node.get(name)
        if value is not None and not (_is_sized(value) and value >= 0):
            yield f"{file}: damaged, {key}={_brief(value)}: not a number; left out"
            node[name] = None
