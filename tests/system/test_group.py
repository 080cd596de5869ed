"""Two forked processes in a real gloo group: votes, the first one's decisions and errors, lost and silent processes."""

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed

from metaexp.errors import ConfigError, DataError
from metaexp.system.group import ALONE, Group, exit_code_of, lost, portable, timed_out
from metaexp.training.distributed import _set_limit


def on_two(folder: Path, work: Callable[[Group], Any]) -> list[Any]:
    """What `work` returns in each of two processes; for an error [class, code, message]."""
    pids = []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            try:
                torch.distributed.init_process_group(
                    "gloo", f"file://{folder}/store", timedelta(seconds=30), rank=rank, world_size=2
                )
                try:
                    made = work(Group.current())
                except BaseException as error:
                    code = error.code if isinstance(error, SystemExit) else exit_code_of(error)
                    made = [type(error).__name__, code, str(error)]
                (folder / f"{rank}.json").write_text(json.dumps(made))
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    files = [folder / f"{rank}.json" for rank in range(2)]
    return [json.loads(file.read_text()) if file.exists() else None for file in files]


def test_votes_and_what_the_first_one_decides(tmp_path: Path) -> None:
    def work(group: Group) -> Any:
        weights = group.first(lambda: {"w": torch.full((2,), 0.1, dtype=torch.float64), "path": Path("a")})
        votes = group.any(group.rank == 1, False)
        return [group.gather(group.rank), votes, weights["w"].tolist(), str(weights["path"]), group.world]

    assert on_two(tmp_path, work) == [[[0, 1], [True, False], [0.1, 0.1], "a", 2]] * 2


def test_errors_are_raised_once_and_end_all(tmp_path: Path) -> None:
    def refuse(error: Exception) -> Any:
        raise error

    for place, work in {
        "first": lambda group: group.first(lambda: refuse(ConfigError("steps=-1: wrong"))),
        "each": lambda group: group.each(lambda: refuse(ConfigError("steps=-1: wrong"))),
    }.items():
        (tmp_path / place).mkdir()
        ended = on_two(tmp_path / place, work)
        assert ended[0] == ["ConfigError", 2, "steps=-1: wrong"]
        assert ended[1][:2] == ["SystemExit", 2]  # says nothing
    second = on_two(tmp_path, lambda group: group.each(lambda: group.rank and refuse(DataError("a.npz: missing"))))
    assert second[0][:2] == ["SystemExit", 3]
    assert second[1][:2] == ["DataError", 3]
    assert second[1][2].startswith("rank 1 on ")
    assert second[1][2].endswith(": a.npz: missing")


@pytest.mark.parametrize("silent", [False, True])
def test_a_process_that_ends_or_is_silent(tmp_path: Path, silent: bool) -> None:
    def work(group: Group) -> Any:
        _set_limit({"timeout": 2})
        group.gather(0)
        if group.rank == 1:
            time.sleep(6 if silent else 0)
            os._exit(0)
        begun = time.monotonic()
        try:
            group.gather(1)
        except RuntimeError as error:
            return [lost(error), timed_out(error), time.monotonic() - begun]
        return None

    found, _ = on_two(tmp_path, work)
    assert found[:2] == [True, silent]
    assert found[2] < 5


def test_alone_nothing_is_sent() -> None:
    assert ALONE.gather(3) == [3]
    assert ALONE.any(True, False) == [True, False]
    assert ALONE.first(lambda: 4) == ALONE.each(lambda: 4) == 4
    with pytest.raises(ZeroDivisionError):
        ALONE.each(lambda: 1 / 0)
    assert not lost(RuntimeError("shape '[2]' is invalid"))


def test_an_error_that_cannot_be_sent_is_put_into_words() -> None:
    class Local(ValueError):
        pass

    assert type(portable(ValueError("a"))) is ValueError
    assert type(portable(Local("b"))) is RuntimeError
    assert str(portable(Local("b"))) == "Local: b"
