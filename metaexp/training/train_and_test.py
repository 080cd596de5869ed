"""One run's session: train from the newest checkpoint, then test."""

import gc
import io
import os
import warnings
from pathlib import Path
from typing import Any

import lightning as L

from metaexp.errors import CheckpointError, ConfigError, Interrupted, TimeLimitError
from metaexp.loggers.progress import Progress
from metaexp.loggers.result_table import print_result
from metaexp.loggers.tensorboard import Board
from metaexp.metrics import declared, direction
from metaexp.nested import leaves
from metaexp.storage.checkpoint_file import AtomicCheckpointIO, Checkpoints, load
from metaexp.storage.run_folder import RunFolder
from metaexp.system.signals import StopFlag
from metaexp.tasks.placeholder import check_data
from metaexp.training.build import Parts
from metaexp.training.control import Control
from metaexp.training.final_test import metric_names, test


def execute(
    parts: Parts, folder: RunFolder, resumed: tuple[Path, Path | None] | None, flag: StopFlag, started: float
) -> dict[str, Any]:
    config, learner = parts.config, parts.learner
    checkpoints = Checkpoints(folder.checkpoints, writes=folder.writes)
    found = _checkpoint(checkpoints, resumed, parts) if resumed else None
    folder.write_config({key: value for key, value in config.items() if key != "typed"})
    step = found["metaexp"]["step"] if found else 0
    board = Board(folder.path, resumed_at=step if resumed else None, rank=parts.rank)
    larger = direction(declared(learner), next(iter(learner.metrics))) is not False
    shown, every = None if parts.rank == 0 else io.StringIO(), config["log"]["seconds"]
    with Progress(config["steps"], step, shown, every=every, larger_is_better=larger) as progress:
        progress.note(f"run folder: {folder.path}")
        parts.loop.tell = progress.note
        control = Control(config, learner, parts.loop, folder, board, checkpoints, progress, flag)
        initial = {name: value.clone() for name, value in learner.state_dict().items()}
        if found:
            _restore(parts, control, found)
            folder.cut(step, control.pending)
            folder.status("running", step=step, exit_code=None, error=None)
            progress.note(f"resumed at step {step} of {config['steps']}")
        trainer = make_trainer(parts, control)
        if parts.rank == 0 and step == 0:
            board.layout(metric_names(learner, ["queries"]))
        if learner.trains and not control.finished():
            _fit(trainer, control)
        if parts.rank > 0:
            return {}
        if control.over_time and not control.finished():
            raise TimeLimitError(f"time_limit={config['time_limit']} s reached at step {control.step}; {_how(folder)}")
        if flag.requested is not None and not control.finished():
            raise flag.requested(f"stopped at step {control.step}; {_how(folder)}")
    try:
        result = test(parts, folder, checkpoints, control, board, trainer, initial)
        result["speed"] = {"meta_steps_per_s": control.speed(), "seconds": control.seconds(started)}
        result["memory"] = {"peak_mb": control.peak_mb()}
        board.hparams(_flat(config), {name: value["mean"] for name, value in result["test"].items()}, control.step)
    except Interrupted as stop:
        raise type(stop)(f"{stop}, in the test; {_how(folder)}") from None
    finally:
        board.close()
    folder.write_json("result.json", result)
    folder.status("finished", step=control.step, exit_code=0)
    print_result(result, str(folder.path), str(Path(config["out"])))
    return result


def _fit(trainer: L.Trainer, control: Control) -> None:
    gc.collect()
    gc.freeze()  # what stands by now stays: the collector need not look through it again and again
    try:
        trainer.fit(control.learner, train_dataloaders=control.spans())
    except SystemExit as error:  # Lightning's way to end after Ctrl-C, or a SIGTERM while its own handler stands
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        if control.flag.requested is None:
            raise
    finally:
        gc.unfreeze()  # else a sweep in one process keeps every job's learner and data


def _checkpoint(checkpoints: Checkpoints, resumed: tuple[Path, Path | None], parts: Parts) -> dict[str, Any]:
    """What to go on from; nothing in the run's folder is changed before it has passed."""
    path, steps = resumed[1], parts.config["steps"]
    if path is not None:
        data = load(path, parts.device)
    elif found := checkpoints.latest(parts.device):
        data, path = found
    else:
        raise CheckpointError(f"{resumed[0]}: no checkpoint yet; start over with resume=false")
    check_data(parts.family, data["metaexp"])
    if steps < (step := data["metaexp"]["step"]):
        raise ConfigError(f"steps={steps}: {resumed[0]} is at step {step} already; resume a checkpoint before it")
    if resumed[1] is not None:
        checkpoints.cut(step)
    os.environ["METAEXP_CHECKPOINT"] = str(path)  # further processes of a distributed run go on from the same
    return data


def _restore(parts: Parts, control: Control, data: dict[str, Any]) -> None:
    parts.learner.load_state_dict(data["state_dict"])
    parts.learner.set_mapping(data["metaexp"]["mapping"], parts.device)
    parts.loop.compiled = data["metaexp"]["compiled"]
    parts.optimizer.load_state_dict(data["optimizer_states"][0])
    control.restore(data["metaexp"])


def _how(folder: RunFolder) -> str:
    return f"continue with resume={folder.path}"


def make_trainer(parts: Parts, control: Control) -> L.Trainer:
    """Lightning's trainer for this run: device, strategy, precision; everything else is ours."""
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


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """What HParams shows: every setting by dotted key, without what is no setting."""
    hidden = {"_partial_", "trusted"}
    return {key: value for key, value in leaves(config) if value != {} and not hidden & set(key.split("."))}
