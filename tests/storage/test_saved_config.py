"""The saved configuration: data or refused, hashed, compared."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_folders import CONFIG, files

from metaexp.errors import CheckpointError
from metaexp.storage.run_folder import RunFolder
from metaexp.storage.saved_config import config_sha256, differences, read_config


def test_config_round_trip(run: RunFolder) -> None:
    shared = [1, 2]
    config = CONFIG | {"lr": 1e-5, "none": None, "word": "1e-3", "yes": "no", "a": shared, "b": shared, "ä": "ö: #"}
    run.write_config(config)
    assert read_config(run.path) == config
    assert "&" not in (run.path / "config.yaml").read_text()
    with pytest.raises(yaml.YAMLError):
        run.write_config({"x": object()})
    assert read_config(run.path) == config


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: ${oc.env:HOME}", "a holds an interpolation"),
        ("a: {b: [1, 'x${c}']}", r"a\.b holds an interpolation"),
        ("${x}: 1", "holds an interpolation"),
        ("a: !!python/object/apply:os.system ['touch MARK']", "damaged, not YAML"),
        ("a: &x [1]\nb: *x", "aliases are refused"),
        ("a: [1", "damaged, not YAML"),
        ("a: 2020-99-99", "damaged, not YAML"),
        ("\x00", "damaged, not YAML"),
        ("just words", "damaged, holds no configuration"),
        ("", "damaged, holds no configuration"),
    ],
)
def test_a_strangers_config_is_data_or_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=why) as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == ["config.yaml"]


def test_missing_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_config(tmp_path)


def test_hash_sees_what_is_learned_and_nothing_else() -> None:
    sha = config_sha256(CONFIG)
    assert re.fullmatch("[0-9a-f]{64}", sha)
    same: list[dict[str, Any]] = [
        dict(reversed(CONFIG.items())),
        CONFIG | {"steps": 99, "out": "x", "device": {"threads": 2, "devices": 4}, "resume": "auto", "time_limit": 5},
        CONFIG | {"seed": 0.0},
    ]
    other: list[dict[str, Any]] = [
        CONFIG | {"seed": 1},
        CONFIG | {"seed": False},
        CONFIG | {"seed": "0"},
        CONFIG | {"algo": {"inner_lr": 0.01, "steps": 6}},  # a method's own `steps` is no free choice
        CONFIG | {"extra": None},
    ]
    assert [config_sha256(config) for config in same] == [sha] * 3
    assert len({config_sha256(config) for config in other} | {sha}) == 6
    assert all(not differences(CONFIG, config) for config in same)


def test_differences_are_named() -> None:
    now = {"seed": 0, "steps": 99, "algo": {"inner_lr": 9, "name": "x"}}
    assert differences(CONFIG, now) == [
        ("algo.inner_lr", 0.01, 9),
        ("algo.steps", 5, "(not set)"),
        ("algo.name", "(not set)", "x"),
    ]
    assert differences(CONFIG, {"steps": 1, "algo": {"inner_lr": 9}}, partial=True) == [("algo.inner_lr", 0.01, 9)]


def test_the_command_is_a_text_and_may_hold_what_the_shell_was_given(tmp_path: Path) -> None:
    """optimizer.schedule={...,steps:${steps}} as it was typed: nothing resolves it, and the run can be read."""
    (tmp_path / "config.yaml").write_text("command: 'train steps=3 x=${steps}'\nsteps: 3\n")
    assert read_config(tmp_path)["command"] == "train steps=3 x=${steps}"
    (tmp_path / "config.yaml").write_text("command: {x: '${steps}'}\n")
    with pytest.raises(CheckpointError, match=r"command\.x holds an interpolation"):
        read_config(tmp_path)
