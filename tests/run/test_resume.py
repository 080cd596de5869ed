"""A run that is stopped at any step, by whatever means, and continued ends with the same bits as one never stopped.

Real processes and real signals (see forks.py). A fault makes a process signal itself at a chosen call, so that the
step is known; other tests send the signal from outside at a time of their own.
"""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from forks import Fault, Forks
from run_folders import CONFIG
from small_runs import own_package

from metaexp.config.settings import load as load_config
from metaexp.run.resume import continued_config, find_resumable
from metaexp.storage.run_folder import RunFolder
from metaexp.storage.saved_config import dump_yaml

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
STEP, VALIDATION, REPLACE, ROW = (
    "metaexp.outer.loop:OuterLoop.advance",
    "metaexp.training.control:evaluate",
    "os:replace",
    "metaexp.storage.metrics_log:MetricsLog.append",
)
TEST = "metaexp.training.final_test:evaluate"
OF_THE_MACHINE = ("rates", "seconds", "peak_mb")
LIGHTNING = "lightning.pytorch.trainer.connectors.signal_connector:_SignalConnector.register_signal_handlers"


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    made = Forks(tmp_path_factory.mktemp("logs"))
    yield made
    made.close()


def only_run(cwd: Path) -> Path:
    """The one run folder; nothing else was left in the working folder."""
    assert [entry.name for entry in cwd.iterdir()] == ["outputs"]
    (run,) = (cwd / "outputs").iterdir()
    return run


def status(run: Path) -> tuple[str, int | None]:
    data = json.loads((run / "status.json").read_text())
    return data["state"], data.get("exit_code")


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without its columns of time."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if key not in ("seconds", "meta_steps_per_s")} for row in found]


def state(run: Path, name: str | None = None) -> dict[str, Any]:
    """What a checkpoint says of learner, optimiser, schedule and clock; the newest one by default."""
    path = run / "checkpoints" / name if name else max((run / "checkpoints").glob("step=*.ckpt"))
    data = torch.load(path, weights_only=True)
    own = {key: value for key, value in data["metaexp"].items() if key not in OF_THE_MACHINE}
    return {"weights": data["state_dict"], "optimizer": data["optimizer_states"], "own": own}


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, tensors and containers alike."""
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
    for key in set(one) - {"speed", "memory"}:
        assert one[key] == other[key], key
    assert not list(run.rglob(".*")), "a temporary file was left"


# One reference run per way of training; every stopped run is compared with it.
KINDS = {
    "7/11/13": [*MAML, "steps=60", "log.every=7", "val.every=11", "checkpoint.every=13"],
    "accumulate": [*MAML, "steps=110", "log.every=50", "val.every=50", "checkpoint.every=50", "accumulate=2"],
    "schedule": [
        *(*MAML, "steps=60", "log.every=10", "val.every=20", "checkpoint.every=7", "clip.norm=1", "optimizer=adamw"),
        "optimizer.schedule={_target_:torch.optim.lr_scheduler.CosineAnnealingLR,T_max:60}",
    ],
    "carried": [*CARRIED, "steps=60", "log.every=7", "val.every=11", "checkpoint.every=13", "accumulate=2"],
    "compiled": [*MAML, "steps=60", "log.every=7", "val.every=11", "checkpoint.every=13", "compile=true"],
}


@pytest.fixture(scope="module")
def references(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for kind, argv in KINDS.items():
        cwd = tmp_path_factory.mktemp("reference")
        ended = forks(*argv, cwd=cwd)
        assert ended.code == 0, ended.err
        made[kind] = only_run(cwd)
    return made


CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
INT, TERM, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL


def stop_and_go(forks: Forks, cwd: Path, argv: list[str], faults: list[Fault]) -> Path:
    """Starts a run, stops it at each fault in turn, resuming it by turns by its folder and by resume=auto."""
    for number, fault in enumerate(faults):
        how = [*argv, "resume=auto"] if number % 2 == 0 else [f"resume={only_run(cwd)}"]
        ended = forks(*how, cwd=cwd, fault=fault)
        assert ended.code == CODES[signal.Signals(fault.signal)], (fault, ended)
        assert "Traceback" not in ended.err
        run = only_run(cwd)
        assert not (run / "result.json").exists()
        if fault.signal == KILL:
            assert status(run)[0] == "running"
        else:
            assert status(run) == ("interrupted", ended.code)
            assert f"resume={run.relative_to(cwd) if number % 2 == 0 else run}" in ended.err.splitlines()[-1]
            saved = state(run)["own"]
            assert saved["step"] == json.loads((run / "status.json").read_text())["step"]
    ended = forks(f"resume={only_run(cwd)}", cwd=cwd)
    assert ended.code == 0, ended.err
    return only_run(cwd)


STOPS = {
    "by Ctrl-C": ("7/11/13", [Fault(STEP, 1, INT), Fault(STEP, 20, INT)]),
    "by SIGTERM": ("7/11/13", [Fault(STEP, 26, TERM), Fault(STEP, 7, TERM, after=True)]),
    "by kill -9": ("7/11/13", [Fault(STEP, 12, KILL), Fault(STEP, 2, KILL, after=True), Fault(STEP, 41, KILL)]),
    # the validations are at 0, 11, 22 ...; one that Ctrl-C ends is made again by the run that continues
    "in validations": (
        "7/11/13",
        [Fault(VALIDATION, 1, INT), Fault(VALIDATION, 2, KILL), Fault(VALIDATION, 3, TERM), Fault(VALIDATION, 4, INT)],
    ),
    "in a validation, then after its row": (
        "7/11/13",
        [
            Fault(VALIDATION, 2, INT),
            Fault(ROW, 1, KILL, after=True),
            Fault(VALIDATION, 6, INT),
            Fault(ROW, 1, KILL, after=True),
        ],
    ),
    "in the last validation": ("7/11/13", [Fault(VALIDATION, 7, INT)]),
    "between row and checkpoint": ("7/11/13", [Fault(ROW, 2, KILL, after=True), Fault(ROW, 5, KILL, after=True)]),
    # whole-file writes are those of status.json, config.yaml, the checkpoints and their checksums
    "in the first writes": ("7/11/13", [Fault(REPLACE, 5, KILL), Fault(REPLACE, 4, KILL), Fault(REPLACE, 12, KILL)]),
    "in later writes": ("7/11/13", [Fault(REPLACE, 20, KILL), Fault(REPLACE, 9, KILL, after=True)]),
    "while Lightning's handler is installed": ("7/11/13", [Fault(LIGHTNING, 1, TERM, after=True)]),
    "in the test": ("7/11/13", [Fault(TEST, 1, INT), Fault(TEST, 2, KILL)]),
    "with accumulation": ("accumulate", [Fault(STEP, 49, INT), Fault(STEP, 30, KILL), Fault(STEP, 53, TERM)]),
    "with a schedule": ("schedule", [Fault(STEP, 15, KILL), Fault(STEP, 23, INT), Fault(STEP, 18, KILL)]),
    "compiled": ("compiled", [Fault(STEP, 17, INT), Fault(STEP, 20, KILL)]),
    "with carried state": ("carried", [Fault(STEP, 17, INT), Fault(STEP, 20, KILL), Fault(STEP, 11, TERM)]),
}


@pytest.mark.parametrize("stop", STOPS)
def test_stopped_and_resumed_is_bit_identical(
    stop: str, forks: Forks, references: dict[str, Path], tmp_path: Path
) -> None:
    kind, faults = STOPS[stop]
    run = stop_and_go(forks, tmp_path, KINDS[kind], faults)
    assert_same_run(run, references[kind])
    assert json.loads((run / "result.json").read_text())["compiled"] == (kind == "compiled")


def pids(cwd: Path) -> list[int]:
    """Of the processes that work, or worked, in the run folders."""
    return [json.loads(file.read_text())["pid"] for file in (cwd / "outputs").glob("*/status.json")]


def test_killed_from_outside_again_and_again(forks: Forks, references: dict[str, Path], tmp_path: Path) -> None:
    draw = random.Random(0)
    argv: list[str] = [*KINDS["accumulate"], "resume=auto"]
    codes = []
    for number in (KILL, TERM, KILL, INT, KILL):
        run = forks.start(*argv, cwd=tmp_path)
        end = time.monotonic() + 60
        # Before its first checkpoint a run cannot be continued, and resume=auto would make a second folder.
        while time.monotonic() < end and not (
            run.pid in pids(tmp_path) and [*tmp_path.glob("outputs/*/checkpoints/step=*.ckpt")]
        ):
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.2))
        os.kill(run.pid, number)
        codes.append(run.wait().code)
        assert codes[-1] in (CODES[number], 0)
        if codes[-1] == 0:  # it was faster: a finished run is not continued
            break
    assert any(codes)
    assert forks(f"resume={only_run(tmp_path)}", cwd=tmp_path).code == 0
    assert_same_run(only_run(tmp_path), references["accumulate"])


def test_a_sweep_continues_its_jobs_older_runs(forks: Forks, references: dict[str, Path], tmp_path: Path) -> None:
    argv = KINDS["accumulate"]
    assert forks(*argv, cwd=tmp_path, fault=Fault("metaexp.outer.loop:OuterLoop.advance", 9, 15)).code == 143
    old = only_run(tmp_path)
    ended = forks("-m", *argv, "seed=0,1", "resume=auto", cwd=tmp_path)
    assert ended.code == 0, ended.err
    (sweep,) = tmp_path.glob("outputs/*_sweep_*")
    table = [line.split()[:3] for line in ended.out.splitlines() if line.startswith(("0_seed", "1_seed"))]
    assert table == [["0_seed=0", "finished", "0"], ["1_seed=1", "finished", "0"]]
    assert (sweep / "0_seed=0").resolve() == old.resolve()
    assert_same_run(old, references["accumulate"])


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run that was stopped at step 30, with checkpoints of steps 26 and 30."""
    cwd = tmp_path_factory.mktemp("stopped")
    assert forks(*KINDS["7/11/13"], cwd=cwd, fault=Fault(STEP, 30, INT)).code == 130
    return cwd


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    """The run of `stopped`, copied to be hurt."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    return only_run(tmp_path)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)


def test_damaged_checkpoint_is_set_aside(forks: Forks, references: dict[str, Path], copy: Path, tmp_path: Path) -> None:
    last = copy / "checkpoints" / "step=000000030.ckpt"
    flip(last)
    left = [copy / "checkpoints" / ".step=000000039.ckpt.tmp-1", copy / ".result.json.tmp-1"]
    (copy / "figures").mkdir(exist_ok=True)
    for file in [*left, copy / "figures" / ".test_episodes.png.tmp-1"]:
        file.write_bytes(b"half")
    ended = forks(f"resume={copy}", cwd=tmp_path)
    assert ended.code == 0
    (line,) = [line for line in ended.err.splitlines() if line.startswith("warning:")]
    assert str(last) in line
    assert "set aside as step=000000030.ckpt.corrupt, step=000000026.ckpt is used" in line
    assert "resumed at step 26 of 60" in ended.err
    assert_same_run(copy, references["7/11/13"])


def test_all_checkpoints_damaged(forks: Forks, copy: Path, tmp_path: Path) -> None:
    for file in (copy / "checkpoints").glob("*.ckpt"):
        flip(file)
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file() and file.name != "run.lock"}
    before.pop(copy / "status.json")
    ended = forks(f"resume={copy}", cwd=tmp_path)
    assert ended.code == 4
    assert "none of 3 checkpoints usable; start over with resume=false" in ended.err
    assert status(copy) == ("failed", 4)
    assert {file: file.read_bytes() for file in before} == before


def test_no_checkpoint(forks: Forks, copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "checkpoints")
    ended = forks(f"resume={copy}", cwd=tmp_path)
    assert (ended.code, "no checkpoint yet" in ended.err) == (4, True)
    for path in ("nowhere", copy / "checkpoints" / "step=000000001.ckpt"):
        ended = forks(f"resume='{path}'", cwd=tmp_path)
        assert (ended.code, "no such" in ended.err) == (4, True)


def test_from_an_older_checkpoint(forks: Forks, references: dict[str, Path], copy: Path, tmp_path: Path) -> None:
    older = copy / "checkpoints" / "step=000000026.ckpt"
    ended = forks(f"resume='{older}'", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert (copy / "checkpoints" / "step=000000030.ckpt.superseded").exists()
    assert_same_run(copy, references["7/11/13"])


# -- what may be typed beside resume= ----------------------------------------------------------------------------------


def test_changed_setting_is_refused(forks: Forks, copy: Path, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    ended = forks(f"resume={copy}", "algo.inner_lr=0.5", "meta_batch=4", "seed=3", cwd=tmp_path)
    assert ended.code == 2
    assert "(algo.inner_lr: 0.02 -> 0.5; seed: 0 -> 3); steps, test, device and out may change" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()} == before


def test_the_device_keeps_what_is_not_typed(forks: Forks, copy: Path, tmp_path: Path) -> None:
    saved = yaml.safe_load((copy / "config.yaml").read_text())
    ended = forks(f"resume={copy}", "device.precision=64-true", cwd=tmp_path)
    assert ended.code == 2
    assert "device.precision=64-true: a run keeps the precision that it began with, 32" in ended.err
    ended = forks(f"resume={copy}", "device.threads=2", cwd=tmp_path)
    assert ended.code == 0, ended.err
    now = yaml.safe_load((copy / "config.yaml").read_text())
    assert now["device"] == saved["device"] | {"threads": 2}
    assert now["choices"] == saved["choices"]


def test_more_steps(forks: Forks, references: dict[str, Path], copy: Path, tmp_path: Path) -> None:
    """Raised once, the number of steps stays raised when the run is stopped again."""
    ended = forks(f"resume={copy}", "steps=70", "algo.inner_lr=0.02", cwd=tmp_path, fault=Fault(STEP, 35, KILL))
    assert ended.code == -9
    ended = forks(f"resume={copy}", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert json.loads((copy / "result.json").read_text())["steps"] == 70
    expected = [row for row in rows(references["7/11/13"]) if row["step"] < 60]
    assert [row for row in rows(copy) if row["step"] < 60] == expected
    assert [(row["kind"], row["step"]) for row in rows(copy)][len(expected) :] == [
        ("train", 63),
        ("val", 66),
        ("train", 70),
        ("val", 70),
    ]


def test_seconds_and_memory_are_those_of_all_processes(forks: Forks, copy: Path, tmp_path: Path) -> None:
    newest = max((copy / "checkpoints").glob("step=*.ckpt"))
    before = torch.load(newest, weights_only=True)["metaexp"]
    assert before["seconds"] > 0
    assert before["peak_mb"] > 50
    assert forks(f"resume={copy}", cwd=tmp_path).code == 0
    seconds = [json.loads(line)["seconds"] for line in (copy / "metrics.jsonl").read_text().splitlines()]
    assert seconds == sorted(seconds)
    assert min(seconds[len(seconds) // 2 + 1 :]) > before["seconds"]
    result = json.loads((copy / "result.json").read_text())
    assert result["speed"]["seconds"] > seconds[-1] > before["seconds"]
    assert result["memory"]["peak_mb"] >= before["peak_mb"]


def test_finished_run_only_prints_its_result(forks: Forks, references: dict[str, Path], tmp_path: Path) -> None:
    run = references["7/11/13"]
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in run.rglob("*") if file.is_file()}
    ended = forks(f"resume={run}", cwd=tmp_path)
    assert ended.code == 0
    assert "maml on sine, mlp, seed 0: 60 outer steps" in ended.out
    assert str(run) in ended.out
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in run.rglob("*") if file.is_file()} == before
    assert not list(tmp_path.iterdir())


def test_two_processes_on_one_folder(forks: Forks, copy: Path, tmp_path: Path) -> None:
    first = forks.start(f"resume={copy}", "steps=100000", cwd=tmp_path)
    end = time.monotonic() + 60
    while status(copy)[0] != "running" and time.monotonic() < end:
        time.sleep(0.01)
    second = forks(f"resume={copy}", cwd=tmp_path)
    assert second.code == 6
    assert f"busy: pid {first.pid} on host" in second.err
    assert status(copy)[0] == "running"
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait().code == 143
    assert status(copy) == ("interrupted", 143)


# -- which run is continued, and what may change, without a run -------------------------------------------------------


def test_find_resumable_takes_the_newest_that_can_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def make(name: str, state: str, config: dict[str, Any] = CONFIG, checkpoint: bool = True) -> RunFolder:
        run = RunFolder.claim_named(tmp_path / name)
        run.write_config(config)
        run.checkpoints.mkdir()
        if checkpoint:
            (run.checkpoints / "step=000000001.ckpt").touch()
        run.status(state)
        run.close()
        time.sleep(0.002)
        return run

    assert find_resumable(tmp_path / "nope", CONFIG) is None
    make("z_old", "interrupted")
    make("a_newer", "running", CONFIG | {"device": {"threads": 2, "precision": "32"}, "out": "elsewhere"})
    make("sweep/0_newest", "failed")
    make("longer", "interrupted", CONFIG | {"steps": 11})  # continued for 10 steps it would end
    make("tested otherwise", "interrupted", CONFIG | {"test": {"tasks": 8}})
    make("another precision", "interrupted", CONFIG | {"device": {"threads": 1, "precision": "64-true"}})
    make("other", "interrupted", CONFIG | {"seed": 1})
    make("done", "finished")
    make("early", "running", checkpoint=False)
    damaged = make("damaged", "failed")
    (damaged.path / "config.yaml").write_text("[")
    assert find_resumable(tmp_path, CONFIG) == tmp_path / "sweep" / "0_newest"
    assert "resume=auto skips" in capsys.readouterr().err
    locked = RunFolder.reopen(tmp_path / "sweep" / "0_newest")
    assert find_resumable(tmp_path, CONFIG) == tmp_path / "a_newer"
    locked.close()
    assert find_resumable(tmp_path, CONFIG | {"seed": 2}) is None


def test_resume_may_change_test_settings_and_keeps_the_others(tmp_path: Path) -> None:
    saved = load_config(["algo=maml", "task=sine", "test.weights=last", "test.tasks=50", "steps=5"])
    saved.pop("typed")
    (tmp_path / "config.yaml").write_text(dump_yaml(saved))
    continued = continued_config(tmp_path, load_config([f"resume={tmp_path}", "test.tasks=7", "steps=9"]))
    assert continued["test"] == saved["test"] | {"tasks": 7}
    assert continued["steps"] == 9
    assert continued["algo"] == saved["algo"]


def test_a_run_of_own_parts_continues_where_they_are_named_or_trusted(tmp_path: Path) -> None:
    package, groups = own_package(tmp_path)
    saved = load_config(["algo=gauss", "task=sine", "steps=5"], str(groups))
    (tmp_path / "config.yaml").write_text(dump_yaml({key: saved[key] for key in saved if key != "typed"}))
    resume = f"resume={tmp_path}"
    for typed, extra, wanted in (
        ([resume], None, []),  # what the folder itself trusts is not trusted
        ([resume, "trust=[os]"], None, []),
        ([resume, f"trust=[{package}]"], None, [f"{package}.parts"]),
        ([resume, f"trust=[{package}.parts]"], None, [f"{package}.parts"]),
        ([resume, "algo=gauss"], str(groups), [f"{package}.parts"]),
    ):
        assert continued_config(tmp_path, load_config(typed, extra))["trusted"] == wanted
