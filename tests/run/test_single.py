"""One run from the command line to result.json: what its folder holds, how it ends, and what its numbers depend on."""

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from forks import Ended, Fault, Forks
from run_folders import only_run

from metaexp.evaluation.intervals import summary
from metaexp.loggers.progress import steps_per_second
from metaexp.storage.checkpoint_file import load
from metaexp.storage.saved_config import config_sha256, read_config
from metaexp.system.machine import cores, processor

TINY = (
    "task=sine algo=maml device=cpu model.hidden=[8,8] meta_batch=4 val.tasks=5 test.tasks=7 algo.test_steps=3".split()
)
STEP = "metaexp.outer.meta_training:MetaTraining.advance"


def read(run: Path, name: str) -> dict[str, Any]:
    return json.loads((run / name).read_text())


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


def weights(run: Path, name: str = "step=000000040.ckpt") -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / name, weights_only=True)["state_dict"]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


# -- a finished run ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(module_train: Command) -> tuple[Ended, Path]:
    """One run, started as users do."""
    argv = [*TINY, "steps=40", "log.every=10", "val.every=20", "checkpoint.every=10", "log.seconds=0", "seed=3"]
    ended = module_train(*argv, "optimizer.lr=0.01")
    assert ended.returncode == 0, ended.stderr
    return Ended(ended.returncode, ended.stdout, ended.stderr), only_run(module_train.folder)


def test_folder(finished: tuple[Ended, Path]) -> None:
    _, run = finished
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_maml_sine_[0-9a-f]{4}", run.name)
    names = {re.sub(r"^events\.out\.tfevents.*", "events", path.name) for path in run.iterdir()}
    files = {"config.yaml", "inputs.json", "status.json", "metrics.jsonl", "events", "test", "checkpoints", "run.lock"}
    assert names == files | {"test_scores.npz", "result.json", "report.html", "figures"}
    kept = {path.name for path in (run / "checkpoints").iterdir()}
    checkpoints = {"step=000000030.ckpt", "step=000000040.ckpt", "best.ckpt"}
    assert kept == checkpoints | {name + ".json" for name in checkpoints}
    pictures = {path.name for path in (run / "figures").iterdir()}
    assert {"test_episodes.png", "test_adaptation_mse.png", "train_curve.png"} <= pictures
    assert all((run / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in pictures)


def test_what_is_printed(finished: tuple[Ended, Path]) -> None:
    ended, run = finished
    assert ended.err.startswith(f"run folder: outputs/{run.name}\n")
    assert re.search(
        r"^step 40/40  outer loss \S+  val mse \S+  \S+ outer steps/s  0:00 left$", ended.err, re.MULTILINE
    )
    assert "Trainer.fit" not in ended.err
    assert "Tip" not in ended.err
    assert "arning" not in ended.err
    rate = steps_per_second(read(run, "result.json")["speed"]["meta_steps_per_s"])
    assert f"  {rate}  0:00 left" in ended.err  # the same number on screen
    assert f", {rate}" in ended.out
    mean = read(run, "result.json")["test"]["mse"]["mean"]
    assert ended.out.startswith("maml on sine, mlp, seed 3: 40 outer steps, best weights (step ")
    assert re.search(rf"^mse +{mean:.4g} \+- ", ended.out, re.MULTILINE)
    assert "mse, baseline: mean" in ended.out
    assert "mse, baseline: scratch" in ended.out


def test_status(finished: tuple[Ended, Path]) -> None:
    status = read(finished[1], "status.json")
    assert (status["state"], status["step"], status["exit_code"]) == ("finished", 40, 0)
    assert status["format"] == 1
    assert status["started"] < status["updated"]


def test_result(finished: tuple[Ended, Path]) -> None:
    run = finished[1]
    result, config = read(run, "result.json"), read_config(run)
    expected = {"format": 1, "algo": "maml", "task": "sine", "model": "mlp", "seed": 3, "steps": 40, "stopped": None}
    assert {key: result[key] for key in expected} == expected
    assert result["parameters"] == 8 + 8 + 64 + 8 + 8 + 1
    assert result["config_sha256"] == config_sha256(config)
    assert result["versions"]["torch"] == torch.__version__
    assert result["device"] == "cpu"
    assert result["machine"] == {"cpu": processor(), "cores": cores()}
    assert (result["mapping"], result["compiled"], result["threads"]) == ("vmap", False, 1)
    assert result["speed"]["seconds"] > 0
    assert result["speed"]["meta_steps_per_s"] > 0
    times = result["speed"]["times"]
    assert list(times) == ["compile", "train", "validate", "test"]
    assert times["compile"] == 0 < min(times["train"], times["validate"], times["test"])
    assert sum(times.values()) < result["speed"]["seconds"]
    logged = [row["meta_steps_per_s"] for row in rows(run, "train")]
    assert result["speed"]["meta_steps_per_s"] == pytest.approx(median(logged[1:]))
    assert result["memory"]["peak_mb"] > 50
    protocol = result["protocol"]
    assert (protocol["shots"], protocol["queries"], protocol["test_steps"], protocol["eval_seed"]) == (10, 100, 3, 0)
    found = result["test"]["mse"]
    assert (found["tasks"], found["diverged"], len(found["per_step"])) == (7, 0, 4)
    best = min(rows(run, "val"), key=lambda row: row["mse"]["mean"])
    assert result["weights"] == {"kind": "best", "step": best["step"]}
    assert result["val"] == {"metric": "mse", "best": best["mse"]["mean"], "step": best["step"]}
    assert config["seed"] == 3
    assert config["model"]["hidden"] == [8, 8]


def test_scores_are_those_of_the_result(finished: tuple[Ended, Path]) -> None:
    run = finished[1]
    result, scores = read(run, "result.json"), np.load(run / "test_scores.npz")
    assert scores["format"] == 1
    assert scores["indices"].tolist() == list(range(7))
    assert str(scores["query_sha256"]) == result["protocol"]["query_sha256"]
    assert scores["mse"].dtype == np.float64
    assert scores["mse"].shape == (7, 4)
    assert summary(scores["mse"], False) == result["test"]["mse"]
    for floor, shape in (("mean", (7, 1)), ("scratch", (7, 4))):
        values = scores[f"floor_{floor}_mse"]
        assert values.shape == shape
        assert summary(values, False) == result["floors"][floor]["mse"]
    # The curve of the baseline `scratch` begins at the untrained network, that of the run at the trained one.
    assert not np.array_equal(scores["floor_scratch_mse"][:, 0], scores["mse"][:, 0])


def test_rows(finished: tuple[Ended, Path]) -> None:
    run = finished[1]
    train, val = rows(run, "train"), rows(run, "val")
    assert [row["step"] for row in train] == [10, 20, 30, 40]
    assert [row["step"] for row in val] == [0, 20, 40]
    names = {"kind", "step", "outer_loss", "meta_gradient_norm", "mse", "learning_rate", "seconds", "meta_steps_per_s"}
    assert all(set(row) == names for row in train)
    assert all(row["learning_rate"] == 0.01 for row in train)
    assert all(len(row["mse"]["per_step"]) == 4 for row in val)
    assert all(row["floors"]["scratch"] == {"mse": val[0]["mse"]["mean"]} for row in val)
    assert len({row["floors"]["mean"]["mse"] for row in val}) == 1


def test_checkpoint_can_be_loaded(finished: tuple[Ended, Path]) -> None:
    data = load(finished[1] / "checkpoints" / "step=000000040.ckpt")
    assert data["metaexp"]["step"] == data["state_dict"]["meta_step"] == 40


# -- what the numbers depend on ----------------------------------------------------------------------------------------


def test_intervals_change_no_number(forks: Forks, tmp_path: Path) -> None:
    """The number of steps between two returns to Lightning changes neither weights nor validation nor test."""
    made = []
    for number, every in enumerate([(1, 4, 5), (7, 20, 13), (40, 20, 40)]):
        cwd = tmp_path / str(number)
        cwd.mkdir()
        log, val, checkpoint = every
        lines = [f"log.every={log}", f"val.every={val}", f"checkpoint.every={checkpoint}", "test.weights=last"]
        assert forks(*TINY, "steps=40", *lines, cwd=cwd).code == 0
        made.append(only_run(cwd))
    first = made[0]
    for other in made[1:]:
        assert equal(weights(first), weights(other))
        mine = {row["step"]: row["mse"] for row in rows(first, "val")}
        assert [row["mse"] for row in rows(other, "val")] == [mine[step] for step in (0, 20, 40)]
        assert read(first, "result.json")["test"] == read(other, "result.json")["test"]
    # A row is the mean over the steps since the last one.
    losses = [row["outer_loss"] for row in rows(first, "train")]
    assert [row["step"] for row in rows(made[1], "train")] == [7, 14, 21, 28, 35]
    means = [np.mean(losses[step - 7 : step]) for step in (7, 14, 21, 28, 35)]
    assert [row["outer_loss"] for row in rows(made[1], "train")] == pytest.approx(means, rel=1e-6)


def test_seed_and_weights(forks: Forks, tmp_path: Path) -> None:
    """The same seed gives the same bits, another seed other weights; best and last weights are really those."""
    made = []
    # The rate is far too high: validation is best before training.
    common = [*TINY, "steps=40", "val.every=20", "log.every=20", "optimizer.lr=0.3"]
    for number, lines in enumerate((["seed=1"], ["seed=1", "test.weights=last"], ["seed=2"])):
        cwd = tmp_path / str(number)
        cwd.mkdir()
        assert forks(*common, *lines, cwd=cwd).code == 0
        made.append(only_run(cwd))
    best, last, other = made
    assert equal(weights(best), weights(last))
    assert not equal(weights(best), weights(other))
    result = [read(run, "result.json") for run in made]
    assert result[1]["weights"] == {"kind": "last", "step": 40}
    assert result[0]["weights"]["kind"] == "best"
    assert result[0]["weights"]["step"] < 40
    assert equal(weights(best, "best.ckpt"), weights(last, "best.ckpt"))
    assert result[0]["test"] != result[1]["test"]
    assert result[0]["floors"] == result[1]["floors"]
    assert len({entry["protocol"]["query_sha256"] for entry in result}) == 1  # all runs have the same test tasks


# -- early ends --------------------------------------------------------------------------------------------------------


def test_target(forks: Forks, tmp_path: Path) -> None:
    """If it is reached before the first step, nothing is trained and one validation is made."""
    ended = forks(*TINY, "steps=40", "val.every=5", "stop.metric=mse", "stop.target=100", cwd=tmp_path)
    assert ended.code == 0, ended.err
    run = only_run(tmp_path)
    result = read(run, "result.json")
    assert result["steps"] == 0
    assert re.fullmatch(r"target: mse \S+ at step 0 \(stop.target=100(\.0)?\)", result["stopped"])
    assert [row["step"] for row in rows(run, "val")] == [0]
    assert read(run, "status.json")["state"] == "finished"


def test_patience_is_exact_on_resume(forks: Forks, tmp_path: Path) -> None:
    """With a far too high rate, no validation is better than the first."""
    argv = [*TINY, "steps=200", "val.every=5", "log.every=5", "stop.patience=4", "optimizer.lr=0.5"]
    made = []
    for name in ("straight", "stopped"):
        cwd = tmp_path / name
        cwd.mkdir()
        if name == "stopped":
            assert forks(*argv, "checkpoint.every=3", cwd=cwd, fault=Fault(STEP, 12, 9)).code == -9
            assert forks("resume=auto", *argv, "checkpoint.every=3", cwd=cwd, fault=Fault(STEP, 5, 15)).code == 143
            ended = forks(f"resume={only_run(cwd)}", cwd=cwd, fault=Fault("metaexp.training.final_test:evaluate", 1, 9))
            assert ended.code == -9  # killed in the test: the reason is in the checkpoint
            ended = forks(f"resume={only_run(cwd)}", cwd=cwd)
        else:
            ended = forks(*argv, cwd=cwd)
        assert ended.code == 0, ended.err
        made.append(only_run(cwd))
    straight, stopped = (read(run, "result.json") for run in made)
    best = straight["val"]["step"]
    assert straight["steps"] == best + 20 < 200
    value = f"{straight['val']['best']:.6g}"
    assert straight["stopped"] == f"patience: no better mse in 4 validations since step {best} ({value})"
    for key in ("steps", "stopped", "test", "val", "weights"):
        assert straight[key] == stopped[key]
    vals = [[(row["step"], row["mse"]) for row in rows(run, "val")] for run in made]
    assert vals[0] == vals[1]
    assert [step for step, _ in vals[0]] == list(range(0, best + 21, 5))


def test_time_limit(forks: Forks, tmp_path: Path) -> None:
    """Exit code 124, a checkpoint, and the continued run gets its full time again."""
    ended = forks(*TINY, "steps=20000", "time_limit=1", cwd=tmp_path)
    assert ended.code == 124
    run = only_run(tmp_path)
    status = read(run, "status.json")
    assert (status["state"], status["exit_code"]) == ("interrupted", 124)
    line = f"metaexp: time_limit=1.0 s reached at step {status['step']}; continue with resume=outputs/{run.name}"
    assert ended.err.splitlines()[-1].replace("time_limit=1 s", "time_limit=1.0 s") == line
    steps = load(run / "checkpoints" / f"step={status['step']:09d}.ckpt")["metaexp"]["step"] + 3
    assert not (run / "result.json").exists()
    ended = forks(f"resume={run}", f"steps={steps}", "time_limit=100", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert read(run, "result.json")["steps"] == steps


@pytest.mark.parametrize("precision", ["32", "64-true"])
def test_divergence(precision: str, forks: Forks, tmp_path: Path) -> None:
    """The rate grows until the weights explode: the error names the step, and the last checkpoint is finite."""
    schedule = "optimizer.schedule={_target_:torch.optim.lr_scheduler.ExponentialLR,gamma:1e6}"
    lines = ["steps=100", "checkpoint.every=2", "val.every=50", f"device.precision={precision}", schedule]
    ended = forks(*TINY, *lines, "algo.inner_lr=1.0", cwd=tmp_path)
    assert ended.code == 5, ended
    run = only_run(tmp_path)
    (line,) = [line for line in ended.err.splitlines() if line.startswith("metaexp:")]
    found = re.search(
        r"at outer step (\d+)(?: \(training tasks (\d+) to (\d+), algo.inner_lr=1.0\))?: .*checkpoint: (\S+)$", line
    )
    assert found, line
    step = int(found[1])
    if found[2]:  # otherwise the weights themselves are not finite
        assert (int(found[2]), int(found[3])) == (4 * (step - 1), 4 * step - 1)
    data = load(tmp_path / found[4])
    assert step - 2 <= data["metaexp"]["step"] < step
    assert all(torch.isfinite(value).all() for value in data["state_dict"].values())
    status = read(run, "status.json")
    assert (status["state"], status["exit_code"]) == ("failed", 5)
    assert f"metaexp: {status['error']}" == line
    assert not (run / "result.json").exists()


def test_no_space_for_a_checkpoint(forks: Forks, tmp_path: Path) -> None:
    """The limit is between the size of the first checkpoint and that of those with Adam's moments."""
    argv = [*TINY, "model.hidden=[64,64]", "steps=40", "checkpoint.every=5"]
    ended = forks(*argv, cwd=tmp_path, file_size=45_000)
    assert ended.code == 7, ended.err
    run = only_run(tmp_path)
    file = f"outputs/{run.name}/checkpoints/step=000000005.ckpt"
    assert re.search(rf"^metaexp: cannot write {file}: no space \(file-size limit\) \(needs \S+ MB\)$", ended.err, re.M)
    assert "Traceback" not in ended.err
    assert load(run / "checkpoints" / "step=000000000.ckpt")["metaexp"]["step"] == 0
    assert {path.name for path in (run / "checkpoints").glob("*.ckpt")} == {"best.ckpt", "step=000000000.ckpt"}
    assert not list(run.rglob(".*"))
    status = read(run, "status.json")
    assert (status["state"], status["exit_code"]) == ("failed", 7)
    assert forks(f"resume={run}", cwd=tmp_path).code == 0


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["task.shots=0"], 2, "shots=0"),
        (["stop.metric=accuracy"], 2, "stop.metric=accuracy: not a validation metric here; one of mse"),
        (["task=omniglot", "task.root=/nowhere", "model.hidden=[8,8]"], 2, "model.hidden"),
        (["task=omniglot", "task.root=/nowhere"], 3, "/nowhere"),
        (["resume=nowhere"], 4, "resume=nowhere: no such run folder"),
    ],
)
def test_refused_before_a_folder(argv: list[str], code: int, words: str, forks: Forks, tmp_path: Path) -> None:
    ended = forks("algo=maml", "device=cpu", *argv, cwd=tmp_path)
    assert (ended.code, len(ended.err.splitlines())) == (code, 1)
    assert words in ended.err
    assert not list(tmp_path.iterdir())


def test_ctrl_c_of_a_real_command(train: Command, tmp_path: Path) -> None:
    """A run started as users do."""
    process = train.start(*TINY, "steps=20000")
    assert process.stderr is not None
    while not process.stderr.readline().startswith("step 0/20000"):
        assert process.poll() is None
    process.send_signal(2)
    _, err = process.communicate(timeout=120)
    run = only_run(tmp_path)
    assert process.returncode == 130
    step = read(run, "status.json")["step"]
    assert err.splitlines()[-1] == f"metaexp: stopped at step {step}; continue with resume=outputs/{run.name}"
    assert "Traceback" not in err
    assert load(run / "checkpoints" / f"step={step:09d}.ckpt")["metaexp"]["step"] == step


def test_a_shorter_run_does_not_end_a_longer_one(forks: Forks, tmp_path: Path) -> None:
    argv = [*TINY, "checkpoint.every=2"]
    assert forks(*argv, "steps=40", cwd=tmp_path, fault=Fault(STEP, 12, 15)).code == 143
    (long,) = (tmp_path / "outputs").glob("2*")
    before = read(long, "status.json"), (long / "config.yaml").read_text(), sorted((long / "checkpoints").iterdir())
    ended = forks(*argv, "steps=4", "resume=auto", cwd=tmp_path)
    assert (ended.code, "nothing to continue here" in ended.err) == (0, True)
    for typed in (f"resume={long}", f"resume='{long}/checkpoints/step=000000012.ckpt'"):
        ended = forks(typed, "steps=4", cwd=tmp_path)
        assert ended.code == 2
        assert ended.err.splitlines()[-1].startswith(f"metaexp: steps=4: {long} is already at step 12")
    assert read(long, "status.json")["step"] == before[0]["step"] == 12
    assert ((long / "config.yaml").read_text(), sorted((long / "checkpoints").iterdir())) == before[1:]
    assert forks(*argv, "steps=40", "resume=auto", cwd=tmp_path).code == 0
    assert read(long, "result.json")["steps"] == 40
    ended = forks(f"resume={long}", "steps=50", cwd=tmp_path)
    assert ended.code == 2
    assert ended.err == f"metaexp: steps=50: {long} has ended after 40 steps; start a new run of 50\n"


def test_a_checkpoint_comes_after_its_seconds_within_a_span(forks: Forks, tmp_path: Path) -> None:
    rare = ["log.every=1000", "val.every=1000", "checkpoint.every=1000"]
    assert forks(*TINY, "steps=40", *rare, "checkpoint.seconds=0", cwd=tmp_path, fault=Fault(STEP, 13, 9)).code == -9
    run = only_run(tmp_path)
    assert read(run, "status.json")["step"] == 12
    ended = forks(f"resume={run}", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert "resumed at step 12 of 40" in ended.err + ended.out
    other = tmp_path / "other"
    other.mkdir()
    assert forks(*TINY, "steps=40", *rare, cwd=other).code == 0
    with np.load(run / "test_scores.npz") as one, np.load(only_run(other) / "test_scores.npz") as two:
        assert np.array_equal(one["mse"], two["mse"])


def test_skipped_steps_are_counted_on_resume(forks: Forks, tmp_path: Path) -> None:
    """With an inner rate at which no step is finite, all are skipped; one more than allowed ends the run."""
    argv = [*TINY, "steps=40", "algo.inner_lr=1e30", "checkpoint.every=2"]
    assert forks(*argv, "skips=40", cwd=tmp_path, fault=Fault(STEP, 12, 9)).code == -9
    (run,) = (tmp_path / "outputs").glob("2*")
    ended = forks(f"resume={run}", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert "not finite: skipped 1 outer step up to step 40, 40 of at most 40 so far" in ended.err.splitlines()
    result = read(run, "result.json")
    assert (result["steps"], result["skipped_steps"]) == (40, 40)
    first, last = (load(path)["state_dict"] for path in sorted((run / "checkpoints").glob("step*.ckpt")))
    assert all(torch.equal(value, last[name]) for name, value in first.items() if name != "meta_step")
    ended = forks(*argv, "skips=30", cwd=tmp_path)
    assert ended.code == 5
    line = ended.err.splitlines()[-1]
    assert "outer step 31 (training tasks 120 to 123, algo.inner_lr=1e+30, 30 steps skipped before): lower" in line
