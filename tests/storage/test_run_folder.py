"""Run folders: claimed exclusively, every file whole."""

import json
import os
import re
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import forked
from run_folders import CONFIG, files

from metaexp.errors import BusyError, CheckpointError, ConfigError, SpaceError
from metaexp.storage.lock import read_status, state_of
from metaexp.storage.run_folder import RunFolder
from metaexp.system.files import replace_file


# --------------------------------------------------------------------------------------------------------------- claims
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


def test_reopen_wants_a_run_folder(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "nope", "no such run folder"), (tmp_path, "no config.yaml")):
        with pytest.raises(CheckpointError, match=why):
            RunFolder.reopen(path)
    assert files(tmp_path) == []


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    run = RunFolder.join(tmp_path)
    run.status("running", step=1)
    run.metrics.append({"step": 1})
    run.write_config(CONFIG)
    run.write_arrays("a.npz", x=np.zeros(2))
    assert run.metrics.cut(0) == 0
    run.metrics.sync()
    run.close()
    assert files(tmp_path) == []
    assert not run.writes


# ---------------------------------------------------------------------------------------------------------------- files
def test_full_disk_leaves_the_old_file_and_no_torn_row(tmp_path: Path) -> None:
    def limited() -> list[Any]:
        run = RunFolder.claim_named(tmp_path / "run")
        run.write_json("result.json", {"format": 1})
        for step in range(3):
            run.metrics.append({"step": step})
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        errors = []
        for write in (
            lambda: run.write_json("result.json", {"x": "y" * 5000}),
            lambda: run.write_arrays("test_scores.npz", x=np.zeros(10_000)),
            lambda: run.metrics.append({"step": 3, "x": "y" * 5000}),
        ):
            try:
                write()
            except SpaceError as error:
                errors.append(error)
        run.metrics.append({"step": 3})
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
