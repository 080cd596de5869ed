"""Group files that are no settings: one line that names the file."""

from pathlib import Path

import pytest
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins

from metaexp.config import group_files
from metaexp.config.settings import Settings, load
from metaexp.errors import ConfigError

GOOD = "# Mine\ndefaults:\n  - sine\nshots: 3\n"
FAULTS: dict[str, tuple[bytes, str]] = {
    "byte order mark": (b"\xef\xbb\xbf" + GOOD.encode(), "begins with a byte order mark; save it as UTF-8 without one"),
    "utf-16": (GOOD.encode("utf-16"), "begins with a byte order mark"),
    "latin-1": ("# Größe\nshots: 3\n".encode("latin-1"), ", line 1: not UTF-8 text (latin-1?); save it as UTF-8"),
    "latin-1 below": (b"shots: 3\nname: \xe4\n", ", line 2: not UTF-8 text"),
    "list": (b"- shots\n- queries\n", ": holds a list; it must hold settings, name: value"),
    "a word": (b"shots\n", "settings, name: value"),
    "number": (b"3\n", "settings, name: value"),
    "empty": (b"", ": empty; it must hold settings, name: value"),
    "comments only": (b"# shots: 3\n\n", ": empty; it must hold"),
    "tabs": (b"test:\n\tshots: 3\n", ", line 2: not YAML"),
    "twice": (b"shots: 3\nshots: 4\n", ", line 2: not YAML"),
    "unclosed": (b"test: {shots: 3\n", "not YAML"),
    "zeros": (bytes(8), "settings"),
    "control character": (b"shots: 3 \x07\n", "settings, name: value"),
    "an alias of nothing": (b"shots: *three\n", ", line 1: not YAML"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every fault as a task and as an experiment."""
    made = tmp_path_factory.mktemp("groups")
    for group in ("task", "experiment"):
        (made / group).mkdir()
        for fault, (content, _) in FAULTS.items():
            (made / group / f"{fault.replace(' ', '_')}.yaml").write_bytes(content)
    return made


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    return Settings([], str(folder))


@pytest.mark.parametrize("group", ["task", "experiment"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_holds_no_settings_is_named(settings: Settings, folder: Path, group: str, fault: str) -> None:
    name = fault.replace(" ", "_")
    with pytest.raises(ConfigError) as found:
        settings.load([f"{group}={name}", "steps=3"])
    assert str(found.value).startswith(str(folder / group / f"{name}.yaml"))
    assert FAULTS[fault][1] in str(found.value)
    assert "\n" not in str(found.value)


def test_a_file_that_is_not_chosen_does_no_harm(settings: Settings, folder: Path) -> None:
    assert settings.load(["steps=3"])["steps"] == 3
    with pytest.raises(ConfigError, match=r"task/latin-1\.yaml, line 1: not UTF-8"):
        load([f"hydra.searchpath=[file://{folder}]", "task=latin-1"])


def test_a_base_file_is_named_as_well(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task/mine.yaml").write_text("defaults:\n  - base\nshots: 3\n")
    (tmp_path / "task/base.yaml").write_bytes(b"- 1\n")
    with pytest.raises(ConfigError, match=r"base\.yaml: holds a list"):
        load(["task=mine"], str(tmp_path))


def test_an_umlaut_in_utf_8_is_welcome(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task/größe.yaml").write_text(GOOD.replace("Mine", "Größe ä"), encoding="utf-8")
    assert load(["task=größe"], str(tmp_path))["task"]["shots"] == 3


def test_hydras_readers_can_be_registered_again_as_launchers_do() -> None:
    group_files.use()
    Plugins.instance()._register(FileConfigSource)
    assert SourcesRegistry.instance().resolve("file") is group_files.GroupFiles


def test_two_files_of_one_name_are_not_taken_for_one_another(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task/sine.yaml").write_text(GOOD)
    with pytest.raises(
        ConfigError, match=rf"^{tmp_path}/task/sine\.yaml: .*conf/task/sine\.yaml has the same name; ren"
    ):
        load(["task=sine"], str(tmp_path))
    assert load(["task=linear"], str(tmp_path))["choices"]["task"] == "linear"
