"""Locks that die with their process, and the state that follows from lock and status."""

import os
import resource
import signal
import time
from pathlib import Path

import pytest
from processes import forked, holder, kill
from run_folders import CONFIG, files

from metaexp.errors import BusyError, SpaceError
from metaexp.storage.lock import RunLock, read_status, state_of
from metaexp.storage.run_folder import RunFolder


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


def test_a_lock_whose_owner_cannot_be_written_is_given_back(tmp_path: Path) -> None:
    def full() -> tuple[str, str]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        try:
            RunLock(tmp_path, new=True)
        except SpaceError as error:
            return str(error), state_of(tmp_path)
        return "", ""

    message, state = forked(full)()
    assert message == f"cannot write {tmp_path / 'run.lock'}: no space (file-size limit)"
    assert state == "killed"  # not "running": nothing holds it
