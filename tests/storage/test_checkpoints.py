"""Checkpoints under kill -9, full disks, damage and hostile files: real processes, real signals, real bytes."""

import builtins
import errno
import hashlib
import io
import itertools
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from metaexp.errors import CheckpointError, Interrupted, SpaceError
from metaexp.storage import checkpoint_file as module
from metaexp.storage.checkpoint_file import (
    AtomicCheckpointIO,
    Checkpoints,
    DamagedCheckpoint,
    load,
    sidecar_of,
    verify,
    versions,
)
from metaexp.system.signals import StopFlag

io_plugin = AtomicCheckpointIO()


def content(step: int, size: int = 1000) -> dict[str, Any]:
    return {"state_dict": {"w": torch.full((size,), float(step))}, "metaexp": {"format": 1, "step": step}}


def value_of(data: dict[str, Any]) -> int:
    """The step the content is of, if it is all of one step."""
    values = data["state_dict"]["w"].unique().tolist()
    assert values == [data["metaexp"]["step"]]
    return int(values[0])


def writer(step: int, size: int = 1000) -> Callable[[Path], None]:
    return lambda path: io_plugin.save_checkpoint(content(step, size), path)


def run_forked(work: Callable[[], Any]) -> tuple[int, Any]:
    """(exit status, negative for a signal; what `work` returned or raised) of a real process."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)
        try:
            answer = work()
        except BaseException as error:
            answer = error
        os.write(write, pickle.dumps(answer))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        data = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, pickle.loads(data) if data else None


def files(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def saved(folder: Path, *steps: int) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(writer(step), step)
    return checkpoints


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)


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


@pytest.mark.parametrize("name", ["best.ckpt", "step=000000003.ckpt"])
def test_kill_9_at_every_point_of_a_save_leaves_a_whole_pair(tmp_path: Path, name: str) -> None:
    """F02: best.ckpt replaces an older file, a step's file stands for itself; the older steps go afterwards."""
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
    """F02 and F03: 10 MB each, killed after a random time; TMPDIR on another file system stays empty."""
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


def test_a_second_ctrl_c_inside_torch_save_stops_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F23: the interrupt is raised inside torch's C++ writer, which turns it into its own error."""
    checkpoints = saved(tmp_path, 1)
    checkpoints.save_best(writer(1), 1)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    real = torch.save

    class Pressing(io.RawIOBase):
        def __init__(self, file: Any) -> None:
            self.file, self.calls = file, 0

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.calls += 1
            if self.calls in (2, 4):
                signal.raise_signal(signal.SIGINT)
            return int(self.file.write(data))

    monkeypatch.setattr(torch, "save", lambda data, file: real(data, Pressing(file)))
    with StopFlag() as flag, pytest.raises(Interrupted, match="at once"):
        checkpoints.save_best(writer(2), 2)
    assert flag.requested is Interrupted
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


# ------------------------------------------------------------------------------------------------------- no more space
def test_file_size_limit_names_the_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    """F05: the limit hits in the archive's middle, at its end, and in the sidecar."""
    whole = io.BytesIO()
    torch.save(content(2, 50_000), whole)
    checkpoints = saved(tmp_path, 1)
    checkpoints.save_best(writer(1), 1)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    for limit in (0, 100_000, len(whole.getvalue()) - 10):

        def save(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            checkpoints.save_best(writer(2, 50_000), 2)

        error = run_forked(save)[1]
        assert isinstance(error, SpaceError)
        assert error.exit_code == 7
        expected = f"cannot write {tmp_path / 'best.ckpt'}: no space (file-size limit) (needs 0.2 MB)"
        assert str(error) == expected
        assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_full_disk_says_needed_and_free(tmp_path: Path) -> None:
    """F04 on a real full file system of 2 MB; skipped where this user may mount nothing."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    mount = tmp_path / "disk"
    mount.mkdir()

    def save() -> Any:
        new_user, new_mounts, private = 0x10000000, 0x00020000, 0x44000
        if libc.unshare(new_mounts | (0 if os.getuid() == 0 else new_user)):
            return "skip"
        if libc.mount(b"none", b"/", None, private, None):
            return "skip"
        if libc.mount(b"none", str(mount).encode(), b"tmpfs", 0, b"size=2m"):
            return "skip"
        checkpoints = saved(mount, 1)
        checkpoints.save_best(writer(1), 1)
        before = {name: (mount / name).read_bytes() for name in files(mount)}
        try:
            checkpoints.save_best(writer(2, 1_000_000), 2)
        except SpaceError as error:
            return str(error), before == {name: (mount / name).read_bytes() for name in files(mount)}

    answer = run_forked(save)[1]
    if answer == "skip":
        pytest.skip("no right to mount")
    message, unchanged = answer
    assert re.fullmatch(
        rf"cannot write {re.escape(str(mount))}/best.ckpt: no space \(needs 4.0 MB, has [12]\.\d MB\)", message
    )
    assert unchanged


def test_no_space_at_any_byte_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F04 for any user: ENOSPC after so many bytes, wrapped by torch in an error of its own."""
    saved(tmp_path, 1)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    real = torch.save

    class Full(io.RawIOBase):
        def __init__(self, file: Any, left: int) -> None:
            self.file, self.left = file, left

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self.file.write(data))

    for left in (0, 100, 1000, 4500):
        monkeypatch.setattr(torch, "save", lambda data, file, left=left: real(data, Full(file, left)))
        with pytest.raises(SpaceError, match=r"no space \(needs 0.0 MB, has [\d.]+ MB\)"):
            io_plugin.save_checkpoint(content(2), tmp_path / "step=000000001.ckpt")
        assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_what_does_not_read_back_is_not_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1)
    monkeypatch.setattr(torch, "save", lambda data, file: file.write(b"PK\x03\x04 rubbish"))
    with pytest.raises(SpaceError, match="Input/output error"):
        io_plugin.save_checkpoint(content(2), tmp_path / "step=000000001.ckpt")
    assert value_of(load(tmp_path / "step=000000001.ckpt")) == 1


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
    """F08, F09, F11."""
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
    """F10."""
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


@pytest.mark.parametrize("sidecar", [None, "", "{", "[]", '{"sha256": 3}', '{"format": 1, "sha256": "x", "bytes": {}}'])
def test_without_a_good_sidecar_the_archives_own_sums_judge(tmp_path: Path, sidecar: str | None) -> None:
    saved(tmp_path, 1)
    path = tmp_path / "step=000000001.ckpt"
    sidecar_of(path).unlink()
    if sidecar is not None:
        sidecar_of(path).write_text(sidecar)
    assert value_of(load(path)) == 1
    flip(path)
    with pytest.raises(DamagedCheckpoint, match="has another check sum"):
        load(path)
    os.truncate(path, 500)
    with pytest.raises(DamagedCheckpoint, match=r"truncated or damaged \(500 bytes"):
        load(path)


def test_a_sidecar_added_to_a_file_that_had_none_covers_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1)
    path = tmp_path / "step=000000001.ckpt"
    sidecar_of(path).unlink()
    real = os.replace

    def only_sidecars(source: Path, target: Path) -> None:
        if not str(target).endswith(".json"):
            raise OSError(errno.EIO, "no rename")
        real(source, target)

    monkeypatch.setattr(os, "replace", only_sidecars)
    with pytest.raises(SpaceError):
        io_plugin.save_checkpoint(content(2), path)
    assert json.loads(sidecar_of(path).read_text())["step"] == 2
    assert value_of(load(path)) == 1


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
    """F14."""
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
    """F15."""
    checkpoints = saved(tmp_path, 1)
    if where == "sidecar":
        checkpoints.save(writer(2), 2)
        edit(checkpoints.path(2), format=3)
    else:
        newer = content(2) | {"metaexp": {"format": 3, "step": 2}}
        checkpoints.save(lambda path: io_plugin.save_checkpoint(newer, path), 2)
    with pytest.raises(CheckpointError, match="written by format 3, this reads <=1") as caught:
        checkpoints.latest()
    assert not isinstance(caught.value, DamagedCheckpoint)
    assert checkpoints.steps() == [2, 1]


# -------------------------------------------------------------------------------------------------------- hostile files
class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def make_bomb(kind: str, path: Path, mark: Path) -> None:
    data = content(9) | {"bomb": Bomb(mark)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(data))
    elif kind == "legacy":
        torch.save(data, path, _use_new_zipfile_serialization=False)
    elif kind == "script":
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)
    elif kind == "packed":
        torch.save(content(9), path)
        with zipfile.ZipFile(path) as old:
            members = {info.filename: old.read(info) for info in old.infolist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for name, member in members.items():
                new.writestr(name, member)
    else:
        torch.save(data, path)
    if kind == "signed":
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entry = {"format": 1, "sha256": digest, "bytes": path.stat().st_size, "step": 9}
        sidecar_of(path).write_text(json.dumps(entry))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["zip", "signed", "pickle", "legacy", "script", "packed"])
def test_hostile_files_are_refused_and_run_nothing(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """F16, whatever is asked for in arguments and environment."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark, folder = tmp_path / "MARK", tmp_path / "checkpoints"
    folder.mkdir()
    path = folder / "step=000000009.ckpt"
    make_bomb(kind, path, mark)
    for read in (load, lambda path: io_plugin.load_checkpoint(path, weights_only=False)):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert caught.value.exit_code == 4
        assert "\n" not in str(caught.value)
    if kind in ("zip", "signed"):
        assert "refused, it holds posix.system; only tensors" in str(caught.value)
    with pytest.raises(CheckpointError):
        Checkpoints(folder).latest()
    assert path.exists()
    assert not mark.exists()


def test_hyper_parameters_name_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F17: plain strings pass weights_only; nothing imports what they name."""
    (tmp_path / "evilmod.py").write_text(f"open({str(tmp_path / 'MARK')!r}, 'w')\ndef make(*a, **k): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    hostile = {"_instantiator": "evilmod.make", "_class_path": "evilmod.make", "_target_": "evilmod.make"}
    path = tmp_path / "x.ckpt"
    io_plugin.save_checkpoint(content(1) | {"hyper_parameters": hostile, "hparams_name": "kwargs"}, path)
    assert io_plugin.load_checkpoint(path)["hyper_parameters"] == hostile
    assert not (tmp_path / "MARK").exists()
    assert "evilmod" not in sys.modules


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


# ------------------------------------------------------------------------------------------------------------ Lightning
class Tiny(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(3))
        self.loaded: dict[str, Any] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.1)

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return (self.w * batch).square().sum()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["metaexp"] = {"format": 1, "step": self.trainer.global_step}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.loaded = checkpoint["metaexp"]


def test_as_lightnings_plugin_a_resumed_run_is_bit_identical(tmp_path: Path) -> None:
    def trainer(steps: int) -> L.Trainer:
        return L.Trainer(
            max_steps=steps,
            accelerator="cpu",
            plugins=[AtomicCheckpointIO()],
            default_root_dir=tmp_path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    loader = torch.utils.data.DataLoader(torch.ones(8, 3), batch_size=1)
    whole, first, second = Tiny(), Tiny(), Tiny()
    trainer(4).fit(whole, loader)
    half = trainer(2)
    half.fit(first, loader)
    path = Checkpoints(tmp_path / "checkpoints").save(half.save_checkpoint, 2)
    assert verify(path)["step"] == 2
    trainer(4).fit(second, loader, ckpt_path=str(path), weights_only=False)
    assert second.loaded == {"format": 1, "step": 2}
    assert torch.equal(second.w, whole.w)
    assert not torch.equal(first.w, whole.w)
    flip(path)
    with pytest.raises(DamagedCheckpoint, match="SHA-256"):
        trainer(4).fit(second, loader, ckpt_path=str(path))


def test_needed_bytes_are_counted_in_nested_containers() -> None:
    state = {"a": torch.zeros(10, dtype=torch.float64), "b": [{"c": (torch.zeros(3, dtype=torch.int32), 1)}], "d": "x"}
    assert module._bytes(state) == 92
