"""One run, from a resolved configuration to result.json."""

import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from metaexp import files
from metaexp.boards.progress import Progress, print_result, quiet
from metaexp.boards.tensorboard import Board
from metaexp.checkpoint import AtomicCheckpointIO, Checkpoints, load, versions
from metaexp.errors import CheckpointError, ConfigError, MetaexpError, SpaceError, TimeLimitError
from metaexp.evaluation import Scores, evaluate, mean_predictor, summary
from metaexp.outer import OuterLoop, decide_compile, make_optimizer
from metaexp.runs import RunFolder, find_resumable, state_of
from metaexp.saved_config import config_sha256, differences, read_config
from metaexp.signals import StopFlag
from metaexp.targets import instantiate
from metaexp.training import Control

FORMAT = 1  # of result.json
DTYPES = {"32": torch.float32, "64-true": torch.float64, "bf16-mixed": torch.float32}


class Parts:
    """The objects that a configuration describes: family, learner, outer loop, trainer settings.

    Raises:
        ConfigError: a value out of range, naming its key.
        DataError: the family's data is missing or damaged.
    """

    def __init__(self, config: dict[str, Any]):
        _check_ranges(config)
        self.config = config
        trusted = set(config.get("trusted", ()))
        device = config["device"]
        self.accelerator, self.device = _device(device)
        self.dtype = DTYPES[str(device["precision"])]
        family = instantiate(config["task"], group="task", trusted=trusted)
        self.family = family.to(self.device, self.dtype)
        model = instantiate(config["model"], group="model", trusted=trusted)
        make = instantiate(config["algo"], group="algo", trusted=trusted)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config["seed"])  # the initial weights are a function of the seed
            self.learner = _located("algo", lambda: make(self.family, model, mapping=config["mapping"]))
        self.learner.to(self.dtype)
        torch.set_num_threads(_threads(device["threads"], self.learner.mapping, self.device))
        self.rank, self.world = int(os.environ.get("LOCAL_RANK", "0")), _processes(device)
        compiled = _located(
            "", lambda: decide_compile(config["compile"], config["steps"], self.learner.mapping, self.device)
        )
        optimizer = {key: value for key, value in config["optimizer"].items() if key != "schedule"}
        self.optimizer = make_optimizer(instantiate(optimizer, group="optimizer", trusted=trusted), self.learner)
        schedule = config["optimizer"].get("schedule")
        self.schedule = (
            instantiate({**schedule, "_partial_": True}, group="optimizer.schedule", trusted=trusted)(self.optimizer)
            if schedule
            else None
        )
        self.loop = _located(
            "",
            lambda: OuterLoop(
                self.learner,
                self.optimizer,
                self.schedule,
                meta_batch=config["meta_batch"],
                accumulate=config["accumulate"],
                clip_norm=config["clip"]["norm"],
                clip_value=config["clip"]["value"],
                compiled=compiled,
                rank=self.rank,
                world=self.world,
            ),
        )
        self.learner.outer = self.loop


def run(config: dict[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Train, test and write one run; returns the content of result.json.

    Args:
        config: the resolved configuration (`metaexp.config.load`), with `choices` and, in a sweep, `sweep`.
        folder: for the processes of a distributed run after the first: the claimed folder.

    Raises:
        MetaexpError: by exit code, see `metaexp.errors`; Interrupted, Terminated after Ctrl-C, SIGTERM.
    """
    started = time.monotonic()
    quiet()
    resumed = None if folder is not None else _resumed(config)
    if resumed is not None:
        config = _continued(resumed[0], config)
        if state_of(resumed[0]) == "finished":
            return _finished(resumed[0])
    parts = Parts(config)
    run_folder = _open(config, folder, resumed)
    os.environ["METAEXP_RUN_DIR"] = str(run_folder.path)  # children of a distributed run join this folder
    try:
        with _states(run_folder), StopFlag() as flag:
            return _run(parts, run_folder, resumed, flag, started)
    finally:
        if folder is None:
            _leave_group()
        run_folder.close()


def _run(
    parts: Parts, folder: RunFolder, resumed: tuple[Path, Path | None] | None, flag: StopFlag, started: float
) -> dict[str, Any]:
    config, learner = parts.config, parts.learner
    if resumed is None:
        folder.write_config({key: value for key, value in config.items() if key != "typed"})
    checkpoints = Checkpoints(folder.checkpoints, writes=folder.writes)
    found = _checkpoint(checkpoints, resumed, parts.device) if resumed else None
    step = found["metaexp"]["step"] if found else 0
    board = Board(folder.path, resumed_at=step if resumed else None, rank=parts.rank)
    larger = parts.family.larger_is_better
    with Progress(config["steps"], start=step, larger_is_better=larger, every=config["log"]["seconds"]) as progress:
        if parts.rank == 0:
            progress.note(f"run folder: {folder.path}")
        parts.loop.tell = progress.note
        control = Control(config, learner, parts.loop, folder, board, checkpoints, progress, flag)
        initial = {name: value.clone() for name, value in learner.state_dict().items()}
        if found:
            _restore(parts, control, found)
            folder.cut(step)
            folder.status("running", step=step, exit_code=None, error=None)
            progress.note(f"resumed at step {step} of {config['steps']}")
        trainer = _trainer(parts, control)
        if parts.rank == 0 and step == 0:
            board.layout(_metric_names(learner, ["queries"]))
        if learner.trains and not control.finished():
            _fit(trainer, control)
        if control.over_time and not control.finished():
            raise TimeLimitError(f"time_limit={config['time_limit']} s reached at step {control.step}; {_how(folder)}")
        if flag.requested is not None and not control.finished():
            raise flag.requested(f"stopped at step {control.step}; {_how(folder)}")
        progress.close()
    if parts.rank > 0:
        return {}
    try:
        result = _test(parts, folder, checkpoints, control, board, trainer, initial)
        result["speed"] = {"meta_steps_per_s": control.speed(), "seconds": time.monotonic() - started}
        result["memory"] = {"peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}
        board.hparams(_flat(config), {name: value["mean"] for name, value in result["test"].items()}, control.step)
    finally:
        board.close()
    folder.write_json("result.json", result)
    folder.status("finished", step=control.step, exit_code=0)
    print_result(result, str(folder.path), str(Path(config["out"])))
    return result


def _leave_group() -> None:
    """Forget this run's process group and its environment: the next job of a sweep makes its own."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in ("METAEXP_RUN_DIR", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK"):
        os.environ.pop(name, None)


def _fit(trainer: L.Trainer, control: Control) -> None:
    try:
        trainer.fit(control.learner, train_dataloaders=control.spans())
    except SystemExit as error:  # Lightning's way to end after Ctrl-C
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


# -- test --------------------------------------------------------------------------------------------------------------


def _test(
    parts: Parts,
    folder: RunFolder,
    checkpoints: Checkpoints,
    control: Control,
    board: Board,
    trainer: L.Trainer,
    initial: dict[str, torch.Tensor],
) -> dict[str, Any]:
    config, learner, family = parts.config, parts.learner, parts.family
    learner.to(parts.device)
    step = control.step
    if learner.trains and config["test"]["weights"] == "best" and (best := checkpoints.best(parts.device)):
        learner.load_state_dict(best[0]["state_dict"])
        step = best[0]["metaexp"]["step"]
    with trainer.precision_plugin.forward_context():
        chosen = learner.finish()
        tasks, modes = config["test"]["tasks"], config["test"]["normalise"]
        tick = _ticker(control, tasks)
        scores = evaluate(learner, "test", tasks, modes, tick=tick)
        floors = {"mean": mean_predictor(learner, "test", tasks)}
        _pictures(parts, board, scores, control.step)
        if learner.trains:
            learner.load_state_dict(initial)
            floors["scratch"] = evaluate(learner, "test", tasks, modes[:1], tick=tick).arrays
    larger = family.larger_is_better
    arrays = {**scores.arrays, **{f"floor_{f}_{name}": v for f, found in floors.items() for name, v in found.items()}}
    folder.write_arrays("test_scores.npz", indices=scores.indices, query_sha256=np.array(scores.query_sha256), **arrays)
    _curves(folder, board, scores, floors, control.step, config)
    test = {name: summary(values, larger) for name, values in scores.arrays.items()}
    sizes = family.sizes["test"]
    return {
        "format": FORMAT,
        "algo": config["choices"]["algo"],
        "task": config["choices"]["task"],
        "model": config["choices"]["model"],
        "experiment": config["choices"].get("experiment"),
        "seed": config["seed"],
        "steps": control.step,
        "stopped": control.reason,
        "weights": {"kind": config["test"]["weights"] if learner.trains else "initial", "step": step},
        "test": test,
        "floors": {floor: {n: summary(v, larger) for n, v in found.items()} for floor, found in floors.items()},
        "val": {"metric": control.metric, "best": control.best_value(), "step": control.best["step"]},
        "protocol": {
            **sizes,
            "split": config["task"].get("split"),
            "rotation": (config["task"].get("test") or {}).get("rotation") or config["task"].get("rotation"),
            "resize": config["task"].get("resize"),
            "eval_seed": config["task"].get("eval_seed"),
            "normalise": {
                name + suffix: mode for suffix, mode in learner.modes(modes).items() for name in family.metrics
            },
            "test_steps": learner.test_steps,
            "query_sha256": scores.query_sha256,
        },
        "finish": chosen,
        "mapping": learner.mapping,
        "compiled": parts.loop.compiled,
        "parameters": sum(p.numel() for p in learner.parameters()),
        "versions": versions(),
        "device": str(parts.device),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "config_sha256": config_sha256(config),
    }


def _ticker(control: Control, tasks: int) -> Callable[[int], None]:
    """Says how far the test is, every so often; ends it at a signal."""
    print(f"testing on {tasks} tasks ...", file=sys.stderr, flush=True)
    due = [time.monotonic() + control.config["log"]["seconds"]]

    def tick(done: int) -> None:
        control.flag.check()
        if time.monotonic() > due[0]:
            print(f"tested {done}/{tasks}", file=sys.stderr, flush=True)
            due[0] = time.monotonic() + control.config["log"]["seconds"]

    return tick


def _metric_names(learner: Any, modes: list[str]) -> list[str]:
    return [name + suffix for suffix in learner.modes(modes) for name in learner.family.metrics]


def _pictures(parts: Parts, board: Board, scores: Scores, step: int) -> None:
    """A picture of a few test episodes, in the form that the family names."""
    learner, family = parts.learner, parts.family
    episode = family.sample("test", torch.arange(4, device=family.device))
    last = learner.test_steps
    shown = sorted({0, min(1, last), last})

    def predict(x: torch.Tensor) -> torch.Tensor:
        rows = []
        for task in range(len(episode.key)):
            support = type(episode.support)(episode.support.x[task], episode.support.y[task])
            path = learner.path(support, episode.key[task], last)
            rows.append(torch.stack([learner.predict(path[min(s, len(path) - 1)], x[task]) for s in shown]))
        return torch.stack(rows)

    with torch.no_grad():
        board.figure("test/episodes", family.picture(episode, predict, shown), step)


def _curves(
    folder: RunFolder, board: Board, scores: Scores, floors: dict[str, Any], step: int, config: dict[str, Any]
) -> None:
    from metaexp.boards.pictures import adaptation_curve, training_curve  # matplotlib takes half a second to import

    title = f"{config['choices']['algo']} on {config['choices']['task']}"
    for name, values in scores.arrays.items():
        lines = {}
        for floor, found in floors.items():
            near = found.get(name, next(iter(found.values())))
            curve = near[np.isfinite(near).all(1)].mean(0)
            lines[floor] = float(curve[0]) if len(curve) == 1 else curve
        board.figure(f"test/adaptation_{name}", adaptation_curve(name, values, lines, title), step)
    path = folder.path / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if rows:
        board.figure("train/curve", training_curve(rows, next(iter(scores.arrays)), title), step)


# -- resume ------------------------------------------------------------------------------------------------------------


def _resumed(config: dict[str, Any]) -> tuple[Path, Path | None] | None:
    """(run folder, checkpoint or None for the newest) to continue, or None to start fresh."""
    wanted = config["resume"]
    if wanted in (False, None, "false"):
        return None
    if wanted == "auto":
        found = find_resumable(Path(config["out"]), config_sha256(config))
        if found is None:
            print("resume=auto: nothing to continue here, starting fresh", file=sys.stderr)
        return None if found is None else (found, None)
    path = Path(str(wanted))
    if path.suffix == ".ckpt" or path.is_file():
        if not path.is_file():
            raise CheckpointError(f"resume={path}: no such checkpoint")
        return path.resolve().parent.parent, path.resolve()
    if not path.is_dir():
        raise CheckpointError(f"resume={path}: no such run folder")
    return path.resolve(), None


def _finished(path: Path) -> dict[str, Any]:
    result = json.loads((path / "result.json").read_text())
    print_result(result, str(path), str(path.parent))
    return result


def _continued(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The saved configuration, with what may change taken from the command line; refuses other differences.

    Modules that the saved configuration trusts are not trusted again: a run folder may come from a stranger.
    """
    saved = read_config(path)
    free = ("steps", "device", "out", "name", "resume", "time_limit", "trust")
    typed = {
        key: value for key, value in config["typed"].items() if key.removeprefix("choices.").split(".")[0] not in free
    }
    changed = differences(saved, typed, partial=True)
    if changed:
        lines = "; ".join(f"{key}: {old} -> {new}" for key, old, new in changed)
        raise ConfigError(f"resume={path}: a run's settings must stay ({lines}); steps, device and out may change")
    names = {key.removeprefix("choices.").split(".")[0] for key in config["typed"]}
    kept = {key: config[key] for key in ("steps", "device", "time_limit") if key in names}
    return saved | kept | {"resume": config["resume"], "trusted": list(config["trust"])}


def _checkpoint(checkpoints: Checkpoints, resumed: tuple[Path, Path | None], device: torch.device) -> dict[str, Any]:
    path = resumed[1]
    if path is not None:
        data = load(path, device)
        checkpoints.cut(data["metaexp"]["step"])
        return data
    found = checkpoints.latest(device)
    if found is None:
        raise CheckpointError(f"{resumed[0]}: no checkpoint yet; start over with resume=false")
    return found[0]


def _restore(parts: Parts, control: Control, data: dict[str, Any]) -> None:
    parts.learner.load_state_dict(data["state_dict"])
    parts.learner.set_mapping(data["metaexp"]["mapping"], parts.device)
    parts.loop.compiled = data["metaexp"]["compiled"]
    parts.optimizer.load_state_dict(data["optimizer_states"][0])
    control.restore(data["metaexp"])


def _open(config: dict[str, Any], folder: Path | None, resumed: tuple[Path, Path | None] | None) -> RunFolder:
    if folder is not None:
        return RunFolder.join(folder)
    if resumed is not None:
        return RunFolder.reopen(resumed[0])
    sweep = config.get("sweep")
    if sweep:
        return RunFolder.claim_named(Path(sweep["folder"]) / sweep["job"])
    label = config["name"] or f"{config['choices']['algo']}_{config['choices']['task']}"
    return RunFolder.claim(Path(config["out"]), label)


def _how(folder: RunFolder) -> str:
    return f"continue with resume={folder.path}"


@contextmanager
def _states(folder: RunFolder) -> Iterator[None]:
    """Writes how the run ended into status.json, whatever ends it."""
    try:
        yield
    except BaseException as error:
        space = files.cause(error, OSError, None)
        if space is not None and not isinstance(error, MetaexpError):
            error = files.space_error(folder.path, space)
        code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
        stopped = isinstance(error, (KeyboardInterrupt, TimeLimitError))
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        with suppress(SpaceError):  # on a full disk the first error is the one to show
            folder.status("interrupted" if stopped else "failed", exit_code=code, error=message)
        raise error


# -- settings ----------------------------------------------------------------------------------------------------------


def _check_ranges(config: dict[str, Any]) -> None:
    for key, least in (
        ("steps", 0),
        ("meta_batch", 1),
        ("accumulate", 1),
        ("val.every", 1),
        ("val.tasks", 1),
        ("test.tasks", 1),
        ("log.every", 1),
        ("checkpoint.every", 1),
    ):
        value: Any = config
        for name in key.split("."):
            value = value[name]
        if value < least:
            raise ConfigError(f"{key}={value}: must be at least {least}")
    for mode in config["test"]["normalise"]:
        if mode not in ("queries", "single", "support"):
            raise ConfigError(f"test.normalise={mode}: must be among queries, single, support")
    if config["time_limit"] is not None and not config["time_limit"] > 0:
        raise ConfigError(f"time_limit={config['time_limit']}: must be above 0 seconds")
    if str(config["device"]["precision"]) not in DTYPES:
        raise ConfigError(f"device.precision={config['device']['precision']}: must be one of {', '.join(DTYPES)}")


def _located(group: str, make: Any) -> Any:
    """Runs a constructor; its ValueError becomes a ConfigError that names the full key."""
    try:
        return make()
    except ValueError as error:
        raise ConfigError(f"{group}.{error}" if group else str(error)) from error


def _device(settings: dict[str, Any]) -> tuple[str, torch.device]:
    """(Lightning's accelerator, torch device); refuses a device that is not there."""
    wanted = settings["accelerator"]
    there = {"cpu": True, "gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        wanted = "gpu" if there["gpu"] else "mps" if there["mps"] else "cpu"
    if not there.get(wanted, False):
        raise ConfigError(f"device.accelerator={wanted}: there is none here; use device=cpu or device=auto")
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    return wanted, torch.device({"cpu": "cpu", "gpu": f"cuda:{rank}", "mps": "mps"}[wanted])


def _threads(wanted: int | None, mapping: str | int, device: torch.device) -> int:
    """The tensors of small networks under vmap are too small to share: two threads are slower there than one."""
    if wanted is not None:
        if wanted < 1:
            raise ConfigError(f"device.threads={wanted}: must be at least 1")
        return wanted
    return 1 if device.type == "cpu" and mapping != "loop" else torch.get_num_threads()


def _processes(settings: dict[str, Any]) -> int:
    return int(settings["devices"]) if settings["strategy"] != "auto" else 1


def _trainer(parts: Parts, control: Control) -> L.Trainer:
    device = parts.config["device"]
    strategy: Any = "auto"
    if parts.world > 1:
        from lightning.pytorch.strategies import DDPStrategy

        strategy = DDPStrategy(process_group_backend="gloo" if parts.accelerator == "cpu" else "nccl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return L.Trainer(
            accelerator=parts.accelerator,
            devices=parts.world,
            strategy=strategy,
            precision=str(device["precision"]),  # type: ignore[arg-type]
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            inference_mode=False,
            callbacks=[control],
            plugins=[AtomicCheckpointIO()],
        )


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif key not in ("_partial_", "trusted"):
            flat[prefix + key] = value
    return flat


def _commit() -> str | None:
    """The commit of the checkout that the code runs from, with + for uncommitted changes; None outside one."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else None
