"""Run folders: exclusive claims, locks that die with their process, whole files, rows cut on resume."""

import json
import math
import os
import pickle
import re
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from metaexp.errors import BusyError, CheckpointError, ConfigError, SpaceError
from metaexp.run.sweep import job_name
from metaexp.storage.run_folder import RunFolder, find_resumable, read_status, state_of
from metaexp.storage.saved_config import config_sha256, differences, read_config
from metaexp.system.files import replace_file

CONFIG = {"seed": 0, "steps": 10, "algo": {"inner_lr": 0.01, "steps": 5}, "out": "outputs"}
CONFIG |= {"device": {"threads": 1, "precision": 32}, "test": {"tasks": 9}}


def forked(work: Callable[[], Any]) -> Callable[[], Any]:
    """Starts `work` in a real process of its own; calling the result waits for what it returned or raised."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = work()
        except BaseException as error:
            answer = error
        os.write(write, pickle.dumps(answer))
        os._exit(0)
    os.close(write)

    def wait() -> Any:
        with os.fdopen(read, "rb") as file:
            data = file.read()
        os.waitpid(pid, 0)
        return pickle.loads(data) if data else None

    return wait


def holder(open_folder: Callable[[], RunFolder]) -> int:
    """A process that opens a folder and keeps it until killed; returns its pid once it has it."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        folder = open_folder()
        os.write(write, b"ready")
        time.sleep(60)
        folder.close()
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        assert file.read(5) == b"ready"
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def files(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# ------------------------------------------------------------------------------------------------------------- claims
def test_claim_names_locks_and_has_a_status_from_the_first_second(tmp_path: Path) -> None:
    with RunFolder.claim(tmp_path / "a" / "outputs", "maml sine/../x") as run:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_maml_sine_.._x_[0-9a-f]{4}", run.path.name)
        assert files(run.path) == ["run.lock", "status.json"]
        status = json.loads((run.path / "status.json").read_text())
        assert (status["format"], status["state"], status["pid"]) == (1, "running", os.getpid())
        assert {"host", "started", "updated"} <= set(status)
        assert json.loads((run.path / "run.lock").read_text())["pid"] == os.getpid()
        assert state_of(run.path) == "running"
    assert state_of(run.path) == "killed"  # "running" on disk, nobody holds the lock


def test_four_processes_claim_four_folders_in_the_same_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda _format: "2026-01-02_03-04-05")
    waits = [forked(lambda: [RunFolder.claim(tmp_path, "x").path.name for _ in range(25)]) for _ in range(4)]
    names = [name for wait in waits for name in wait()]
    assert len(set(names)) == 100 == len(files(tmp_path))
    assert all(state_of(tmp_path / name) == "killed" for name in names)


def test_a_clash_of_names_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda _format: "t")
    words = iter(["aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr("secrets.token_hex", lambda _n: next(words))
    assert [RunFolder.claim(tmp_path, "x").path.name for _ in range(2)] == ["t_x_aaaa", "t_x_bbbb"]


def test_one_named_folder_goes_to_one_of_eight_processes(tmp_path: Path) -> None:
    path = tmp_path / "sweep" / "0_lr=0.1"

    def race() -> str:
        try:
            folder = RunFolder.claim_named(path)
        except BusyError:
            return "busy"
        time.sleep(0.5)
        return str(folder.writes)

    answers = [wait() for wait in [forked(race) for _ in range(8)]]
    assert sorted(answers) == ["True"] + ["busy"] * 7


def test_named_folder_of_another_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert RunFolder.claim_named(tmp_path / "empty").writes
    with RunFolder.claim_named(tmp_path / "a") as run:
        run.write_json("result.json", {"format": 1})
        run.status("finished", exit_code=0)
    before = {name: (tmp_path / "a" / name).read_bytes() for name in files(tmp_path / "a")}
    with pytest.raises(BusyError, match="already finished; use a new folder or resume="):
        RunFolder.claim_named(tmp_path / "a")
    assert {name: (tmp_path / "a" / name).read_bytes() for name in files(tmp_path / "a")} == before
    assert BusyError.exit_code == 6


def test_unusable_out_is_one_line_with_code_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"out=.*: is a file or below one; name a folder") as caught:
            RunFolder.claim(out, "x")
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="not writable"):
        RunFolder.claim(Path("/proc/metaexp"), "x")

    def as_nobody() -> None:
        if os.getuid() == 0:
            os.seteuid(65534)
        RunFolder.claim(tmp_path / "closed", "x")

    (tmp_path / "closed").mkdir(mode=0o555)
    error = forked(as_nobody)()
    assert isinstance(error, ConfigError)
    assert "not writable (Permission denied)" in str(error)
    assert files(tmp_path / "closed") == []


# -------------------------------------------------------------------------------------------------------------- locks
def test_locked_folder_is_busy_and_a_dead_process_holds_nothing(tmp_path: Path) -> None:
    with RunFolder.claim_named(tmp_path / "run") as run:
        run.write_config(CONFIG)
        run.status("running", step=3)
        run.checkpoints.mkdir()
        started = read_status(run.path)["started"]
    pid = holder(lambda: RunFolder.reopen(tmp_path / "run"))
    try:
        before = (tmp_path / "run" / "status.json").read_bytes()
        assert state_of(tmp_path / "run") == "running"
        with pytest.raises(BusyError, match=rf"busy: pid {pid} on host \S+ since \d{{4}}-.* is using "):
            RunFolder.reopen(tmp_path / "run")
        assert (tmp_path / "run" / "status.json").read_bytes() == before
    finally:
        kill(pid)
    assert state_of(tmp_path / "run") == "killed"
    for leftover in (".status.json.tmp-123", "checkpoints/.best.ckpt.tmp-99"):
        (tmp_path / "run" / leftover).write_text("half")
    with RunFolder.reopen(tmp_path / "run") as again:
        assert files(again.path) == ["checkpoints", "config.yaml", "run.lock", "status.json"]
        assert files(again.checkpoints) == []
        assert "step" in read_status(again.path)
        again.status("interrupted", exit_code=130)
        assert read_status(again.path)["started"] == started
    assert state_of(tmp_path / "run") == "interrupted"


def test_a_forked_worker_does_not_keep_its_dead_parents_lock(tmp_path: Path) -> None:
    read, write = os.pipe()

    def parent() -> RunFolder:
        run = RunFolder.claim_named(tmp_path / "run")
        run.write_config(CONFIG)
        worker = os.fork()
        if worker == 0:
            time.sleep(60)
            os._exit(0)
        os.write(write, str(worker).encode())
        return run

    pid = holder(parent)
    worker = int(os.read(read, 20))
    kill(pid)
    try:
        os.kill(worker, 0)  # it lives
        assert RunFolder.reopen(tmp_path / "run").writes
    finally:
        os.kill(worker, signal.SIGKILL)


def test_asking_for_the_state_never_makes_a_claim_fail(tmp_path: Path) -> None:
    with RunFolder.claim_named(tmp_path / "run") as run:
        run.write_config(CONFIG)

    def ask() -> None:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            state_of(tmp_path / "run")

    wait = forked(ask)
    for _ in range(100):
        RunFolder.reopen(tmp_path / "run").close()
    wait()


def test_reopen_wants_a_run_folder(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "nope", "no such run folder"), (tmp_path, "no config.yaml")):
        with pytest.raises(CheckpointError, match=why):
            RunFolder.reopen(path)
    assert files(tmp_path) == []


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    run = RunFolder.join(tmp_path)
    run.status("running", step=1)
    run.log({"step": 1})
    run.write_config(CONFIG)
    run.write_arrays("a.npz", x=np.zeros(2))
    assert run.cut(0) == 0
    run.sync()
    run.close()
    assert files(tmp_path) == []
    assert not run.writes


# ------------------------------------------------------------------------------------------------------ files and rows
@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.claim_named(tmp_path / "run")


def test_rows_are_strict_json_and_read_back(run: RunFolder) -> None:
    run.log({"step": 1, "loss": math.nan, "up": math.inf, "down": -math.inf, "list": [np.float32(0.5), (True, None)]})
    run.log({"step": 2, "array": np.arange(2), "path": Path("a")})

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    text = (run.path / "metrics.jsonl").read_text()
    first, second = (json.loads(line, parse_constant=refuse) for line in text.splitlines())
    assert first == {"step": 1, "loss": "NaN", "up": "Infinity", "down": "-Infinity", "list": [0.5, [True, None]]}
    assert [float(first[key]) for key in ("up", "down")] == [math.inf, -math.inf]
    assert math.isnan(float(first["loss"]))
    assert second == {"step": 2, "array": [0, 1], "path": "a"}
    with pytest.raises(TypeError, match="object is not JSON data"):
        run.log({"x": object()})
    assert (run.path / "metrics.jsonl").read_text() == text


def test_cut_drops_later_rows_and_torn_lines_and_keeps_bytes(run: RunFolder) -> None:
    for step in range(1, 6):
        run.log({"step": step, "loss": 1 / step})
    path = run.path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + b'{"step": 2, "lo')
    assert run.cut(3) == 3
    assert path.read_bytes() == b"".join(lines[:3])
    run.log({"step": 4, "loss": 1 / 4})
    assert path.read_bytes() == b"".join(lines[:4])
    path.write_bytes(b"".join(lines[:2]) + lines[2][:-1])  # whole JSON, but its newline was not written
    assert run.cut(3) == 1
    assert path.read_bytes() == b"".join(lines[:2])
    assert run.cut(3) == 0


def test_kill_9_while_logging_leaves_whole_lines_after_the_cut(tmp_path: Path) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        run = RunFolder.claim_named(tmp_path / "run")
        run.write_config(CONFIG)
        os.write(write, b"ready")
        for step in range(10**9):
            run.log({"step": step, "text": "x" * 5000})
    os.read(read, 5)
    time.sleep(0.2)
    kill(pid)
    with RunFolder.reopen(tmp_path / "run") as run:
        run.cut(10**9)
        rows = [json.loads(line)["step"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(len(rows)))
    assert len(rows) > 10


def test_full_disk_leaves_the_old_file_and_no_torn_row(tmp_path: Path) -> None:
    def limited() -> list[Any]:
        run = RunFolder.claim_named(tmp_path / "run")
        run.write_json("result.json", {"format": 1})
        for step in range(3):
            run.log({"step": step})
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        errors = []
        for write in (
            lambda: run.write_json("result.json", {"x": "y" * 5000}),
            lambda: run.write_arrays("test_scores.npz", x=np.zeros(10_000)),
            lambda: run.log({"step": 3, "x": "y" * 5000}),
        ):
            try:
                write()
            except SpaceError as error:
                errors.append(error)
        run.log({"step": 3})
        return errors

    errors = forked(limited)()
    path = tmp_path / "run"
    for error, name in zip(errors, ("result.json", "test_scores.npz", "metrics.jsonl"), strict=True):
        assert f"cannot write {path / name}: no space (file-size limit)" in str(error)
        assert "\n" not in str(error)
        assert error.exit_code == 7
    assert "(needs 0.1 MB)" in str(errors[1])
    assert files(path) == ["metrics.jsonl", "result.json", "run.lock", "status.json"]
    assert json.loads((path / "result.json").read_text()) == {"format": 1}
    assert [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()] == [0, 1, 2, 3]


def test_log_to_a_full_device(run: RunFolder) -> None:
    (run.path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(SpaceError, match=r"cannot write .*metrics.jsonl: no space \(has [\d.]+ MB\)"):
        run.log({"step": 1})


def test_an_error_being_handled_is_not_taken_for_the_cause(tmp_path: Path) -> None:
    def fill(_file: object) -> None:
        raise TypeError("own mistake")

    for outer in (KeyboardInterrupt(), OSError(28, "before")):
        try:
            raise outer
        except BaseException:
            with pytest.raises(TypeError, match="own mistake"):
                replace_file(tmp_path / "x", fill)
    assert files(tmp_path) == []


def test_arrays_carry_a_format_and_never_objects(run: RunFolder) -> None:
    run.write_arrays("a.npz", accuracy=np.arange(6.0).reshape(2, 3), sha="abc")
    with np.load(run.path / "a.npz") as data:
        assert data["format"] == 1
        assert data["accuracy"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert str(data["sha"]) == "abc"
    with pytest.raises(TypeError, match="would be pickled"):
        run.write_arrays("b.npz", x=np.array([object()]))
    assert "b.npz" not in files(run.path)


def test_status_keeps_what_was_said(run: RunFolder) -> None:
    run.status("running", step=7)
    run.status("failed", exit_code=5, error="non-finite")
    status = read_status(run.path)
    assert (status["state"], status["step"], status["exit_code"], status["error"]) == ("failed", 7, 5, "non-finite")
    with pytest.raises(ValueError, match="one of running, finished"):
        run.status("done")
    run.close()
    assert state_of(run.path) == "failed"
    (run.path / "status.json").write_text("{ half")
    assert state_of(run.path) == "killed"


# ------------------------------------------------------------------------------------------------------- configuration
def test_config_round_trip(run: RunFolder) -> None:
    shared = [1, 2]
    config = CONFIG | {"lr": 1e-5, "none": None, "word": "1e-3", "yes": "no", "a": shared, "b": shared, "ä": "ö: #"}
    run.write_config(config)
    assert read_config(run.path) == config
    assert "&" not in (run.path / "config.yaml").read_text()
    with pytest.raises(yaml.YAMLError):
        run.write_config({"x": object()})
    assert read_config(run.path) == config


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: ${oc.env:HOME}", "a holds an interpolation"),
        ("a: {b: [1, 'x${c}']}", r"a\.b holds an interpolation"),
        ("${x}: 1", "holds an interpolation"),
        ("a: !!python/object/apply:os.system ['touch MARK']", "damaged, not YAML"),
        ("a: &x [1]\nb: *x", "aliases are refused"),
        ("a: [1", "damaged, not YAML"),
        ("a: 2020-99-99", "damaged, not YAML"),
        ("\x00", "damaged, not YAML"),
        ("just words", "damaged, holds no configuration"),
        ("", "damaged, holds no configuration"),
    ],
)
def test_a_strangers_config_is_data_or_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=why) as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == ["config.yaml"]


def test_missing_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_config(tmp_path)


def test_hash_sees_what_is_learned_and_nothing_else() -> None:
    sha = config_sha256(CONFIG)
    assert re.fullmatch("[0-9a-f]{64}", sha)
    same: list[dict[str, Any]] = [
        dict(reversed(CONFIG.items())),
        CONFIG | {"steps": 99, "out": "x", "device": {"threads": 2, "devices": 4}, "resume": "auto", "time_limit": 5},
        CONFIG | {"seed": 0.0},
    ]
    other: list[dict[str, Any]] = [
        CONFIG | {"seed": 1},
        CONFIG | {"seed": False},
        CONFIG | {"seed": "0"},
        CONFIG | {"algo": {"inner_lr": 0.01, "steps": 6}},  # a method's own `steps` is no free choice
        CONFIG | {"extra": None},
    ]
    assert [config_sha256(config) for config in same] == [sha] * 3
    assert len({config_sha256(config) for config in other} | {sha}) == 6
    assert all(not differences(CONFIG, config) for config in same)


def test_differences_are_named() -> None:
    now = {"seed": 0, "steps": 99, "algo": {"inner_lr": 9, "name": "x"}}
    assert differences(CONFIG, now) == [
        ("algo.inner_lr", 0.01, 9),
        ("algo.steps", 5, "(not set)"),
        ("algo.name", "(not set)", "x"),
    ]
    assert differences(CONFIG, {"steps": 1, "algo": {"inner_lr": 9}}, partial=True) == [("algo.inner_lr", 0.01, 9)]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ("algo.inner_lr=1e+30,seed=1", "3_algo.inner_lr=1e+30,seed=1"),  # not 1e-30
        ("algo.inner_lr=1e-30", "3_algo.inner_lr=1e-30"),
        ("++algo.inner={a:1},seed=2", "3_algo.inner=-a-1-,seed=2"),
        ("name=a+b", "3_name=a-b"),
        ("", "3"),
    ],
)
def test_a_job_is_named_by_its_values(values: str, name: str) -> None:
    assert job_name(3, values) == name


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
    make("longer", "interrupted", CONFIG | {"steps": 11})  # to go on with it for 10 steps would end it
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
