"""Which run is continued, what may change, and what happens to damaged ones."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checkpoint_files import flip
from forks import Fault, Forks
from run_folders import CONFIG, only_run
from small_runs import own_package
from stopped_runs import (
    INT,
    KILL,
    KINDS,
    MAML,
    STEP,
    References,
    assert_same_run,
    rows,
    status,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from metaexp.config.settings import load as load_config
from metaexp.run.resume import continued_config, find_resumable
from metaexp.storage.run_folder import RunFolder
from metaexp.storage.saved_config import dump_yaml


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
    make("longer", "interrupted", CONFIG | {"steps": 11})  # continued with 10 steps it would end
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


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run stopped at step 30, with checkpoints of steps 26 and 30."""
    cwd = tmp_path_factory.mktemp("stopped")
    assert forks(*KINDS["7/11/13"], cwd=cwd, fault=Fault(STEP, 30, INT)).code == 130
    return cwd


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the run of `stopped`, to be damaged."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    return only_run(tmp_path)


def test_damaged_checkpoint_is_set_aside(forks: Forks, references: References, copy: Path, tmp_path: Path) -> None:
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
    assert hparams(copy) == hparams(references["7/11/13"])
    assert {"algo", "task", "seed", "steps", "meta_batch"} <= hparams(copy).keys()


def hparams(run: Path) -> dict[str, Any]:
    """The run's row in TensorBoard's HParams."""
    tag = "_hparams_/session_start_info"
    content = EventAccumulator(str(run / "test")).Reload().SummaryMetadata(tag).plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(content)
    return {key: value.number_value or value.string_value for key, value in start.hparams.items()}


def test_all_checkpoints_damaged(forks: Forks, copy: Path, tmp_path: Path) -> None:
    for file in (copy / "checkpoints").glob("*.ckpt"):
        flip(file)
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    ended = forks(f"resume={copy}", cwd=tmp_path)
    assert ended.code == 4
    assert "none of 3 checkpoints usable; start over with resume=false" in ended.err
    assert status(copy) == ("interrupted", 130)
    assert {file: file.read_bytes() for file in before} == before


def test_no_checkpoint(forks: Forks, copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "checkpoints")
    ended = forks(f"resume={copy}", cwd=tmp_path)
    assert (ended.code, "no checkpoint yet" in ended.err) == (4, True)
    for path in ("nowhere", copy / "checkpoints" / "step=000000001.ckpt"):
        ended = forks(f"resume='{path}'", cwd=tmp_path)
        assert (ended.code, "no such" in ended.err) == (4, True)


def test_from_an_older_checkpoint(forks: Forks, references: References, copy: Path, tmp_path: Path) -> None:
    older = copy / "checkpoints" / "step=000000026.ckpt"
    ended = forks(f"resume='{older}'", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert (copy / "checkpoints" / "step=000000030.ckpt.superseded").exists()
    assert_same_run(copy, references["7/11/13"])


# -- what may be typed besides resume= ---------------------------------------------------------------------------------


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


def test_more_steps(forks: Forks, references: References, copy: Path, tmp_path: Path) -> None:
    """Once raised, the number of steps stays raised when the run is stopped again."""
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


def test_finished_run_only_prints_its_result(forks: Forks, references: References, tmp_path: Path) -> None:
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


def test_what_is_printed_continues_the_run_when_pasted_into_a_shell(forks: Forks, tmp_path: Path) -> None:
    out = 'Läufe, [1] {2}/it\'s  "q" $HOME `x` :b: y=1 ~\\'
    ended = forks(*MAML, "steps=6", f"out={out}", cwd=tmp_path, fault=Fault(STEP, 3, INT))
    assert ended.code == 130
    (pasted,) = re.findall(r"; continue with (.*)\n", ended.err)
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {pasted}"], capture_output=True, check=True, cwd=tmp_path, text=True
    ).stdout.split("\0")[:-1]
    (run,) = (tmp_path / out).iterdir()
    assert words == [f"resume={run.relative_to(tmp_path)}"]
    assert f"run folder: {run.relative_to(tmp_path)}\n" in ended.err
    ended = forks(*words, cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert status(run) == ("finished", 0)
    assert f"folder       {run}" in ended.out
