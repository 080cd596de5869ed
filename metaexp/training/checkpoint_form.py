"""Whether the content of a checkpoint is that of a run with these settings: checked before anything is changed."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from metaexp.checks import show
from metaexp.constraints import Count, Misfit, Natural, NonNegative, fields, fitted
from metaexp.errors import CheckpointError
from metaexp.storage.saved_config import learned_sha256


class Best(TypedDict):
    """The best validation so far."""

    value: float | None
    step: Natural
    waited: Natural
    scratch: NotRequired[dict[str, Any]]


class Record(TypedDict):
    """What `TrainingRecord.state` returns; runs of older versions lack the entries that are NotRequired."""

    format: NotRequired[Count]
    step: Natural
    best: Best
    reason: str | None
    pending: NotRequired[bool]
    sums: dict[str, Any] | None
    count: Natural
    skipped: NotRequired[Natural]
    schedule: dict[str, Any] | None
    mapping: Literal["auto", "vmap", "loop"] | Count
    compiled: bool
    rates: list[float]
    seconds: NotRequired[NonNegative]
    peak_mb: NotRequired[Natural]
    family: NotRequired[dict[str, Any] | None]
    trained_on: NotRequired[str | None]
    config_sha256: NotRequired[str]


_KEPT = {"classification": bool, "x_shape": list, "y_dim": int, "pool_dim": int, "bytes": bool, "sizes": dict}


def check_weights(data: Mapping[str, Any], path: Path, learner: Any, config: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless a checkpoint holds a run's record and finite weights that fit the learner, written
    under these settings (`config` is the run's saved configuration)."""
    check_record(data, path)
    found, wanted = data.get("state_dict"), learner.state_dict()
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{path}: damaged, its state_dict does not hold tensors")
    if other := unfit(found, wanted):
        raise CheckpointError(f"{path}: its weights are not those of this configuration ({'; '.join(other)[:200]})")
    for name, _ in learner.named_parameters():
        if not found[name].isfinite().all():
            raise CheckpointError(f"{path}: damaged, its weights {name} are not finite")
    written = data["metaexp"].get("config_sha256")
    if written is not None and written != learned_sha256(dict(config)):
        raise CheckpointError(
            f"{path}: written under other settings than those of {path.parent.parent / 'config.yaml'}, which was "
            "changed since; put the old settings back, or train again with the new ones"
        )


def unfit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Why a state does not fit one that is wanted, weight by weight; [] if it does."""
    other = [f"{name} is missing" for name in wanted if name not in found]
    other += [f"{name} is not there" for name in found if name not in wanted]
    return other + [
        f"{name} is {list(found[name].shape)}, here {list(value.shape)}"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    ]


def check_record(data: Mapping[str, Any], path: Path) -> None:
    """Raises CheckpointError unless the checkpoint holds a run's record with the right types."""
    record = data.get("metaexp")
    if not isinstance(record, dict):
        raise CheckpointError(f"{path}: no checkpoint of a run, it holds no record of one")
    for kind, part, name in ((Record, record, ""), (Best, record.get("best"), "best.")):
        for key, wanted in fields(kind).items():
            if not isinstance(part, dict) or (key not in part and not str(wanted).startswith("typing.NotRequired")):
                raise CheckpointError(f"{path}: damaged, its record has no {name}{key}")
    try:
        fitted(record, Record)
    except Misfit as fault:
        key = fault.path.lstrip(".")
        raise CheckpointError(f"{path}: damaged, its record says {key}={show(fault.value)}: {fault}") from None
    scratch = record["best"].get("scratch") or {}
    if not all(value is None or isinstance(value, int | float) for value in scratch.values()):
        raise CheckpointError(f"{path}: damaged, its record says best.scratch={show(scratch)}: must be numbers")
    sums = record["sums"]
    if sums is not None and not ({"loss", "norm", "logs"} <= set(sums) and _numbers(sums)):
        raise CheckpointError(f"{path}: damaged, the sums in its record are not those of a loss, a norm and logs")
    if not _is_kept(record.get("family")):
        raise CheckpointError(f"{path}: damaged, what its record says of the task family cannot be read")


def _numbers(tree: Any) -> bool:
    return all(isinstance(leaf, Tensor) and leaf.dim() == 0 for leaf in tree_leaves(tree))


def _is_kept(family: Any) -> bool:
    if family is None:
        return True
    sizes, units = family.get("sizes"), family.get("units")
    right = all(isinstance(family.get(name), kind) for name, kind in _KEPT.items()) and isinstance(units, dict)
    right = right and type(family.get("white", 0)) is int
    right = right and all(isinstance(value, Tensor) for value in units.values())
    right = right and all(isinstance(length, int) and length > 0 for length in family["x_shape"])
    return right and all(
        isinstance(sizes.get(split), dict)
        and set(sizes[split]) == {"shots", "queries", "ways"}
        and all(value is None or type(value) is int for value in sizes[split].values())
        for split in ("train", "test")
    )


def check_optimizer(data: Mapping[str, Any], path: Path, optimizer: Any, schedule: Any) -> None:
    """Raises CheckpointError unless the checkpoint holds a state that this optimiser and schedule can continue from."""
    states = data.get("optimizer_states")
    if not isinstance(states, list) or len(states) != 1 or not isinstance(states[0], dict):
        raise CheckpointError(f"{path}: damaged, it holds no state of the outer optimiser")
    reason = _group_fault(states[0], optimizer.state_dict()) or _state_fault(states[0].get("state"), optimizer)
    if reason:
        raise CheckpointError(f"{path}: its state of the outer optimiser is not one of this configuration ({reason})")
    saved = data["metaexp"]["schedule"]
    if (saved is None) != (schedule is None):
        raise CheckpointError(f"{path}: damaged, its schedule is not that of this configuration")
    if schedule is not None:
        for name, value in schedule.state_dict().items():
            if name not in saved or not _alike(value, saved[name]):
                raise CheckpointError(f"{path}: damaged, its schedule has no usable {name}")


def _group_fault(state: dict[str, Any], wanted: dict[str, Any]) -> str:
    groups = state.get("param_groups")
    if not isinstance(groups, list) or len(groups) != len(wanted["param_groups"]):
        return "another number of groups of parameters"
    for group, here in zip(groups, wanted["param_groups"], strict=True):
        if not isinstance(group, dict) or group.get("params") != here["params"]:
            return "other parameters"
        for name in ("lr", *here):
            if name not in group or not _alike(here.get(name), group[name]):
                return f"{name}={show(group.get(name))}"
    return ""


def _alike(one: Any, other: Any) -> bool:
    """Whether two values of an optimiser or schedule are of one kind; None may stand for a value."""
    if one is None or other is None:
        return True
    if isinstance(one, bool) or isinstance(other, bool):
        return type(one) is type(other)
    if isinstance(one, int | float | Tensor):
        right = isinstance(other, Tensor) and other.numel() == 1
        return right or ((isinstance(other, int | float) and math.isfinite(other)) or other == one)
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, dict):
        return isinstance(other, dict) and all(key in other and _alike(value, other[key]) for key, value in one.items())
    return isinstance(other, type(one))


def _state_fault(state: Any, optimizer: Any) -> str:
    shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]
    if not isinstance(state, dict) or not all(isinstance(entry, dict) for entry in state.values()):
        return "no state per parameter"
    names = {tuple(entry) for entry in state.values()}
    if len(names) > 1:
        return "parameters have different entries"
    for place, entry in state.items():
        if type(place) is not int or not 0 <= place < len(shapes):
            return f"it has a parameter {show(place)}"
        for name, value in entry.items():
            if isinstance(value, Tensor):
                if value.numel() != 1 and value.dim() == len(shapes[place]) and not _fits(value.shape, shapes[place]):
                    return f"{name} of parameter {place} is {list(value.shape)}, here {list(shapes[place])}"
            elif not (value is None or isinstance(value, int | float)):
                return f"{name} of parameter {place} is no number"
    return ""


def _fits(found: torch.Size, wanted: torch.Size) -> bool:
    return all(one in (1, other) for one, other in zip(found, wanted, strict=True))


def restore_callbacks(callbacks: Sequence[Any], data: Mapping[str, Any], path: Path) -> None:
    """Give the user's callbacks their states in the checkpoint; raises CheckpointError for one that does not fit."""
    states = data.get("callbacks") or {}
    if not isinstance(states, Mapping):
        raise CheckpointError(f"{path}: damaged, its states of callbacks are no group")
    for callback in callbacks:
        if callback.state_key not in states:
            continue
        try:
            callback.load_state_dict(states[callback.state_key])
        except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: its state of {callback.state_key} does not fit ({reason})") from error
