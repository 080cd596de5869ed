"""The memory that a process may use."""

import os
import resource
from pathlib import Path

import pytest

from metaexp.system.memory import memory_limit

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_lowest_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_limit("", tmp_path) <= MACHINE
    (tmp_path / "user/job").mkdir(parents=True)
    (tmp_path / "user/job/memory.max").write_text("max\n")
    (tmp_path / "user/memory.max").write_text("3000000\n")
    (tmp_path / "memory.max").write_text("5000000\n")
    assert memory_limit("0::/user/job\n", tmp_path) == 3_000_000  # of the group above
    assert memory_limit("0::/\n", tmp_path) == 5_000_000
    assert memory_limit("0::/../other\n", tmp_path) == 5_000_000  # outside this container
    (tmp_path / "memory/docker/x").mkdir(parents=True)
    (tmp_path / "memory/docker/x/memory.limit_in_bytes").write_text("2000000\n")
    (tmp_path / "memory/memory.limit_in_bytes").write_text("9223372036854771712\n")  # version 1: no limit
    assert memory_limit("5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n", tmp_path) == 2_000_000
    assert memory_limit("5:cpu:/docker/x\n", tmp_path) == memory_limit("", tmp_path)
    limits = {resource.RLIMIT_AS: (1_000_000, -1), resource.RLIMIT_DATA: (-1, -1)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    assert memory_limit("0::/user/job\n", tmp_path) == 1_000_000
