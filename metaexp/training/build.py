"""From a resolved configuration to objects: family, learner, optimiser, outer loop. Imports Lightning last.

A value out of range in the task is refused before Lightning is imported, which takes longer than torch.
"""

from typing import Any

import torch

from metaexp.algos.trial import first_tasks
from metaexp.config.declared import check_ranges
from metaexp.config.instantiate import instantiate, nodes
from metaexp.errors import ConfigError
from metaexp.metrics import declared, score_names
from metaexp.outer.compiler import decide_compile
from metaexp.outer.optimisers import make_optimizer
from metaexp.system import cache
from metaexp.system.lean import import_lightning, spare_dynamo
from metaexp.system.ranks import Ranks
from metaexp.tasks.base import TaskFamily
from metaexp.tasks.playable import check_playable
from metaexp.tasks.world import World
from metaexp.training.few_tasks import use_few
from metaexp.training.parent import Parent
from metaexp.training.sizes import check_learner, check_machine, check_tasks, learner_within_memory, within_memory

THREADS = torch.get_num_threads()  # at the start of the process: another run of a sweep may have changed it since
DTYPES = {"32": torch.float32, "64-true": torch.float64, "bf16-mixed": torch.float32}


def use_threads(most: int) -> None:
    """Runs of this process use at most this many threads: several of them share the machine."""
    global THREADS
    THREADS = most
    torch.set_num_threads(most)


class Experiment:
    """The objects that a configuration describes: family, learner, outer loop, callbacks.

    Args:
        config: resolved configuration.
        family: used instead of the one described.
        ranks: this process among those of the run; None: the first, of as many as the configuration asks for.
        trial: try the learner on two training tasks, if it has parts from elsewhere: the mapping over tasks, and what
            depends on it, is then decided here and not at its first use.
        parent: the run whose weights training starts from.

    Raises:
        ConfigError: a value out of range, naming its key.
        DataError: the family's data is missing or damaged.
    """

    def __init__(
        self,
        config: dict[str, Any],
        family: TaskFamily | None = None,
        ranks: Ranks | None = None,
        trial: bool = False,
        parent: Parent | None = None,
    ):
        check_ranges(config)
        spare_dynamo()
        self.config, self.parent = config, parent
        self.ranks = ranks or Ranks.alone(config["device"])
        trusted = set(config.get("trusted", ()))
        device = config["device"]
        self.accelerator, self.device = _device(device, self.ranks.local_rank)
        self.dtype = DTYPES[str(device["precision"])]
        check_machine(device)
        cache.choose(config.get("cache"))
        with within_memory():
            family = family or use_few(instantiate(config["task"], group="task", trusted=trusted), config)
        if family.test_only:
            raise ConfigError(f"task.{family.test_only}")
        self.family = family.to(self.device, self.dtype)
        if isinstance(world := self.family, World):
            _located("task", lambda: check_playable(world), ": ")
        check_tasks(config, self.family)
        varying = self.family.varying("train")
        if varying and varying.bucket % config["meta_batch"]:
            raise ConfigError(
                f"task.bucket={varying.bucket}: must be a multiple of meta_batch={config['meta_batch']}, in which all "
                "tasks have one number of support examples"
            )
        settings = {key: value for key, value in config["optimizer"].items() if key != "schedule"}
        optimizer = instantiate(settings, group="optimizer", trusted=trusted)
        example = optimizer([torch.nn.Parameter(torch.zeros(1))])  # a bad rate is refused before Lightning is imported
        model = instantiate(config["model"], group="model", trusted=trusted)
        make = instantiate(config["algo"], group="algo", trusted=trusted)

        def learner() -> Any:
            torch.manual_seed(config["seed"])  # the initial weights are a function of the seed
            return _located("algo", lambda: make(self.family, model, mapping=config["mapping"]))

        with torch.random.fork_rng(devices=[]):
            self.learner = learner_within_memory(learner, example)
        self.learner.to(self.dtype)
        if parent is not None:
            parent.check(self.learner)
        _check_queries(self.family, self.learner)
        _check_metric(config["stop"]["metric"], self.learner)
        check_learner(config, self.learner, example)
        if trial:
            _located("", lambda: _try(self.learner.to(self.device), config["meta_batch"]))
        torch.set_num_threads(_threads(device["threads"], self.learner.mapping, self.device))
        compiled = _located(
            "",
            lambda: decide_compile(
                config["compile"],
                config["steps"],
                self.learner.mapping,
                self.device,
                varying is not None,
                self.learner.compiles,
                hasattr(self.learner, "update_gradient"),
            ),
        )
        self.optimizer = make_optimizer(optimizer, self.learner)
        schedule = config["optimizer"].get("schedule")
        self.schedule = (
            instantiate({**schedule, "_partial_": True}, group="optimizer.schedule", trusted=trusted)(self.optimizer)
            if schedule
            else None
        )
        total = getattr(self.schedule, "total_steps", None)  # OneCycleLR refuses to go on after its end
        if isinstance(total, int) and total < config["steps"]:
            raise ConfigError(f"optimizer.schedule.total_steps={total}: fewer than steps={config['steps']}")
        if isinstance(self.schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ConfigError(
                "optimizer.schedule: ReduceLROnPlateau waits for a metric; take a schedule that follows the steps"
            )
        import_lightning()  # only here, after the checks
        from metaexp.outer.meta_training import MetaTraining

        self.training = _located(
            "",
            lambda: MetaTraining(
                self.learner,
                self.optimizer,
                self.schedule,
                steps=config["steps"],
                meta_batch=config["meta_batch"],
                accumulate=config["accumulate"],
                clip_norm=config["clip"]["norm"],
                clip_value=config["clip"]["value"],
                skips=config.get("skips", 0),  # runs older than this setting lack it
                compiled=compiled,
                rank=self.ranks.rank,
                world=self.ranks.world,
                every=[config[group]["every"] for group in ("val", "log", "checkpoint")],
                val_every=config["val"]["every"],
                val_tasks=config["val"]["tasks"],
            ),
        )
        self.callbacks = [_callback(key, node, trusted) for key, node in nodes("callbacks", config.get("callbacks"))]
        list(nodes("logger", config.get("logger")))  # refuses a wrong form; they are made with the run's folder
        if config.get("trainer"):  # a wrong argument is refused before a folder is made
            from metaexp.training.trainer import make_trainer

            make_trainer(self)


def _check_queries(family: TaskFamily, learner: Any) -> None:
    """Refuse 0 queries: their scores and losses are 0, which would look like the best possible."""
    if family.sizes["test"]["queries"] == 0:
        raise ConfigError("task.test.queries=0: nothing to test on; it must be at least 1")
    if family.sizes["train"]["queries"] == 0 and learner.trains and learner.reads_queries:
        raise ConfigError(f"task.queries=0: {type(learner).__name__} learns from the queries; it must be at least 1")


def _check_metric(name: str | None, learner: Any) -> None:
    metrics = declared(learner)
    names = list(dict.fromkeys([*metrics, *score_names(metrics, learner.modes(["queries"]))]))
    if name is not None and name not in names:
        raise ConfigError(f"stop.metric={name}: not a validation metric here; one of {', '.join(names)}")


def _try(learner: Any, meta_batch: int) -> None:
    """Settle the mapping, and refuse a learner whose meta-gradient is zero on the first meta-batch."""
    learner.settle()
    learner.check_connected(lambda: first_tasks(learner, meta_batch))


def _located(group: str, make: Any, mark: str = ".") -> Any:
    """Runs a constructor; its ValueError becomes a ConfigError that names the full key."""
    try:
        return make()
    except ValueError as error:
        raise ConfigError(f"{group}{mark}{error}" if group else str(error)) from error


def _device(settings: dict[str, Any], local_rank: int = 0) -> tuple[str, torch.device]:
    """(Lightning's accelerator, torch device); refuses a device that is not available."""
    wanted = settings["accelerator"]
    there = {"cpu": True, "gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        wanted = "gpu" if there["gpu"] else "mps" if there["mps"] else "cpu"
    if not there.get(wanted, False):
        raise ConfigError(f"device.accelerator={wanted}: there is none here; use device=cpu or device=auto")
    return wanted, torch.device({"cpu": "cpu", "gpu": f"cuda:{local_rank}", "mps": "mps"}[wanted])


def _threads(wanted: int | None, mapping: str | int, device: torch.device) -> int:
    """The number of threads. Tensors of small networks under vmap are too small to share: two threads are slower."""
    if wanted is not None:
        return wanted
    return 1 if device.type == "cpu" and mapping != "loop" else THREADS


def _callback(key: str, node: dict[str, Any], trusted: set[str]) -> Any:
    from lightning import Callback

    made = instantiate(node, group=key, trusted=trusted)
    if not isinstance(made, Callback):
        raise ConfigError(f"{key}._target_={node['_target_']}: makes no Lightning callback")
    return made
