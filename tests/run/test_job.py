"""A job that is started again, its share of the machine, and launchers that lose a worker."""

import os
from pathlib import Path

import pytest
from hydra.core.utils import JobStatus
from run_folders import CONFIG

from metaexp.run.job import _again, _share
from metaexp.run.launching import careful_launchers
from metaexp.storage.lock import read_status, state_of
from metaexp.storage.run_folder import RunFolder


def made(path: Path, state: str, checkpoint: bool) -> Path:
    with RunFolder.claim_named(path) as run:
        run.write_config(CONFIG)
        run.status(state, step=7)
        if checkpoint:
            run.checkpoints.mkdir()
            (run.checkpoints / "step=000000007.ckpt").touch()
    return path


def test_a_job_that_a_queue_starts_again_goes_on_in_its_folder(tmp_path: Path) -> None:
    config = CONFIG | {"resume": False}
    assert _again(config, tmp_path / "new") == config
    stopped = made(tmp_path / "stopped", "interrupted", checkpoint=True)
    assert _again(config, stopped) == config | {"resume": str(stopped)}
    bare = made(tmp_path / "bare", "failed", checkpoint=False)
    assert _again(config, bare) == config
    assert not bare.exists()  # it starts over
    done = made(tmp_path / "done", "finished", checkpoint=True)
    assert _again(config, done) == config
    assert done.exists()


def test_the_cores_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [_share(jobs) for jobs in (1, 2, 3, 8, 20)] == [None, 4, 2, 1, 1]


def test_a_killed_run_is_recorded(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "running", checkpoint=True)
    before = read_status(run)
    RunFolder.record_killed(run, 9)
    status = read_status(run)
    assert state_of(run) == "killed"
    assert (status["exit_code"], status["step"], status["started"]) == (137, 7, before["started"])
    assert status["error"] == "killed by SIGKILL (kill -9, or out of memory)"
    RunFolder.record_killed(tmp_path / "none", 15)  # before it had a folder
    assert (state_of(tmp_path / "none"), read_status(tmp_path / "none")["exit_code"]) == ("killed", 143)
    for path in (made(tmp_path / "done", "finished", checkpoint=True), run):
        with RunFolder.reopen(path):  # in use again, or finished: unchanged
            unchanged = (path / "status.json").read_bytes()
            RunFolder.record_killed(path, 9)
            assert (path / "status.json").read_bytes() == unchanged


def test_a_lost_worker_is_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    core = pytest.importorskip("submitit.core.core")

    class Lost(core.Job):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            pass

        def wait(self) -> None:
            raise RuntimeError("its process was killed\nand more")

        def __del__(self) -> None:
            pass

    original = core.Job.results
    with careful_launchers("submitit"):
        (returned,) = Lost().results()
        assert (returned.status, returned.return_value) == (JobStatus.COMPLETED, None)
    assert core.Job.results is original
    assert "a worker of the launcher was lost: its process was killed" in capsys.readouterr().err
