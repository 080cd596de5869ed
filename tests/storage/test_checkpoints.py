"""A run's set of checkpoints: whole after kill -9 at any point, damaged ones set aside, the right ones kept."""

import builtins
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import content, flip, saved, value_of, writer
from processes import run_forked
from run_folders import files

from metaexp.errors import CheckpointError
from metaexp.storage.checkpoint_file import DamagedCheckpoint, load, save, sidecar_of, verify, versions
from metaexp.storage.checkpoints import Checkpoints


# -------------------------------------------------------------------------------------------------------------- kill -9
def die_at(point: int) -> None:
    """Makes this process kill itself at the point-th of: before and after each open to write, fsync and rename."""
    counter = itertools.count()

    def tick() -> None:
        if next(counter) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            tick()
            answer = real(*args, **kwargs)
            tick()
            return answer

        return call

    real_open, real_save = builtins.open, torch.save

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return (wrap(real_open) if "w" in mode else real_open)(file, mode, *args, **kwargs)

    def half_saved(data: Any, file: Any) -> None:
        whole = io.BytesIO()
        real_save(data, whole)
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        tick()
        file.write(whole.getvalue()[len(whole.getvalue()) // 2 :])

    os.fsync, os.replace, os.unlink = wrap(os.fsync), wrap(os.replace), wrap(os.unlink)  # type: ignore[assignment]
    builtins.open, torch.save = opened, half_saved  # type: ignore[assignment]


@pytest.mark.parametrize("name", [pytest.param("best.ckpt", marks=pytest.mark.tier("long")), "step=000000003.ckpt"])
def test_kill_9_at_every_point_of_a_save_leaves_a_whole_pair(tmp_path: Path, name: str) -> None:
    """best.ckpt replaces an older file, a step's file replaces none; the older steps are removed afterwards."""
    points, seen = 0, set()
    for point in itertools.count():
        folder = tmp_path / str(point)
        before = saved(folder, 1, 2)
        before.save_best(writer(2), 2)

        def save(point: int = point, before: Checkpoints = before) -> None:
            die_at(point)
            (before.save_best if name == "best.ckpt" else before.save)(writer(3), 3)

        code, error = run_forked(save)
        assert error is None
        after = Checkpoints(folder)  # the next start
        leftovers = [file for file in files(folder) if ".tmp-" in file]
        pairs = [file for file in files(folder) if file.endswith(".ckpt")]
        assert leftovers == []
        assert files(folder) == sorted(pairs + [f"{file}.json" for file in pairs])
        for file in pairs:  # each one whole, and known to its sidecar (not merely a whole zip)
            entry = verify(folder / file)
            assert entry["step"] == value_of(load(folder / file))
        latest, best = after.latest(), after.best()
        assert latest is not None
        assert best is not None
        assert value_of(latest[0]) in (2, 3)
        assert value_of(best[0]) in (2, 3)
        seen.add((value_of(latest[0]), value_of(best[0])))
        # Saving again after the kill works, and a second kill at the same point still leaves a whole pair.
        if name == "best.ckpt":
            run_forked(save)
            assert verify(folder / name)["step"] == value_of(load(folder / name))
        after.save(writer(4), 4)
        after.save_best(writer(4), 4)
        assert value_of(after.best()[0]) == 4  # type: ignore[index]
        if code == 0:
            points = point
            break
        assert code == -signal.SIGKILL
    assert points >= 17  # 1 + 2 * (2 opens + 4 fsyncs + 2 renames), and the removals
    assert seen == ({(2, 2), (2, 3)} if name == "best.ckpt" else {(2, 2), (3, 2)})


def test_kill_9_at_random_times_of_big_saves_with_another_tmpdir(tmp_path: Path) -> None:
    """10 MB each, killed after a random time; TMPDIR on another file system stays empty."""
    shm = Path("/dev/shm")
    tmpdir = Path(tempfile.mkdtemp(dir=shm if shm.is_dir() else None))
    size, draw, folder = 2_500_000, random.Random(0), tmp_path / "checkpoints"

    def save_for_ever() -> None:
        os.environ["TMPDIR"], tempfile.tempdir = str(tmpdir), None
        assert tempfile.gettempdir() == str(tmpdir)
        checkpoints = Checkpoints(folder)
        latest = checkpoints.latest()
        for step in itertools.count(value_of(latest[0]) + 1 if latest else 1):
            checkpoints.save_best(writer(step, size), step)
            checkpoints.save(writer(step, size), step)

    last, interrupted = 0, 0
    try:
        for kill in range(6):
            pid = os.fork()
            if pid == 0:
                torch.set_num_threads(1)
                save_for_ever()
            while kill == 0 and not (folder / "step=000000002.ckpt").exists():
                time.sleep(0.01)
            time.sleep(draw.uniform(0.1, 0.7))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            interrupted += any(".tmp-" in file for file in files(folder))
            checkpoints = Checkpoints(folder)
            latest, best = checkpoints.latest(), checkpoints.best()
            assert latest is not None
            assert latest[0]["state_dict"]["w"].shape == (size,)
            assert value_of(latest[0]) >= last
            assert best is not None
            assert 0 <= value_of(best[0]) - value_of(latest[0]) <= 1
            last = value_of(latest[0])
            assert not [file for file in files(folder) if "tmp" in file or "corrupt" in file]
            assert files(tmpdir) == []
        assert last >= 2
        assert interrupted > 0  # at least one kill hit a write
    finally:
        shutil.rmtree(tmpdir)


# --------------------------------------------------------------------------------------------------------------- damage
def damage(kind: str, path: Path) -> str:
    """Damages a file; returns words of the reason that must be given."""
    size = path.stat().st_size
    if kind == "flip":
        flip(path)
        return "its SHA-256 is not the one in step=000000002.ckpt.json"
    if kind == "html":
        path.write_text("\n <!DOCTYPE html><html>not found</html>")
        return "an HTML page, not a checkpoint (a failed download?)"
    if kind == "folder":
        path.unlink()
        path.mkdir()
        return "a folder, not a checkpoint file"
    if kind == "text":
        path.write_text("version https://")
        return "not a torch checkpoint (begins with b'version ')"
    kept = int(size * float(kind))
    os.truncate(path, kept)
    return f"truncated, {kept} of {size} bytes" if kept else "empty (0 bytes)"


@pytest.mark.parametrize("kind", ["0", "0.5", "0.9999", "flip", "html", "folder", "text"])
def test_a_damaged_newest_is_named_and_set_aside(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    newest = tmp_path / "step=000000002.ckpt"
    reason = damage(kind, newest)
    with pytest.raises(DamagedCheckpoint, match=re.escape(f"{newest}: ")) as caught:
        load(newest)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    reader = Checkpoints(tmp_path, writes=False).latest()
    assert newest.exists()  # a reader renames nothing
    latest = checkpoints.latest()
    assert latest is not None
    assert reader is not None
    assert latest[1].name == reader[1].name == "step=000000001.ckpt"
    assert value_of(latest[0]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(f"warning: {newest}: ")
    assert lines[1].endswith("; set aside as step=000000002.ckpt.corrupt, step=000000001.ckpt is used")
    assert "step=000000002.ckpt.corrupt" in files(tmp_path)
    assert "step=000000002.ckpt.corrupt.json" in files(tmp_path)
    checkpoints.save(writer(2), 2)
    assert checkpoints.steps() == [2, 1]


def test_all_damaged_stops_and_deletes_nothing(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    checkpoints.save_best(writer(1), 1)
    for path in tmp_path.glob("*.ckpt"):
        flip(path)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with pytest.raises(CheckpointError, match=r"none of 3 checkpoints usable; start over with resume=false") as caught:
        checkpoints.latest()
    assert caught.value.exit_code == 4
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before
    with pytest.raises(CheckpointError, match=r"best.ckpt: damaged"):
        checkpoints.best()


def test_best_is_the_last_resort(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    checkpoints.save_best(writer(1), 1)
    for step in (1, 2):
        flip(checkpoints.path(step))
    latest = checkpoints.latest()
    assert latest is not None
    assert latest[1].name == "best.ckpt"


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint") as caught:
        load(tmp_path / "x.ckpt")
    assert not isinstance(caught.value, DamagedCheckpoint)
    empty = Checkpoints(tmp_path / "none")
    assert (empty.latest(), empty.best(), empty.steps()) == (None, None, [])


# ------------------------------------------------------------------------------------------------- versions and formats
def edit(path: Path, **changes: Any) -> None:
    sidecar_of(path).write_text(json.dumps(json.loads(sidecar_of(path).read_text()) | changes))


def test_other_versions_warn_and_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = saved(tmp_path, 1)
    assert checkpoints.latest() is not None
    assert capsys.readouterr().err == ""
    edit(checkpoints.path(1), versions=versions() | {"torch": "2.10.0", "metaexp": "0.0.1"})
    assert value_of(load(checkpoints.path(1))) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"torch 2.10.0 (now {torch.__version__})" in err
    assert "metaexp 0.0.1" in err
    assert "bit-identical continuation is not promised" in err


@pytest.mark.parametrize("where", ["sidecar", "checkpoint"])
def test_a_newer_format_is_refused_and_left_in_place(tmp_path: Path, where: str) -> None:
    checkpoints = saved(tmp_path, 1)
    if where == "sidecar":
        checkpoints.save(writer(2), 2)
        edit(checkpoints.path(2), format=3)
    else:
        newer = content(2) | {"metaexp": {"format": 3, "step": 2}}
        checkpoints.save(lambda path: save(newer, path), 2)
    with pytest.raises(CheckpointError, match="written by format 3, this reads <=1") as caught:
        checkpoints.latest()
    assert not isinstance(caught.value, DamagedCheckpoint)
    assert checkpoints.steps() == [2, 1]


# ------------------------------------------------------------------------------------------------------------ retention
def test_newest_two_and_best_stay(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    checkpoints.save_best(writer(2), 2)
    checkpoints.save(writer(30), 30)
    assert checkpoints.steps() == [30, 2]
    names = ["best.ckpt", "step=000000002.ckpt", "step=000000030.ckpt"]
    assert files(tmp_path) == sorted(names + [f"{name}.json" for name in names])
    best = checkpoints.best()
    assert best is not None
    assert (value_of(best[0]), best[1].name) == (2, "best.ckpt")
    assert json.loads(sidecar_of(checkpoints.path(30)).read_text())["versions"] == versions()


def test_other_ranks_call_write_and_remove_nothing(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    (tmp_path / ".step=000000003.ckpt.tmp-1").touch()
    calls: list[Path] = []
    other = Checkpoints(tmp_path, writes=False)
    other.save(calls.append, 3)
    other.save_best(calls.append, 3)
    other.cut(0)
    assert calls == [tmp_path / "step=000000003.ckpt", tmp_path / "best.ckpt"]
    assert other.steps() == [2, 1]
    assert ".step=000000003.ckpt.tmp-1" in files(tmp_path)


def test_a_write_that_wrote_something_else_is_an_error(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    with pytest.raises(RuntimeError, match="should hold step 3, holds 2"):
        checkpoints.save(writer(2), 3)
    with pytest.raises(RuntimeError, match="holds nothing"):
        checkpoints.save_best(lambda path: None, 3)


def test_cut_sets_later_ones_aside(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    checkpoints.save_best(writer(2), 2)
    checkpoints.cut(2)
    assert checkpoints.steps() == [2, 1]
    checkpoints.cut(1)
    assert checkpoints.steps() == [1]
    assert checkpoints.best() is None
    assert [name for name in files(tmp_path) if name.endswith(".superseded")] == [
        "best.ckpt.superseded",
        "step=000000002.ckpt.superseded",
    ]
