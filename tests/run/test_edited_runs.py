"""Runs edited by hand, cut short or of another method: one line at every door, and the run stays as it is."""

import datetime
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_runs import TINY, train

from metaexp.config.command_line import exit_code
from metaexp.errors import CheckpointError, ConfigError
from metaexp.estimator import load
from metaexp.evaluate import evaluate
from metaexp.loggers.tensorboard import TensorBoard
from metaexp.run import retest, single
from metaexp.storage import checkpoint_file
from metaexp.storage.saved_config import learned_sha256, read_config
from metaexp.train import train as command

Fault = Callable[[Path], None]
TYPED = ["algo=maml", "task=sine", "model.hidden=[4]", "algo.inner_steps=1", "algo.test_steps=1", *TINY]
TYPED += ["test.tasks=2", "val.tasks=2", "steps=4", "val.every=2", "checkpoint.every=2", "log.every=1"]
GONE = object()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("finished"), *TYPED)


@pytest.fixture(scope="module")
def stopped(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run as if it had been stopped after its last step, before the test."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("stopped") / "run"))
    for name in ("result.json", "test_scores.npz"):
        (folder / name).unlink()
    edit_json("status.json", state="interrupted", exit_code=130)(folder)
    return folder


# -- faults ------------------------------------------------------------------------------------------------------------


def edited(tree: Any, key: str, value: Any) -> None:
    *above, last = key.split(".")
    for name in above:
        tree = tree[int(name) if isinstance(tree, list) else name]
    if value is GONE:
        del tree[last]
    else:
        tree[last] = value


def setting(key: str, value: Any) -> Fault:
    def do(run: Path) -> None:
        config = yaml.safe_load((run / "config.yaml").read_text())
        edited(config, key, value)
        (run / "config.yaml").write_text(yaml.safe_dump(config))

    return do


def content(name: str, data: bytes) -> Fault:
    def do(run: Path) -> None:
        for file in run.glob(name):
            file.write_bytes(data)

    return do


def cut(name: str) -> Fault:
    def do(run: Path) -> None:
        for file in run.glob(name):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return do


def edit_json(name: str, **entries: Any) -> Fault:
    def do(run: Path) -> None:
        data = json.loads((run / name).read_text())
        for key, value in entries.items():
            edited(data, key.replace("__", "."), value)
        (run / name).write_text(json.dumps(data))

    return do


def line(number: int, data: bytes) -> Fault:
    def do(run: Path) -> None:
        lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        lines[number] = data + b"\n"
        (run / "metrics.jsonl").write_bytes(b"".join(lines))

    return do


def saved(key: str, value: Any) -> Fault:
    """In every checkpoint, which is then saved again with a checksum that is right."""

    def do(run: Path) -> None:
        for file in (run / "checkpoints").glob("*.ckpt"):
            data = torch.load(file, weights_only=True)
            edited(data, key, value)
            torch.save(data, file)
            checkpoint_file.sidecar_of(file).unlink()

    return do


def another_weight(change: Callable[[dict[str, Any], str], None]) -> Fault:
    def do(run: Path) -> None:
        for file in (run / "checkpoints").glob("*.ckpt"):
            data = torch.load(file, weights_only=True)
            change(data["state_dict"], next(name for name in data["state_dict"] if name.endswith("weight")))
            torch.save(data, file)
            checkpoint_file.sidecar_of(file).unlink()

    return do


def of_another_method(run: Path) -> None:
    for file in (run / "checkpoints").glob("*.ckpt"):
        data = torch.load(file, weights_only=True)
        data["state_dict"] = {f"embedding.{name}": value for name, value in data["state_dict"].items()}
        torch.save(data, file)
        checkpoint_file.sidecar_of(file).unlink()


def first_moment(value: Any) -> Fault:
    def do(run: Path) -> None:
        for file in (run / "checkpoints").glob("*.ckpt"):
            data = torch.load(file, weights_only=True)
            data["optimizer_states"][0]["state"][0]["exp_avg"] = value
            torch.save(data, file)
            checkpoint_file.sidecar_of(file).unlink()

    return do


def content_of_set(run: Path) -> None:
    with (run / "config.yaml").open("a") as file:
        file.write("more: !!set {a, b}\n")


CHECKPOINTS = "checkpoints/*.ckpt"
SETTINGS = {
    "another inner rate": setting("algo.inner_lr", 0.5),
    "another seed": setting("seed", 3),
    "another meta-batch": setting("meta_batch", 5),
    "other shots": setting("task.shots", 3),
    "another width": setting("model.hidden", [5]),
    "another depth": setting("model.hidden", [4, 4]),
    "another method": setting("algo._target_", "metaexp.algos.r2d2.R2D2"),
    "another family": setting("task._target_", "metaexp.tasks.linear.Linear"),
    "another optimiser": setting("optimizer._target_", "torch.optim.SGD"),
    "steps of text": setting("steps", "abc"),
    "steps below 0": setting("steps", -1),
    "no steps": setting("steps", GONE),
    "width of text": setting("model.hidden", "x"),
    "width 0": setting("model.hidden", [0]),
    "algo is a list": setting("algo", []),
    "no task": setting("task", GONE),
    "no model class": setting("model._target_", GONE),
    "class is a number": setting("optimizer._target_", 5),
    "rate of text": setting("optimizer.lr", "fast"),
    "no choices": setting("choices", None),
    "choice is a number": setting("choices.algo", 3),
    "device is text": setting("device", "cpu"),
    "unknown precision": setting("device.precision", 16),
    "test.tasks is a list": setting("test.tasks", [1]),
    "no validation": setting("val", GONE),
    "clip is a number": setting("clip", 3),
    "stop is null": setting("stop", None),
    "log.every=0": setting("log.every", 0),
    "checkpoint.every of text": setting("checkpoint.every", "x"),
    "time limit of text": setting("time_limit", "soon"),
    "name is a list": setting("name", [1]),
    "out is a group": setting("out", {"a": 1}),
    "task.test is a number": setting("task.test", 5),
    "inner steps of text": setting("algo.inner_steps", "many"),
    "callbacks is a number": setting("callbacks", 5),
    "logger is a list": setting("logger", [1]),
    "trainer is text": setting("trainer", "x"),
    "name is a date": setting("name", datetime.date(2026, 1, 2)),
    "a setting is a set": content_of_set,
    "config cut": cut("config.yaml"),
    "config empty": content("config.yaml", b""),
    "config is bytes": content("config.yaml", b"\xff\xfe\x00\x80"),
    "config is a list": content("config.yaml", b"[1, 2]\n"),
    "config has an alias": content("config.yaml", b"a: &a [1]\nb: *a\n"),
    "config interpolates": setting("out", "${oc.env:HOME}"),
}
STATUS = {
    "status is a list": content("status.json", b"[1]"),
    "status cut": cut("status.json"),
    "status empty": content("status.json", b""),
    "state is a number": edit_json("status.json", state=5),
    "state unknown": edit_json("status.json", state="walking"),
    "status step is text": edit_json("status.json", step="3"),
    "exit code is a list": edit_json("status.json", exit_code=[1]),
    "error is a group": edit_json("status.json", error={}),
}
WEIGHTS = {
    "no record": saved("metaexp", GONE),
    "record is a list": saved("metaexp", [1]),
    "step is text": saved("metaexp.step", "3"),
    "step below 0": saved("metaexp.step", -1),
    "no best": saved("metaexp.best", GONE),
    "best is text": saved("metaexp.best", "good"),
    "best.value is text": saved("metaexp.best.value", "x"),
    "no best.waited": saved("metaexp.best.waited", GONE),
    "scratch is text": saved("metaexp.best.scratch", "x"),
    "reason is a list": saved("metaexp.reason", [1]),
    "rates are text": saved("metaexp.rates", "fast"),
    "mapping is 3.5": saved("metaexp.mapping", 3.5),
    "mapping unknown": saved("metaexp.mapping", "best"),
    "compiled is text": saved("metaexp.compiled", "yes"),
    "no count": saved("metaexp.count", GONE),
    "sums lack the norm": saved("metaexp.sums", {"loss": 1}),
    "family lacks sizes": saved("metaexp.family", {"classification": False}),
    "a newer record": saved("metaexp.format", 99),
    "another digest": saved("metaexp.config_sha256", "0" * 64),
    "no weights": saved("state_dict", GONE),
    "weights are a list": saved("state_dict", [1]),
    "one weight missing": another_weight(lambda state, name: state.pop(name)),
    "one weight too many": another_weight(lambda state, name: state.update(extra=torch.ones(1))),
    "one weight of another shape": another_weight(lambda state, name: state.update({name: torch.ones(7, 7)})),
    "one weight is text": another_weight(lambda state, name: state.update({name: "w"})),
    "one weight is NaN": another_weight(lambda state, name: state[name].fill_(torch.nan)),
    "of another method": of_another_method,
    "checkpoints cut": cut(CHECKPOINTS),
    "the best cut": cut("checkpoints/best.ckpt"),
    "checkpoints empty": content(CHECKPOINTS, b""),
    "checkpoints are text": content(CHECKPOINTS, b"weights"),
    "checkpoints are pickles": content(CHECKPOINTS, b"\x80\x04N."),
}
# What only a continuation reads: the other doors may go on.
TRAINING = {
    "no optimiser": saved("optimizer_states", GONE),
    "optimiser is a group": saved("optimizer_states", {}),
    "two optimisers": saved("optimizer_states", [{}, {}]),
    "optimiser without groups": saved("optimizer_states", [{"state": {}, "param_groups": []}]),
    "outer rate of text": saved("optimizer_states.0.param_groups.0.lr", "fast"),
    "moments are text": first_moment("x"),
    "moments of another shape": first_moment(torch.ones(9, 9)),
    "a schedule that is none": saved("metaexp.schedule", {"last_epoch": 3}),
    "states of callbacks are text": saved("callbacks", "x"),
    "metrics line is text": line(1, b"loss 3"),
    "metrics line cut": line(1, b'{"kind": "train", "st'),
    "metrics line is a list": line(0, b"[1]"),
    "metrics step is text": line(1, b'{"kind": "train", "step": "2", "seconds": 1}'),
    "metrics seconds are text": line(1, b'{"kind": "train", "step": 2, "seconds": "1"}'),
    "metrics line is bytes": line(1, b"\xff\x00\xfe"),
}
RESULT = {
    "result cut": cut("result.json"),
    "result empty": content("result.json", b""),
    "result is a list": content("result.json", b"[1]"),
    "a newer result": edit_json("result.json", format=9),
    "no test": edit_json("result.json", test=GONE),
    "test is text": edit_json("result.json", test="good"),
    "mean is text": edit_json("result.json", test__mse__mean="0.3"),
    "mean is NaN": edit_json("result.json", test__mse__mean=float("nan")),
    "result steps are text": edit_json("result.json", steps="4"),
    "result seconds are text": edit_json("result.json", speed__seconds="4"),
    "no result": lambda run: (run / "result.json").unlink(),
}


# -- doors -------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _stop_at_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    def went_on(*_: Any) -> None:
        raise ConfigError("went on")

    monkeypatch.setattr(TensorBoard, "figure", lambda *_: None)
    monkeypatch.setattr(single, "_open", went_on)
    monkeypatch.setattr(retest, "_claim_next", went_on)


def by_load(run: Path) -> int:
    load(run)
    raise ConfigError("went on")


DOORS: dict[str, Callable[[Path], Any]] = {
    "resume": lambda run: command([f"resume={run}"]),
    "auto": lambda run: command([*TYPED, f"out={run.parent}", "resume=auto"]),
    "evaluate": lambda run: evaluate([f"run={run}"]),
    "load": by_load,
}


def everything(folder: Path) -> dict[str, Any]:
    found = {str(path): path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}
    return found | {f"{path}:": path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(
    door: str, source: Path, fault: Fault, tmp_path: Path, capsys: pytest.CaptureFixture[str], free: bool = False
) -> None:
    """Checks that the door answers in one line with code 2 or 4 and leaves the run alone; `free`: or takes the run."""
    run = Path(shutil.copytree(source, tmp_path / "outputs/run"))
    fault(run)
    before = everything(run)
    capsys.readouterr()
    code = exit_code(lambda: DOORS[door](run))
    error = capsys.readouterr().err.splitlines()
    assert everything(run) == before
    assert code in (2, 4), error
    *notes, last = error
    assert last.startswith("metaexp: ")
    assert len(last) < 800
    assert all(note.startswith(("warning: resume=auto skips", "resume=auto: nothing")) for note in notes), error
    if last == "metaexp: went on":
        assert free, "accepted"
    else:
        assert not notes
        assert str(run) in last, last  # the line names the run or a file in it


def both() -> Iterator[Any]:
    """Every fault at one of the doors in turn; the rest in the tier of long tests."""
    for place, name in enumerate([*SETTINGS, *STATUS, *WEIGHTS]):
        for door, other in enumerate(DOORS):
            now = place % len(DOORS) == door
            yield pytest.param(other, name, marks=[] if now else [pytest.mark.tier("long")])


@pytest.mark.parametrize(("door", "name"), list(both()))
def test_one_line_at_every_door(
    door: str, name: str, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # `auto` takes no run of other or unreadable settings: it begins a new one, and says what it could not read.
    fault = (SETTINGS | STATUS | WEIGHTS)[name]
    refused(door, stopped, fault, tmp_path, capsys, free=door == "auto" and name in SETTINGS | STATUS)


@pytest.mark.parametrize("door", ["resume", pytest.param("auto", marks=pytest.mark.tier("long"))])
@pytest.mark.parametrize("name", TRAINING)
def test_what_a_continuation_reads(
    door: str, name: str, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(door, stopped, TRAINING[name], tmp_path, capsys)


@pytest.mark.parametrize("name", RESULT)
def test_a_finished_run_prints_its_result_or_says_what_is_wrong_with_it(
    name: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("resume", finished, RESULT[name], tmp_path, capsys)


@pytest.mark.parametrize("door", DOORS)
def test_the_run_as_it_was_is_taken(
    door: str, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "outputs/run"))
    before = everything(run)
    exit_code(lambda: DOORS[door](run))
    assert capsys.readouterr().err == "metaexp: went on\n"
    assert everything(run) == before


def test_the_digest_in_a_checkpoint_is_that_of_the_saved_settings(finished: Path) -> None:
    config = read_config(finished)
    for file in (finished / "checkpoints").glob("*.ckpt"):
        record = torch.load(file, weights_only=True)["metaexp"]
        assert record["config_sha256"] == learned_sha256(config)
    moved = config | {"choices": config["choices"] | {"device": "gpu"}, "steps": 9, "device": {}}
    assert learned_sha256(moved) == learned_sha256(config)
    assert learned_sha256(config | {"seed": 1}) != learned_sha256(config)


def test_a_checkpoint_without_a_digest_is_one_of_an_older_version(stopped: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    saved("metaexp.config_sha256", GONE)(run)
    setting("algo.inner_lr", 0.5)(run)
    assert load(run).step == 4
    other = Path(shutil.copytree(stopped, tmp_path / "other"))
    setting("algo.inner_lr", 0.25)(other)
    with pytest.raises(CheckpointError, match="written under other settings"):
        load(other)
