"""The key=value arguments of a command line, parsed once and passed on."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from metaexp.errors import ConfigError, MetaexpError


class Overrides(NamedTuple):
    """Arguments as Hydra reads them, in the order typed."""

    parsed: tuple[Override, ...]

    @property
    def words(self) -> list[str]:
        """The arguments as text."""
        return [str(override.input_line) for override in self.parsed]

    @property
    def search_path(self) -> list[str]:
        """`hydra.searchpath=...` as typed."""
        return [str(o.input_line) for o in self.parsed if o.key_or_group == "hydra.searchpath"]

    @property
    def hydra(self) -> list[Override]:
        """Hydra's own: hydra.sweeper.params=..., hydra/launcher=..."""
        return [o for o in self.parsed if o.is_hydra_override()]

    @property
    def own(self) -> list[Override]:
        """Groups and settings of metaexp."""
        return [o for o in self.parsed if not o.is_hydra_override()]

    @property
    def fixed(self) -> list[Override]:
        """Those of `own` with a single value."""
        return [o for o in self.own if not o.is_sweep_override()]

    @property
    def sweeps(self) -> list[Override]:
        """Those with several values: seed=0,1."""
        return [o for o in self.parsed if o.is_sweep_override()]

    @property
    def multirun(self) -> bool:
        """Whether `hydra.mode=MULTIRUN` asks for a sweep."""
        return "hydra.mode=MULTIRUN" in self.words


def parse(words: "Sequence[str] | Overrides") -> Overrides:
    """Parse key=value arguments with Hydra's parser (already parsed ones are returned unchanged).

    Raises:
        ConfigError: an argument that cannot be parsed.
    """
    if isinstance(words, Overrides):
        return words
    for line in words:
        if "=" not in line and not line.startswith("~"):
            raise ConfigError(f"{line}: cannot be read as key=value, e.g. algo=maml")
    with one_line():
        return Overrides(tuple(OverridesParser.create().parse_overrides([_quoted(word) for word in words])))


_FILES = ("task.files", "task.file", "task.lists", "task.class_file", "task.groups", "encoder.weights")
_PATHS = ("resume", "from", "start", "out", "cache", *_FILES)  # and every `root` of a data set
_WORD = re.compile(r"[\w.-]+")  # a choice or a name with umlauts, which Hydra's grammar lacks
_NUMBERS = re.compile(r"(?=.*(?:^|,)(?:0(?:,|$)|[1-9]))\d+(,\d+)*", re.ASCII)
_PLAIN = re.compile(r"[\w./:%-]+", re.ASCII)  # what Hydra reads as it is typed


def is_path(key: str) -> bool:
    """Whether the setting with this key names a file or a folder."""
    return key.lstrip("+") in _PATHS or key.endswith(".root")


def _quoted(word: str) -> str:
    """An argument with its path quoted for Hydra: folders have spaces, brackets, quotes, commas and `=` in their names.

    Raises ConfigError for an empty one.
    """
    key, equals, value = word.partition("=")
    name = key.lstrip("+")
    if name == "task.fold" and _NUMBERS.fullmatch(value):  # a fold's name is text; 01 is, but 1 would be a number
        return f"{key}=" + ",".join(f'"{one}"' for one in value.split(","))
    if not equals or not is_path(key):
        return f'{key}="{value}"' if not value.isascii() and _WORD.fullmatch(value) else word
    value = unquoted(value)
    if not value.strip():
        raise ConfigError(f"{word}: empty; name a {'file' if name in _FILES else 'folder'} (this one is .)")
    if _PLAIN.fullmatch(value) or "${" in value or (name in _FILES and value.startswith("[")):
        return f"{key}={value}"
    value = re.sub(r'(\\*)("|$)', lambda end: end[1] * 2 + (end[2] and r"\""), value)  # a backslash would quote a quote
    return f'{key}="{value}"'


def unquoted(text: str) -> str:
    """A value without the quotes around it, if it was typed as Hydra wants it: 'out="a folder"'."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        ends = rf"(\\+)({text[0]}|$)"  # where a backslash has a meaning, it is doubled or stands before a quote
        return re.sub(ends, lambda end: end[1][: len(end[1]) // 2] + end[2], text[1:-1])
    return text


def typed_path(key: str, text: str) -> Path:
    """A path as typed, with `~` as the user's home folder.

    Raises:
        ConfigError: it is empty, or the home folder is not known.
    """
    if not text.strip():
        raise ConfigError(f"{key}=: empty; name a folder (this one is .)")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{key}={text}: no such user; write the folder in full") from error


def forced(override: Override) -> Override:
    """The override of a setting, with `++`: Hydra then sets it whether or not it exists."""
    line = f"++{str(override.input_line).lstrip('+')}"
    return replace(override, type=OverrideType.FORCE_ADD, input_line=line)


@contextmanager
def one_line() -> Iterator[None]:
    """Turns errors of Hydra, OmegaConf and YAML into a one-line ConfigError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MetaexpError:
        raise
    except OverrideParseException as error:
        reason = _line(error).partition("; See ")[0]
        if reason.startswith("LexerNoViableAlt"):
            reason = """a value with special characters needs quotes inside quotes: 'key="a value"'"""
        raise ConfigError(f"{error.override}: cannot be read as key=value ({reason})") from error
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
        detail = f" ({_line(cause)})" if cause and str(cause) != str(error) else ""
        raise ConfigError(_line(error) + detail) from error


def _line(error: BaseException) -> str:
    # Hydra's advice to force an unknown key with a + is left out: it would make a setting without effect.
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("To append")]
    return "; ".join(lines)
