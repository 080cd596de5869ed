"""Rows of strict JSON, whole after a kill, cut on resume."""

import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from processes import kill
from run_folders import CONFIG

from metaexp.errors import SpaceError
from metaexp.storage.run_folder import RunFolder


def test_rows_are_strict_json_and_read_back(run: RunFolder) -> None:
    run.metrics.append(
        {"step": 1, "loss": math.nan, "up": math.inf, "down": -math.inf, "list": [np.float32(0.5), (True, None)]}
    )
    run.metrics.append({"step": 2, "array": np.arange(2), "path": Path("a")})

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    text = (run.path / "metrics.jsonl").read_text()
    first, second = (json.loads(line, parse_constant=refuse) for line in text.splitlines())
    assert first == {"step": 1, "loss": "NaN", "up": "Infinity", "down": "-Infinity", "list": [0.5, [True, None]]}
    assert [float(first[key]) for key in ("up", "down")] == [math.inf, -math.inf]
    assert math.isnan(float(first["loss"]))
    assert second == {"step": 2, "array": [0, 1], "path": "a"}
    with pytest.raises(TypeError, match="object is not JSON data"):
        run.metrics.append({"x": object()})
    assert (run.path / "metrics.jsonl").read_text() == text


def test_cut_drops_later_rows_and_torn_lines_and_keeps_bytes(run: RunFolder) -> None:
    for step in range(1, 6):
        run.metrics.append({"step": step, "loss": 1 / step})
    path = run.path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + b'{"step": 2, "lo')
    assert run.metrics.cut(3) == 3
    assert path.read_bytes() == b"".join(lines[:3])
    run.metrics.append({"step": 4, "loss": 1 / 4})
    assert path.read_bytes() == b"".join(lines[:4])
    path.write_bytes(b"".join(lines[:2]) + lines[2][:-1])  # whole JSON, but its newline was not written
    assert run.metrics.cut(3) == 1
    assert path.read_bytes() == b"".join(lines[:2])
    assert run.metrics.cut(3) == 0


def test_kill_9_while_logging_leaves_whole_lines_after_the_cut(tmp_path: Path) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        run = RunFolder.claim_named(tmp_path / "run")
        run.write_config(CONFIG)
        os.write(write, b"ready")
        for step in range(10**9):
            run.metrics.append({"step": step, "text": "x" * 5000})
    os.read(read, 5)
    time.sleep(0.2)
    kill(pid)
    with RunFolder.reopen(tmp_path / "run") as run:
        run.metrics.cut(10**9)
        rows = [json.loads(line)["step"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(len(rows)))
    assert len(rows) > 10


def test_log_to_a_full_device(run: RunFolder) -> None:
    (run.path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(SpaceError, match=r"cannot write .*metrics.jsonl: no space \(has [\d.]+ MB\)"):
        run.metrics.append({"step": 1})
