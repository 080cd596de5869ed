"""Words that stand for several settings: `debug=fast`, and the named schedules of the outer learning rate."""

from collections.abc import Collection, Mapping
from typing import Any

from metaexp.config.schema import kind_at
from metaexp.constraints import Misfit, fitted
from metaexp.nested import at

# Name -> scheduler of torch, whose arguments may be the run's own `steps` and `optimizer.lr`.
SCHEDULES: dict[str, dict[str, Any]] = {
    "cosine": {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": "steps"},
    "linear": {
        "_target_": "torch.optim.lr_scheduler.LinearLR",
        "start_factor": 1.0,
        "end_factor": 0.0,
        "total_iters": "steps",
    },
    "onecycle": {
        "_target_": "torch.optim.lr_scheduler.OneCycleLR",
        "max_lr": "optimizer.lr",
        "total_steps": "steps",
    },
}
# The largest values under debug=fast: enough for a validation, a checkpoint and a test, in seconds.
FAST = {
    "steps": 20,
    "meta_batch": 4,
    "accumulate": 1,
    "val.every": 10,
    "val.tasks": 8,
    "test.tasks": 16,
    "test.curve_tasks": 8,
    "log.every": 5,
    "checkpoint.every": 10,
}


def with_schedule(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with a named schedule written out: its length is that of the run."""
    name = config["optimizer"].get("schedule")
    if not isinstance(name, str):
        return config
    return config | {"optimizer": config["optimizer"] | {"schedule": written_out(name, config)}}


def written_out(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A named schedule as the scheduler of torch that it is in this configuration."""
    values = {"steps": max(config["steps"], 1), "optimizer.lr": at(config, "optimizer.lr", None)}
    return {key: values.get(value, value) for key, value in SCHEDULES[name].items()}


def name_of_schedule(config: Mapping[str, Any]) -> str | None:
    """The name of a saved run's schedule, if it is one of these."""
    found = at(config, "optimizer.schedule", None)
    return next((name for name in SCHEDULES if found == written_out(name, config)), None)


def small(config: dict[str, Any], typed: Collection[str]) -> dict[str, Any]:
    """The configuration under debug=fast: sizes that are not typed are cut, and nothing is compiled."""
    sizes: dict[str, Any] = {key: min(at(config, key), most) for key, most in FAST.items() if at(config, key, None)}
    bucket = at(config, "task.bucket", None)  # a meta-batch shares its number of support examples
    if isinstance(bucket, int) and "meta_batch" in sizes:
        sizes["meta_batch"] = next(n for n in range(sizes["meta_batch"], 0, -1) if bucket % n == 0)
    sizes |= {"compile": False, "test.curve_shots": []}
    for key, value in sizes.items():
        if key not in typed and _fits(config, key, value):
            config = _with(config, key.split("."), value)
    return config


def _fits(config: Mapping[str, Any], key: str, value: Any) -> bool:
    try:
        fitted(value, kind_at(config, key))
    except Misfit:
        return False
    return True


def _with(node: dict[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    inner = value if len(keys) == 1 else _with(node[keys[0]], keys[1:], value)
    return node | {keys[0]: inner}
