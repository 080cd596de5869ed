"""Hydra's composition of the files in conf/, with every error as one line.

Uses Hydra's loader directly, so that a configuration can be composed and refused before Hydra makes folders or logs.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.types import Glob, Override, OverrideType
from hydra.core.utils import JobRuntime
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from metaexp.checks import nearest
from metaexp.config import group_files
from metaexp.config.familiar import hint_choice
from metaexp.config.overrides import forced, one_line, parse
from metaexp.errors import ConfigError
from metaexp.nested import leaves


class Group(NamedTuple):
    """How files are chosen from a folder of conf/.

    Attributes:
        saved: the choice is kept in a run's configuration, where it is compared on resume and shown in reports.
        optional: `null` chooses no file.
        several: a list chooses several files.
    """

    saved: bool = True
    optional: bool = False
    several: bool = False


GROUPS = {
    "algo": Group(),
    "task": Group(),
    "encoder": Group(),
    "model": Group(),
    "device": Group(),
    "optimizer": Group(),
    "kind": Group(saved=False),  # kind of tasks: selects the pair file, whose settings are saved
    "logger": Group(saved=False, optional=True, several=True),
    "callbacks": Group(saved=False, optional=True, several=True),
    "experiment": Group(optional=True, several=True),
}
VERSION_BASE = "1.3"
# Run folders are claimed by metaexp.storage.run_folder; Hydra's own would be shared by runs of the same second.
_FOLDERS = ("hydra.run", "hydra.sweep", "hydra.output_subdir", "hydra.job.chdir")


def config_dir() -> Path:
    """The folder conf/: inside the package in a wheel, beside it in a checkout or an editable install."""
    here = Path(__file__).resolve().parent.parent
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(f"no conf/train.yaml in {here} or beside it: the installation is incomplete, install it again")


class File(NamedTuple):
    """A file used in a composition: where its settings go, its plain content, its text."""

    name: str  # e.g. task/sine
    package: str  # e.g. task; empty: the top level
    content: dict[str, Any]
    text: str

    @property
    def is_pair(self) -> bool:
        """Whether the file holds settings of a method on a kind of tasks or a family."""
        return self.name.startswith("pair/")

    @property
    def is_experiment(self) -> bool:
        """Whether the file describes a row of a published table."""
        return self.name.startswith("experiment/")

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """(dotted key, value) of each of its settings."""
        return leaves({self.package: self.content} if self.package else self.content)


class Composer:
    """Composes `train.yaml` (or another file of conf/) with the user's folders.

    Args:
        extra: the folder given by --config-dir, searched before conf/.
        search_path: `hydra.searchpath=...` as typed, searched after conf/.
        name: the primary file.

    Raises:
        ConfigError: a folder that does not exist.
    """

    def __init__(self, extra: str | None = None, search_path: Sequence[str] = (), name: str = "train"):
        version.setbase(VERSION_BASE)
        runtime = JobRuntime.instance()
        if not runtime.conf.get("name"):
            runtime.set("name", name)
        self.name, self.search_path = name, list(search_path)
        self._files: dict[tuple[str, ...], list[File]] = {}
        group_files.use()
        path = create_config_search_path(str(config_dir()))
        if extra is not None:
            if not os.path.isdir(extra):
                raise ConfigError(f"--config-dir {extra}: no such folder")
            path.prepend("command-line", f"file://{os.path.abspath(extra)}", SearchPathQuery(provider="schema"))
        with one_line():
            self.loader = ConfigLoaderImpl(path)
            self.repository = self.loader._parse_overrides_and_create_caching_repo(name, self.search_path)[1]
        for source in self.repository.get_sources():
            if not source.available():
                raise ConfigError(f"hydra.searchpath: {source.path} does not exist; name a folder, e.g. file://my/conf")

    def options(self, group: str) -> list[str]:
        """The choices of a group, in conf/ and in the user's folders."""
        return self.repository.get_group_options(group)

    def is_group(self, key: str) -> bool:
        """Whether a key names a group of files rather than a setting."""
        return self.repository.group_exists(key)

    def content(self, name: str) -> dict[str, Any]:
        """The unresolved settings of one file, e.g. task/sine."""
        loaded = self.repository.load_config(name)
        content = OmegaConf.to_container(loaded.config, resolve=False) if loaded else None
        return {str(k): v for k, v in content.items() if k != "defaults"} if isinstance(content, dict) else {}

    def text(self, name: str) -> str:
        """The text of one file; empty if it is not in a folder on disk."""
        for source in self.repository.get_sources():
            if source.is_config(name):
                file = Path(source.path) / f"{name}.yaml"
                return file.read_text(encoding="utf-8") if source.scheme() == "file" and file.is_file() else ""
        return ""

    def prepare(self, override: Override) -> Override:
        """An override in the form in which Hydra applies it, after its group, choice or key has been checked.

        Settings get `++`: the schema checks later whether a setting exists, and suggests the nearest name.

        Raises:
            ConfigError: an unknown choice, several values outside a sweep, a setting of Hydra that metaexp controls.
        """
        line, key = str(override.input_line), override.key_or_group
        if key.startswith("hydra.") or key == "hydra":
            _check_hydra(override)
            return override
        if override.is_delete():
            if self.is_group(key):
                raise ConfigError(f"{line}: a group cannot be removed; choose one of {', '.join(self.options(key))}")
            return override
        override = self._listed(override)
        line = str(override.input_line)
        group_or_choice = self.is_group(key) or key in GROUPS  # a group in GROUPS may have no file yet
        if not group_or_choice or (not override.is_sweep_override() and isinstance(override.value(), dict)):
            return forced(override)
        group = GROUPS.get(key, Group(several=True))
        if not override.is_sweep_override() and isinstance(override.value(), list) and not group.several:
            raise ConfigError(f"{line}: choose one of {', '.join(self.options(key))}; several need -m and {key}=a,b")
        if group.optional and group.several and not override.is_sweep_override() and override.value() is None:
            none = f"{key}=[]" if self.is_group(key) else f"++{key}={{}}"  # Hydra takes no null for a group
            return parse([none]).parsed[0]
        values = override.sweep_string_iterator() if override.is_discrete_sweep() else _values(override)
        for value in values:
            self._check_choice(key, value)
        return replace(override, type=OverrideType.CHANGE, input_line=line.lstrip("+")) if key in GROUPS else override

    def _listed(self, override: Override) -> Override:
        """`glob(*)` and `shuffle(...)` as the list that they stand for, drawn once for all that read it."""
        line, key = str(override.input_line), override.key_or_group
        if not override.is_sweep_override() or not override.is_discrete_sweep():
            return override
        value: Any = override.value()
        if isinstance(value, Glob):
            if not self.is_group(key):
                raise ConfigError(f"{line}: only a group has choices that glob can list; write values, {key}=a,b")
            found = value.filter(self.options(key))
            if not found:
                raise ConfigError(f"{line}: matches none of {', '.join(self.options(key))}")
        elif getattr(value, "shuffle", False):
            found = list(override.sweep_string_iterator())
        else:
            return override
        if len(found) == 1:
            return parse([f"{override.get_key_element()}={found[0]}"]).parsed[0]
        return parse([f"{override.get_key_element()}={','.join(found)}"]).parsed[0]

    def _check_choice(self, group: str, value: str | None) -> None:
        options = self.options(group)
        if value in options:
            self._check_one(f"{group}/{value}")
            return
        if value in (None, "null") and group in GROUPS and GROUPS[group].optional:
            return
        shown = "null" if value is None else value
        if known := hint_choice(group, str(shown)):
            raise ConfigError(f"{group}={shown}: no such choice{known}")
        listed = ", ".join(options) or "there is none; add a folder with --config-dir"
        raise ConfigError(f"{group}={shown}: no such choice{nearest(str(shown), options)} (choices: {listed})")

    def _check_one(self, name: str) -> None:
        """Of two files of one name in two folders Hydra would take one without a word."""
        sources = self.repository.get_sources()
        found = [Path(s.path, f"{name}.yaml") for s in sources if s.scheme() == "file" and s.is_config(name)]
        if len({os.path.realpath(file) for file in found}) > 1:
            raise ConfigError(f"{found[1]}: {found[0]} has the same name; rename yours")

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration, with Hydra's own node `hydra` in it. Raises ConfigError."""
        with one_line():
            return self.loader.load_configuration(
                self.name, [*self.kept(overrides), *overrides, *self.search_path], RunMode.RUN, from_shell=False
            )

    def files(self, overrides: Sequence[str]) -> list[File]:
        """The files that this composition reads, in the order in which they are applied (later ones override)."""
        choices = tuple(line for line in overrides if not line.startswith(("++", "hydra.")))
        if choices not in self._files:  # settings choose no files, so the jobs of a sweep share the result
            with one_line():
                lines = [*choices, *self.search_path]
                defaults = self.loader.compute_defaults_list(self.name, lines, RunMode.RUN).defaults
            found = [(d.config_path or "", d.package or "") for d in defaults]
            files = [File(n, p, self.content(n), self.text(n)) for n, p in found if n and not n.startswith("hydra")]
            self._files[choices] = files
        return self._files[choices]

    def kept(self, overrides: Sequence[str]) -> list[str]:
        """Overrides that keep the settings of a task file that builds on another one: a pair file may change the
        settings of a family, but not those of a file on top of it. An experiment may change both."""
        files = self.files(overrides)
        paired = {key for file in files if file.is_pair for key, _ in file.leaves()}
        paired -= {key for file in files if file.is_experiment for key, _ in file.leaves()}
        tasks = [file for file in files if file.name.startswith("task/")]
        own = {key: value for file in tasks[1:] for key, value in file.leaves() if key in paired}
        return [f"++{key}={_written(value)}" for key, value in own.items()]


def _written(value: Any) -> str:
    """A value from a YAML file, written in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(_written(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_written(item)}' for key, item in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)


def _values(override: Override) -> list[str | None]:
    value = override.value()
    items = value if isinstance(value, list) else [value]
    return [None if item is None else str(item) for item in items]


def _check_hydra(override: Override) -> None:
    key, line = override.key_or_group, str(override.input_line)
    if any(key == name or key.startswith(f"{name}.") for name in _FOLDERS):
        raise ConfigError(f"{line}: metaexp makes its folders itself; use out=FOLDER, and name=LABEL for their names")
    if "_target_" in line:
        raise ConfigError(f"{line}: a class cannot be named here; choose hydra/launcher=... or hydra/sweeper=...")
