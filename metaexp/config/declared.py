"""Types of the settings that no constructor takes: those of conf/train.yaml, conf/device and the like.

The names and defaults are those of the YAML files (a test compares them). Settings that a class takes, such as
`algo.inner_lr`, get their types from its constructor. `NotRequired`: runs of version 0.1.0 lack the setting, and can
still be tested and continued.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NotRequired, TypedDict, get_type_hints

from metaexp.checks import show
from metaexp.constraints import Count, Filled, Limit, Misfit, Natural, Positive, Seconds, WholeSeconds, fields, fitted
from metaexp.errors import ConfigError

Tasks = Annotated[int, Limit(least=1), Limit(most=10**8)]  # tasks whose scores are kept
Mode = Literal["queries", "single", "support"]  # where batch statistics come from at test


class Clip(TypedDict):
    """Limits on the norm and the elements of the meta-gradient."""

    norm: Positive | None
    value: Positive | None


class Validation(TypedDict):
    """Validation during training."""

    every: Count
    tasks: Tasks


class Test(TypedDict):
    """The test at the end."""

    tasks: Tasks
    weights: Literal["best", "last"]
    normalise: Annotated[list[Mode], Filled()]
    curve_shots: NotRequired[Natural | list[Natural] | None]
    curve_tasks: NotRequired[Tasks]
    predictions: NotRequired[bool]


class Figures(TypedDict):
    """In which form pictures are kept."""

    format: Annotated[list[Literal["png", "pdf", "svg"]], Filled()]
    width: Annotated[float, Limit(least=2), Limit(most=40)] | None


class Every(TypedDict):
    """How often something is written: in outer steps, and in seconds."""

    every: Count
    seconds: WholeSeconds


class Stop(TypedDict):
    """Early stopping."""

    metric: str | None
    target: NotRequired[float | None]
    patience: NotRequired[Count | None]


class Device(TypedDict):
    """conf/device: what Lightning's trainer runs on."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    devices: Count
    strategy: Literal["auto", "ddp"]
    precision: Literal[32, "64-true", "bf16-mixed"]
    threads: Count | None
    timeout: NotRequired[Seconds]


class Optimizer(TypedDict):
    """conf/optimizer: settings of every optimiser besides the arguments of its class."""

    schedule: NotRequired[dict[str, Any] | Literal["cosine", "linear", "onecycle"] | None]


class Train(TypedDict):
    """A run's configuration, without the arguments of classes."""

    seed: Annotated[int, Limit(least=-(2**63), most=2**63 - 1)]
    steps: Annotated[int, Limit(least=0), Limit(most=10**10)]
    meta_batch: Count
    train_tasks: NotRequired[Literal["all"] | Count]
    accumulate: Annotated[int, Limit(least=1), Limit(most=10**6)]
    mapping: Literal["auto", "vmap", "loop"] | Count
    compile: Literal["auto", True, False]
    clip: Clip
    skips: NotRequired[Natural]
    val: Validation
    test: Test
    log: Every
    figures: NotRequired[Figures]
    checkpoint: Every
    stop: Stop
    time_limit: Seconds | None
    encoder: NotRequired[dict[str, Any]]
    cache: NotRequired[str | None]
    watchdog: NotRequired[Seconds | None]
    logger: NotRequired[dict[str, Any]]
    callbacks: NotRequired[dict[str, Any]]
    trainer: NotRequired[dict[str, Any]]
    out: NotRequired[str]
    name: NotRequired[str | None]
    jobs: NotRequired[Count]
    seeds: NotRequired[list[Natural] | None]
    resume: NotRequired[Literal[False, "auto"] | str]
    start: NotRequired[str | None]
    debug: NotRequired[Literal["fast"] | None]
    trust: NotRequired[list[str]]
    device: Device
    optimizer: Optimizer


TRAIN: dict[str, Any] = get_type_hints(Train, include_extras=True) | {"from": NotRequired[str | None]}


def settings(
    kinds: Mapping[str, Any] | None = None, path: str = "", everywhere: bool = True
) -> Iterator[tuple[str, Any, bool]]:
    """(dotted key, annotation, whether every run has it) of each setting declared here."""
    for name, kind in (TRAIN if kinds is None else kinds).items():
        inside, always = fields(kind), everywhere and not str(kind).startswith("typing.NotRequired")
        if inside and "*" not in inside:
            yield from settings(inside, f"{path}{name}.", always)
        else:
            yield f"{path}{name}", kind, always


def check_ranges(config: dict[str, Any]) -> None:
    """Refuse a value of a declared setting that is not allowed; settings that an older run lacks are ignored.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    for key, kind, _ in settings():
        value: Any = config
        for name in key.split("."):
            value = value.get(name, Ellipsis) if isinstance(value, Mapping) else Ellipsis
        if value is not Ellipsis:
            try:
                fitted(value, kind)
            except Misfit as fault:
                raise ConfigError(f"{key}={show(value)}: {fault}") from None
    device = config["device"]
    if device["strategy"] == "auto" and device["devices"] > 1:
        raise ConfigError(f"device.devices={device['devices']}: device.strategy=auto is one process; use device=ddp")
