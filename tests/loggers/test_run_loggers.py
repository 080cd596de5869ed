"""The loggers beside TensorBoard, read back from their local stores: CSV, MLflow's database, W&B's offline file."""

import csv
import json
import math
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import matplotlib.pyplot as plt
import numpy as np
import pytest
from small_runs import TINY
from undrawn import undraw

import metaexp
from metaexp.config.settings import load
from metaexp.errors import ConfigError
from metaexp.loggers.csv import CSV
from metaexp.loggers.run_loggers import RunLoggers
from metaexp.loggers.tensorboard import TensorBoard
from metaexp.run.single import run
from metaexp.training.build import Experiment
from metaexp.training.trainer import make_trainer

WATCHED = [*TINY, "algo=maml", "task=sine", "log.every=2", "seed=3"]


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that read no picture."""
    undraw(monkeypatch.setattr)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that all three loggers recorded."""
    pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    out = tmp_path_factory.mktemp("watched")
    return run(load([*WATCHED, "logger=[csv,mlflow,wandb]", f"out={out}"])).folder


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def column(folder: Path, name: str) -> dict[int, float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row.get(name)}


def test_csv_has_every_row_the_settings_and_the_test(watched):
    trained = {row["step"]: row["outer_loss"] for row in rows(watched, "train")}
    validated = {row["step"]: row["mse"]["mean"] for row in rows(watched, "val")}
    assert list(trained) == [2, 4, 6]
    assert list(validated) == [0, 3, 6]
    assert column(watched, "train/outer_loss") == pytest.approx(trained)
    assert column(watched, "val/mse") == column(watched, "val/mse/after") == pytest.approx(validated)
    assert column(watched, "speed/meta_steps_per_s").keys() == trained.keys()
    tested = result(watched)["test"]["mse"]
    assert column(watched, "test/mse") == {6: pytest.approx(tested["mean"])}
    assert column(watched, "test/mse/ci95") == {6: pytest.approx(tested["ci95"])}
    assert "algo.inner_lr: 0.01" in (watched / "hparams.yaml").read_text()


def test_mlflow_has_every_row_the_settings_the_pictures_and_the_test(watched):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{watched.parent / 'mlflow.db'}")
    found = client.get_run((watched / "mlflow_run_id").read_text().strip())
    assert found.info.status == "FINISHED"
    assert found.info.run_name == watched.name
    assert found.data.params["algo.inner_lr"] == "0.01"
    assert found.data.params["seed"] == "3"
    trained = {row["step"]: row["outer_loss"] for row in rows(watched, "train")}
    history = client.get_metric_history(found.info.run_id, "train/outer_loss")
    assert {point.step: point.value for point in history} == pytest.approx(trained)
    tested = result(watched)["test"]["mse"]
    assert found.data.metrics["test/mse"] == pytest.approx(tested["mean"])
    assert found.data.metrics["test/mse/ci95"] == pytest.approx(tested["ci95"])
    pictures = {Path(file.path).name for file in client.list_artifacts(found.info.run_id, "figures")}
    assert pictures == {path.name for path in (watched / "figures").glob("*.png")}
    assert "test_adaptation_mse.png" in pictures


def records(file: Path) -> Iterator[Any]:
    """The records of a W&B file: LevelDB's log format (blocks of 32 KiB) after a header of 7 bytes, protobuf inside."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block is too small for a header
            at += 32768 - at % 32768
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or its last part
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def test_wandb_has_every_row_the_settings_the_pictures_and_the_test(watched):
    (file,) = watched.glob("wandb/offline-run-*/*.wandb")
    history, settings = [], {}
    for record in records(file):
        if record.HasField("history"):
            items = record.history.item
            history.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
        if record.HasField("config"):
            settings |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif record.HasField("run"):
            settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update}

    def points(name: str) -> dict[int, float]:
        return {row["trainer/global_step"]: row[name] for row in history if name in row}

    assert points("train/outer_loss") == pytest.approx({r["step"]: r["outer_loss"] for r in rows(watched, "train")})
    assert points("val/mse") == pytest.approx({r["step"]: r["mse"]["mean"] for r in rows(watched, "val")})
    assert points("test/mse") == {6: pytest.approx(result(watched)["test"]["mse"]["mean"])}
    assert settings["algo.inner_lr"] == 0.01
    assert any(name.startswith("test/episodes") for row in history for name in row)
    assert list(watched.glob("wandb/offline-run-*/files/media/images/test/episodes*.png"))


@pytest.mark.usefixtures("no_pictures")
def test_the_numbers_are_those_of_a_run_that_nobody_watched(watched, tmp_path):
    plain = run(load([*WATCHED, f"out={tmp_path}"]))
    assert plain.result["test"] == result(watched)["test"]
    assert plain.result["config_sha256"] == result(watched)["config_sha256"]


def test_a_continued_run_goes_on_in_the_same_places(tmp_path):
    """Rows after the checkpoint that the run continues from are dropped, as in metrics.jsonl."""
    mlflow = pytest.importorskip("metaexp.loggers.mlflow", exc_type=ImportError)
    folder = tmp_path / "run"
    folder.mkdir()
    ids = []
    for resumed_at, steps in ((None, (10, 20, 30)), (20, (30, 40))):
        others = [CSV(folder, resumed_at), mlflow.MLflow(folder, resumed_at)]
        with RunLoggers(TensorBoard(folder, resumed_at, rank=0), others) as loggers:
            if resumed_at is None:
                loggers.begin({"seed": 0}, ["mse"])
            for step in steps:
                loggers.scalars({"train/outer_loss": step + (0.5 if resumed_at else 0.0)}, step)
            loggers.figure("val/episodes", plt.subplots()[0], steps[-1])
        ids.append(others[1].run_id)
        plt.close("all")
    assert ids[0] == ids[1]
    assert column(folder, "train/outer_loss") == {10: 10.0, 20: 20.0, 30: 30.5, 40: 40.5}


@pytest.mark.usefixtures("no_pictures")
def test_a_run_that_fails_ends_its_loggers_as_failed(tmp_path):
    mlflow = pytest.importorskip("metaexp.loggers.mlflow", exc_type=ImportError)
    folder = tmp_path / "run"
    folder.mkdir()
    logger = mlflow.MLflow(folder)
    with pytest.raises(ZeroDivisionError), RunLoggers(TensorBoard(folder, rank=0), [logger]):
        math.exp(1 / 0)
    assert logger.experiment.get_run(logger.run_id).info.status == "FAILED"


# --- what is refused, and what may be added ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("logger=cvs", "logger=cvs: no such choice; did you mean csv"),
        ("trainer.max_steps=3", "trainer.max_steps=3: the run sets this itself; use steps"),
        ("trainer.precision=16", "trainer.precision=16: the run sets this itself; use device.precision"),
        ("trainer.profilr=simple", "trainer.profilr=simple: Lightning's Trainer has no such argument; did you mean"),
        ("trainer.profiler=slow", "trainer.profiler: Lightning's Trainer refuses it"),
        ("trainer.plugins=foo", "trainer.plugins: Lightning's Trainer refuses it"),
        ("callbacks=mine", "callbacks=mine: no such choice"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, typed, message):
    with pytest.raises(ConfigError) as caught:
        run(load([*WATCHED, typed, f"out={tmp_path / 'out'}"]))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_pictures")
def test_callbacks_of_lightning_from_the_users_own_files(tmp_path):
    """EarlyStopping and ModelCheckpoint besides the run's own checkpoints; the result names what stopped the run."""
    own = tmp_path / "conf" / "callbacks"
    own.mkdir(parents=True)
    (own / "early.yaml").write_text(
        "# @package callbacks.early\n_target_: lightning.pytorch.callbacks.EarlyStopping\n"
        "monitor: val/mse\npatience: 2\nmin_delta: 1000.0\n"
    )
    saved = tmp_path / "saved"
    (own / "keep.yaml").write_text(
        "# @package callbacks.keep\n_target_: lightning.pytorch.callbacks.ModelCheckpoint\n"
        f"dirpath: {saved}\nfilename: '{{step}}'\nevery_n_train_steps: 2\nsave_top_k: -1\n"
    )
    typed = [*WATCHED, "steps=60", "callbacks=[early,keep]", f"out={tmp_path / 'out'}"]
    ended = run(load(typed, str(tmp_path / "conf")))
    assert ended.result["steps"] == 6  # validations at 0, 3 and 6: two without an improvement of 1000
    assert ended.result["stopped"] == "a callback stopped the run at step 6"
    assert sorted(path.name for path in saved.glob("*.ckpt")) == ["step=2.ckpt", "step=4.ckpt", "step=6.ckpt"]
    assert json.loads((ended.folder / "status.json").read_text())["state"] == "finished"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("logger=mlflow logger.mlflow.tracking_uri=foo://x", "logger.mlflow: "),
        ("logger=csv logger.csv.flush_logs_every_n_steps=0", "logger.csv.flush_logs_every_n_steps=0: must be at"),
    ],
)  # fmt: skip
def test_a_logger_that_cannot_be_made_is_one_line_and_leaves_no_run(tmp_path, typed, message):
    pytest.importorskip("mlflow")
    with pytest.raises(ConfigError) as caught:
        run(load([*WATCHED, *typed.split(), f"out={tmp_path}"]))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*/"))


def test_names_and_values_for_a_logger(tmp_path):
    mlflow = pytest.importorskip("mlflow.tracking")
    made = run(load([*WATCHED, "logger=mlflow", "logger.mlflow.tags={team:x,paper:2}", "steps=0", f"out={tmp_path}"]))
    found = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(
        (made.folder / "mlflow_run_id").read_text().strip()
    )
    assert {"team": "x", "paper": "2"}.items() <= found.data.tags.items()


@pytest.mark.usefixtures("no_pictures")
def test_no_callbacks_and_no_loggers_by_null(tmp_path):
    made = run(load([*WATCHED, "callbacks=null", "logger=null", "experiment=null", "steps=0", f"out={tmp_path}"]))
    assert made.result["weights"] == {"kind": "best", "step": 0}  # no step is made, and the start is a checkpoint
    assert [row["step"] for row in rows(made.folder, "val")] == [0]
    assert metaexp.load(made.folder).fit([[0.0], [1.0]], [0.0, 1.0]).predict([[0.5]]).shape == (1,)


class Odd(L.Callback):
    """Its state holds an object that no checkpoint may hold."""

    def state_dict(self):
        return {"where": Path("here"), "number": np.float64(1.0)}


class NoCallback:
    """Something else."""


@pytest.mark.usefixtures("no_pictures")
def test_states_that_cannot_be_read_back_are_left_out(tmp_path, monkeypatch, capfd):
    """And the run can be loaded without the callback, which a test does not need."""
    own = tmp_path / "conf" / "callbacks"
    own.mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "odd_callbacks", sys.modules[__name__])
    monkeypatch.setattr(Odd, "__module__", "odd_callbacks")
    monkeypatch.setattr(NoCallback, "__module__", "odd_callbacks")
    for name in ("Odd", "NoCallback"):
        (own / f"{name}.yaml").write_text(f"# @package callbacks.{name}\n_target_: odd_callbacks.{name}\n")
    typed = [*WATCHED, f"out={tmp_path / 'out'}"]
    made = run(load([*typed, "callbacks=Odd"], str(tmp_path / "conf")))
    assert capfd.readouterr().err.count("not kept in checkpoints") == 1
    assert made.result["weights"]["kind"] == "best"
    assert metaexp.load(made.folder).fit([[0.0], [1.0]], [0.0, 1.0]).predict([[0.5]]).shape == (1,)
    with pytest.raises(
        ConfigError, match=r"^callbacks.NoCallback._target_=odd_callbacks.NoCallback: makes no Lightning"
    ):
        run(load([*typed, "callbacks=NoCallback"], str(tmp_path / "conf")))


def test_further_arguments_reach_the_trainer(tmp_path):
    experiment = Experiment(
        load([*WATCHED, "trainer.detect_anomaly=true", "trainer.profiler=simple", f"out={tmp_path}"])
    )
    trainer = make_trainer(experiment)
    assert trainer._detect_anomaly
    assert type(trainer.profiler).__name__ == "SimpleProfiler"
    assert make_trainer(Experiment(load(WATCHED)))._detect_anomaly is False
