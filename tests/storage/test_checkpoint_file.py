"""One checkpoint file under full disks, damage and hostile bytes."""

import errno
import hashlib
import io
import json
import os
import pickle
import re
import resource
import signal
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import content, flip, saved, value_of, writer
from processes import run_forked
from run_folders import files

from metaexp.errors import CheckpointError, Interrupted, SpaceError
from metaexp.storage import checkpoint_file
from metaexp.storage.checkpoint_file import DamagedCheckpoint, load, save, sidecar_of
from metaexp.storage.checkpoints import Checkpoints
from metaexp.storage.lightning_plugin import AtomicCheckpointIO
from metaexp.system.signals import StopFlag
from metaexp.system.watcher_process import SAME


# ------------------------------------------------------------------------------------------------ stopped while writing
def test_a_second_ctrl_c_inside_torch_save_stops_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupt is raised inside torch's C++ writer, which turns it into its own error."""
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
                time.sleep(2 * SAME)  # sooner, the second one would count as the first
                signal.raise_signal(signal.SIGINT)
            return int(self.file.write(data))

    monkeypatch.setattr(torch, "save", lambda data, file: real(data, Pressing(file)))
    with StopFlag() as flag, pytest.raises(Interrupted, match="at once"):
        checkpoints.save_best(writer(2), 2)
    assert flag.requested is Interrupted
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


# -------------------------------------------------------------------------------------------------------- no more space
def test_file_size_limit_names_the_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    """The limit hits in the archive's middle, at its end, and in the sidecar."""
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
    """On a real full file system of 2 MB; skipped where this user may mount nothing."""
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
    """For any user: ENOSPC after so many bytes, wrapped by torch in an error of its own."""
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
            save(content(2), tmp_path / "step=000000001.ckpt")
        assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_what_does_not_read_back_is_not_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1)
    monkeypatch.setattr(torch, "save", lambda data, file: file.write(b"PK\x03\x04 rubbish"))
    with pytest.raises(SpaceError, match="Input/output error"):
        save(content(2), tmp_path / "step=000000001.ckpt")
    assert value_of(load(tmp_path / "step=000000001.ckpt")) == 1


def test_needed_bytes_are_counted_in_nested_containers() -> None:
    state = {"a": torch.zeros(10, dtype=torch.float64), "b": [{"c": (torch.zeros(3, dtype=torch.int32), 1)}], "d": "x"}
    assert checkpoint_file._bytes(state) == 92


# ------------------------------------------------------------------------------------------------------------- sidecars
@pytest.mark.parametrize("sidecar", [None, "", "{", "[]", '{"sha256": 3}', '{"format": 1, "sha256": "x", "bytes": {}}'])
def test_without_a_good_sidecar_the_archives_own_sums_judge(tmp_path: Path, sidecar: str | None) -> None:
    saved(tmp_path, 1)
    path = tmp_path / "step=000000001.ckpt"
    sidecar_of(path).unlink()
    if sidecar is not None:
        sidecar_of(path).write_text(sidecar)
    assert value_of(load(path)) == 1
    flip(path)
    with pytest.raises(DamagedCheckpoint, match="the checksum of its member"):
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
        save(content(2), path)
    assert json.loads(sidecar_of(path).read_text())["step"] == 2
    assert value_of(load(path)) == 1


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
    """Whatever is asked for in arguments and environment."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark, folder = tmp_path / "MARK", tmp_path / "checkpoints"
    folder.mkdir()
    path = folder / "step=000000009.ckpt"
    make_bomb(kind, path, mark)
    for read in (load, lambda path: AtomicCheckpointIO().load_checkpoint(path, weights_only=False)):
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
    """Plain strings pass weights_only; nothing imports what they name."""
    (tmp_path / "evilmod.py").write_text(f"open({str(tmp_path / 'MARK')!r}, 'w')\ndef make(*a, **k): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    hostile = {"_instantiator": "evilmod.make", "_class_path": "evilmod.make", "_target_": "evilmod.make"}
    path = tmp_path / "x.ckpt"
    save(content(1) | {"hyper_parameters": hostile, "hparams_name": "kwargs"}, path)
    assert AtomicCheckpointIO().load_checkpoint(path)["hyper_parameters"] == hostile
    assert not (tmp_path / "MARK").exists()
    assert "evilmod" not in sys.modules
