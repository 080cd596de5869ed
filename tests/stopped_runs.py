"""Runs that are stopped and resumed, and their comparison with runs that never stopped."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forks import Forks
from run_folders import only_run

TINY = "task=sine device=cpu model.hidden=[8,8] meta_batch=4 val.tasks=5 test.tasks=5".split()
MAML = [*TINY, "algo=maml", "algo.test_steps=2", "algo.inner_lr=0.02"]
CARRIED = [
    *TINY,
    "algo=reptile",
    "algo.test_steps=3",
    "algo.state=carried",
    "task.test.shots=5",
    "task.test.queries=10",
]
CARRIED += ["algo.inner={_target_:metaexp.inner.Adam,beta1:0.0,beta2:0.999}", "algo.inner_lr=0.002", "meta_batch=2"]
MAML_PG = [
    *("task=navigation", "task.horizon=5", "device=cpu", "model.hidden=[8]", "meta_batch=2", "val.tasks=5"),
    *("test.tasks=5", "algo=maml_pg", "algo.trials=3", "algo.outer_trials=2", "algo.test_steps=2"),
]
STEP, VALIDATION, REPLACE, ROW = (
    "metaexp.outer.meta_training:MetaTraining.advance",
    "metaexp.outer.meta_training:MetaTraining.validation_step",
    "os:replace",
    "metaexp.storage.metrics_log:MetricsLog.append",
)
UPDATE = "metaexp.outer.rollout_step:RolloutStep._update"  # in the middle of an outer step
TEST = "metaexp.training.final_test:evaluate"
OF_THE_MACHINE = ("rates", "seconds", "times", "peak_mb")
LIGHTNING = "lightning.pytorch.trainer.connectors.signal_connector:_SignalConnector.register_signal_handlers"


def status(run: Path) -> tuple[str, int | None]:
    data = json.loads((run / "status.json").read_text())
    return data["state"], data.get("exit_code")


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without its time columns."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if key not in ("seconds", "meta_steps_per_s")} for row in found]


def state(run: Path, name: str | None = None) -> dict[str, Any]:
    """Learner, optimiser, schedule and clock from a checkpoint, by default the newest."""
    path = run / "checkpoints" / name if name else max((run / "checkpoints").glob("step=*.ckpt"))
    data = torch.load(path, weights_only=True)
    own = {key: value for key, value in data["metaexp"].items() if key not in OF_THE_MACHINE}
    return {"weights": data["state_dict"], "optimizer": data["optimizer_states"], "own": own}


def same(one: Any, other: Any) -> bool:
    """Whether two trees of tensors and containers are equal, to the last bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def assert_same_run(run: Path, reference: Path) -> None:
    assert status(run) == status(reference) == ("finished", 0)
    assert rows(run) == rows(reference)
    assert [row["step"] for row in rows(run)] == sorted(row["step"] for row in rows(run))
    newest = max((reference / "checkpoints").glob("step=*.ckpt")).name
    for name in (newest, "best.ckpt"):
        mine, theirs = state(run, name), state(reference, name)
        assert list(mine["weights"]) == list(theirs["weights"])
        for part in mine:
            assert same(mine[part], theirs[part]), (name, part)
    one, other = (np.load(folder / "test_scores.npz") for folder in (run, reference))
    assert one.files == other.files
    assert all(np.array_equal(one[key], other[key], equal_nan=one[key].dtype.kind == "f") for key in one.files)
    one, other = (json.loads((folder / "result.json").read_text()) for folder in (run, reference))
    for key in set(one) - {"speed", "memory", "command"}:
        assert one[key] == other[key], key
    assert not list(run.rglob(".*")), "a temporary file was left"


# Kinds of training: each has one reference run, with which every stopped run is compared.
KINDS = {
    "7/11/13": [*MAML, "steps=60", "log.every=7", "val.every=11", "checkpoint.every=13"],
    "accumulate": [*MAML, "steps=110", "log.every=50", "val.every=50", "checkpoint.every=50", "accumulate=2"],
    "schedule": [
        *(*MAML, "steps=60", "log.every=10", "val.every=20", "checkpoint.every=7", "clip.norm=1", "optimizer=adamw"),
        "optimizer.schedule={_target_:torch.optim.lr_scheduler.CosineAnnealingLR,T_max:60}",
    ],
    "carried": [*CARRIED, "steps=60", "log.every=7", "val.every=11", "checkpoint.every=13", "accumulate=2"],
    "rollouts": [
        *"algo=rl2 task=mdp task.states=2 task.actions=2 task.horizon=3 task.episodes=2 device=cpu".split(),
        *"algo.hidden=4 algo.epochs=2 algo.minibatches=2 meta_batch=4 val.tasks=5 test.tasks=5".split(),
        *("steps=30", "log.every=7", "val.every=11", "checkpoint.every=13"),
    ],
    "maml_pg": [*MAML_PG, "steps=8", "log.every=3", "val.every=4", "checkpoint.every=3"],
    "compiled": [*MAML, "steps=60", "log.every=7", "val.every=11", "checkpoint.every=13", "compile=true"],
}

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
INT, TERM, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL


class References:
    """For each kind, a run that was never stopped, made on first use."""

    def __init__(self, forks: Forks, folders: pytest.TempPathFactory):
        self.forks, self.folders = forks, folders
        self.made: dict[str, Path] = {}

    def __getitem__(self, kind: str) -> Path:
        if kind not in self.made:
            cwd = self.folders.mktemp("reference")
            ended = self.forks(*KINDS[kind], cwd=cwd)
            assert ended.code == 0, ended.err
            self.made[kind] = only_run(cwd)
        return self.made[kind]
