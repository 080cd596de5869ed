"""Hydra's reader of YAML files in folders, with every fault of a file as one line that names the file."""

import codecs
import copy
import os
from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from metaexp.errors import ConfigError

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


_READ: dict[tuple[object, ...], ConfigResult] = {}  # parsing takes a third of a composition, and a sweep makes many


class GroupFiles(FileConfigSource):
    """A folder of group files. Reading one raises ConfigError for a file that holds no settings."""

    def load_config(self, config_path: str) -> ConfigResult:
        """See Hydra's class. A file that has not changed is parsed once in a process."""
        file = Path(self.path) / self._normalize_file_name(config_path)
        try:
            about = file.stat()
        except OSError:
            return self._read(config_path, file)
        known = (self.provider, str(file.absolute()), about.st_ino, about.st_size, about.st_mtime_ns)
        if known not in _READ:
            _READ[known] = self._read(config_path, file)
        return copy.deepcopy(_READ[known])  # Hydra changes what it gets

    def _read(self, config_path: str, file: Path) -> ConfigResult:
        if file.is_file():
            check_text(file, may_be_empty=config_path.startswith(("kind/", "encoder/")))
        try:
            result = super().load_config(config_path)
        except MarkedYAMLError as error:
            mark = error.problem_mark
            place = "" if mark is None else f", line {mark.line + 1}"
            tabs = "; indent with spaces, not tabs" if mark is not None and "\\t" in str(error.problem) else ""
            raise ConfigError(f"{file}{place}: not YAML ({error.problem}){tabs}") from error
        except (YAMLError, OmegaConfBaseException, OSError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"{file}: cannot be read as settings, name: value ({reason})") from error
        if not isinstance(result.config, DictConfig):
            raise ConfigError(f"{file}: holds a list; it must hold settings, name: value")
        if len(result.config) == 1 and ":" not in file.read_text(encoding="utf-8"):
            raise ConfigError(f"{file}: holds a word; it must hold settings, name: value")  # read as a key of no value
        return result


# Launchers register Hydra's own readers again beside this one, which Hydra refuses if the name differs.
GroupFiles.__name__ = FileConfigSource.__name__


def check_text(file: Path, may_be_empty: bool = False) -> None:
    """Raises ConfigError for a file that is not text in UTF-8, or that holds nothing but comments."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({os.strerror(error.errno or 0)})") from error
    if data.startswith((codecs.BOM_UTF8, *_UTF16)):
        raise ConfigError(f"{file}: begins with a byte order mark; save it as UTF-8 without one")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}, line {line}: not UTF-8 text (latin-1?); save it as UTF-8") from error
    lines = (line.strip() for line in text.splitlines())
    if not may_be_empty and not any(line and not line.startswith("#") for line in lines):
        raise ConfigError(f"{file}: empty; it must hold settings, name: value")


def use() -> None:
    """Makes Hydra read folders by this class."""
    Plugins.instance()  # registers Hydra's own readers first, and only once
    SourcesRegistry.instance().types[GroupFiles.scheme()] = GroupFiles
