"""The list of runs of learned policies: chains, shared beginnings, and settings that compose."""

import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import rl2

from metaexp.config.settings import load


def listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> list[list[str]]:
    """The commands, as lists of words."""
    monkeypatch.setattr(sys, "argv", ["rl2.py", "folder", "--list", *words])
    assert rl2.main() == 0
    return [line.split()[3:] for line in capsys.readouterr().out.splitlines()]


def test_rows_that_begin_alike_share_their_first_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = listed(monkeypatch, capsys, "--rows", "mdp-10,mdp-25,bandit-500-5", "--seeds", "3")
    chain = [
        tuple(word.removeprefix("name=").removeprefix("start=folder/RUN_") for word in command
              if word.startswith(("name=", "start=")))
        for command in commands
    ]  # fmt: skip
    assert chain == [
        ("mdp-10-s3-1",),
        ("mdp-10-s3-1", "mdp-10-s3"),
        ("mdp-10-s3-1", "mdp-25-s3"),
        ("bandit-100-5-s3-1",),
        ("bandit-100-5-s3-1", "bandit-500-5-s3"),
    ]


def test_every_first_command_composes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    firsts = [c for c in listed(monkeypatch, capsys) if not any(word.startswith("start=") for word in c)]
    assert len(firsts) == len(rl2.ROWS) - 2  # two rows begin with another row's first run
    for command in firsts:
        settings = load(command)
        assert settings["steps"] == int(dict(word.split("=", 1) for word in command)["steps"])
