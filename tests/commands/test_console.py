"""The console script: the overview, each command's arguments and exit code, and what is answered to a mistake."""

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT

from metaexp.commands import board, console
from metaexp.commands.board_view import BoardView


def test_the_script_is_installed_by_this_name() -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        assert tomllib.load(file)["project"]["scripts"] == {"metaexp": "metaexp.commands.console:main"}


def test_without_arguments_it_says_what_can_be_done_and_imports_nothing() -> None:
    code = "import sys; from metaexp.commands.console import console; "
    code += "print(console([]), *({'torch', 'hydra'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0"
    for name, command in console.COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert command.example in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["trian"], "metaexp: trian: no such command; did you mean train?"),
        (["evalute", "run=x"], "metaexp: evalute: no such command; did you mean evaluate?"),
        (["xyzzy"], "metaexp: xyzzy: no such command; there are train, evaluate, adapt, "),
        (["algo=maml", "out=my runs"], "name a command first, e.g. metaexp train algo=maml 'out=my runs'"),
        (["train", "algo=mamml"], "metaexp: algo=mamml: no such choice; did you mean maml?"),
        (["evaluate", "runn=x"], "metaexp: run=FOLDER: must be given"),
        (["report", "--metrics", "x"], "metaexp: unrecognized arguments: --metrics"),
        (["audit", "-m", "seed=1,2"], "metaexp: audit: one pair at a time"),
        (["board", "nowhere"], "metaexp: nowhere: no such folder; train first, e.g. metaexp train algo=reptile"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert console.console(argv) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert (said.err.count("\n"), said.out) == (1, "")


def test_every_command_exists_and_gets_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, command in console.COMMANDS.items():
        if name in ("adapt", "demo"):
            continue
        module, _, function = command.place.partition(":")
        seen: list[list[str]] = []
        monkeypatch.setattr(import_module(module), function, lambda argv, seen=seen: seen.append(list(argv)) or 5)
        assert console.console([name, "a=1", "--flag"]) == 5
        assert seen == [["a=1", "--flag"]]


def test_board_is_tensorboard_on_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    tensorboard = [sys.executable, "-m", "tensorboard.main"]
    assert board.folder_of([]) == (Path("outputs"), [])
    assert board.folder_of(["--bind_all"]) == (Path("outputs"), ["--bind_all"])
    assert board.folder_of([str(tmp_path), "--port=7000"]) == (tmp_path, ["--port=7000"])
    assert board.folder_of(["--logdir", "x"]) == (None, ["--logdir", "x"])
    kept: list[BoardView] = []
    monkeypatch.setattr(board, "_keep", kept.append)
    monkeypatch.setattr(board.os, "execv", _raise)
    for port in (["--port", "7000"], ["--port=7000"]):
        with pytest.raises(_Called) as called:
            board.board(["outputs", *port, "--bind_all"])
        words = [*tensorboard, "--logdir", str(kept[-1].path), "--port", "7000", "--reload_multifile", "true"]
        assert called.value.args[0] == [*words, "--bind_all"]
    with pytest.raises(_Called) as called:
        board.board(["--logdir", "x"])
    assert called.value.args[0] == [*tensorboard, "--logdir", "x"]
    for view in kept:
        view.remove()
        assert not view.path.exists()


class _Called(Exception):
    """Instead of another program."""


def _raise(_program: str, words: list[str]) -> None:
    raise _Called(words)
