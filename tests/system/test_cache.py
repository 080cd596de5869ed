"""The cache of arrays: made once, whole after a kill, made again where damaged, shared between processes."""

import errno
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from metaexp.errors import ConfigError, SpaceError
from metaexp.system.cache import Cache, Progress, choose, default_cache

KEY = {"what": "squares"}
ROWS = 10


def squares(first: int, last: int) -> np.ndarray:
    return (np.arange(first, last, dtype=np.float32) ** 2)[:, None]


class Calls:
    """`squares` that counts its calls, and fails at one of them."""

    def __init__(self, fails_at: int | None = None):
        self.made: list[tuple[int, int]] = []
        self.fails_at = fails_at

    def __call__(self, first: int, last: int) -> np.ndarray:
        if len(self.made) == self.fails_at:
            raise KeyboardInterrupt
        self.made.append((first, last))
        return squares(first, last)


def entry(folder: Path) -> Path:
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    return found


def test_made_once_and_mapped(tmp_path: Path) -> None:
    calls = Calls()
    for _ in range(2):
        array = Cache(tmp_path).array(KEY, ROWS, calls, "squares", block=4)
        assert array.tolist() == squares(0, ROWS).tolist()
        assert isinstance(array, np.memmap)
    assert calls.made == [(0, 4), (4, 8), (8, 10)]
    assert Cache(tmp_path).array({"what": "other"}, 3, lambda a, b: squares(a, b) + 1, "more").tolist() == [
        [1],
        [2],
        [5],
    ]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def test_goes_on_after_a_stop(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path).array(KEY, ROWS, Calls(fails_at=2), "squares", block=4)
    rest = Calls()
    assert Cache(tmp_path).array(KEY, ROWS, rest, "squares", block=4).tolist() == squares(0, ROWS).tolist()
    assert rest.made == [(8, 10)]


@pytest.mark.parametrize("offset", [-1, -30])  # in the last block, in the first
def test_damage_is_noticed_and_mended(offset: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Cache(tmp_path).array(KEY, ROWS, squares, "squares", block=4)
    file = entry(tmp_path) / "array.npy"
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)
    calls = Calls()
    with caplog.at_level(logging.INFO, "metaexp"):
        array = Cache(tmp_path).array(KEY, ROWS, calls, "squares", block=4)
    assert array.tolist() == squares(0, ROWS).tolist()
    assert calls.made == ([(8, 10)] if offset == -1 else [(0, 4), (4, 8), (8, 10)])
    assert "damaged; making them again" in caplog.text


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "array.npy").write_bytes(b""),
        lambda folder: (folder / "array.npy").write_bytes((folder / "array.npy").read_bytes()[:-5]),
        lambda folder: (folder / "array.npy").unlink(),
        lambda folder: (folder / "blocks.json").write_text("{"),
        lambda folder: (folder / "blocks.json").write_text("[]"),
        lambda folder: (folder / "blocks.json").write_text('{"key": 1, "rows": 2, "block": 3, "sha256": 4}'),
    ],
)
def test_any_damage_is_made_again(damage, tmp_path: Path) -> None:
    Cache(tmp_path).array(KEY, ROWS, squares, "squares", block=4)
    damage(entry(tmp_path))
    assert Cache(tmp_path).array(KEY, ROWS, squares, "squares", block=4).tolist() == squares(0, ROWS).tolist()
    assert Cache(tmp_path).array(KEY, ROWS, Calls(0), "squares", block=4).tolist() == squares(0, ROWS).tolist()


def test_two_threads_of_work_make_it_once(tmp_path: Path) -> None:
    """The lock is per open file, so threads meet it as processes do."""
    calls, results = Calls(), []

    def work() -> None:
        results.append(Cache(tmp_path).array(KEY, ROWS, calls, "squares", block=1).tolist())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [squares(0, ROWS).tolist()] * 4
    assert len(calls.made) == ROWS


def test_a_killed_process_loses_one_block(tmp_path: Path) -> None:
    code = (
        "import os, sys, numpy as np\nfrom pathlib import Path\nfrom metaexp.system.cache import Cache\n"
        "def make(a, b):\n    if a == 8: os.kill(os.getpid(), 9)\n"
        "    return (np.arange(a, b, dtype=np.float32) ** 2)[:, None]\n"
        "Cache(Path(sys.argv[1])).array({'what': 'squares'}, 10, make, 'squares', block=4)"
    )
    ended = subprocess.run([sys.executable, "-c", code, tmp_path], env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert ended.returncode == -9
    rest = Calls()
    assert Cache(tmp_path).array(KEY, ROWS, rest, "squares", block=4).tolist() == squares(0, ROWS).tolist()
    assert rest.made == [(8, 10)]


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SpaceError, match=r"array.npy: no space \(needs 0.0 MB, has "):
        Cache(tmp_path).array(KEY, ROWS, squares, "squares")
    monkeypatch.undo()
    assert Cache(tmp_path).array(KEY, ROWS, squares, "squares").tolist() == squares(0, ROWS).tolist()


def test_off_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Cache(None).array(KEY, ROWS, squares, "squares", block=3).tolist() == squares(0, ROWS).tolist()
    monkeypatch.setenv("METAEXP_CACHE", str(tmp_path / "env"))
    assert default_cache().folder == tmp_path / "env"
    try:
        choose(str(tmp_path / "typed"))
        assert default_cache().folder == tmp_path / "typed"
        choose("off")
        assert default_cache().folder is None
    finally:
        choose(None)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^cache=.*file: .*; name another folder, or cache=off$"):
        Cache(tmp_path / "file")


def test_the_record_is_data(tmp_path: Path) -> None:
    Cache(tmp_path).array(KEY, ROWS, squares, "squares", block=4)
    record = json.loads((entry(tmp_path) / "blocks.json").read_text())
    assert json.loads(record["key"]) == {"format": 1, **KEY}
    assert (record["rows"], record["block"], len(record["sha256"])) == (10, 4, 3)


def test_progress(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    progress = Progress("encoding 35,000 sentences", 35_000, every=5, clock=lambda: now[0])
    with caplog.at_level(logging.INFO, "metaexp"):
        for now[0], done in ((1.0, 3500), (6.0, 7000), (7.0, 8000), (30.0, 35_000)):
            progress.at(done)
    assert caplog.messages == [
        "encoding 35,000 sentences: 7,000 (20 %), 0:24 left",
        "encoding 35,000 sentences: 35,000 (100 %), 0:00 left",
    ]
