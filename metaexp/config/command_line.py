"""What all commands of metaexp share: reading arguments, and turning an error into one line and an exit code."""

import argparse
import importlib.metadata
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from hydra._internal.utils import get_args_parser

from metaexp.checks import nearest, printable, shell
from metaexp.config.compose import GROUPS
from metaexp.config.declared import TRAIN
from metaexp.config.familiar import hint
from metaexp.config.overrides import Overrides, parse
from metaexp.errors import ConfigError, Interrupted, MetaexpError
from metaexp.system.output import command_output


def exit_code(body: Callable[[], int | None]) -> int:
    """Call `body` and turn what it raises into the process's exit code, with one line on stderr.

    A MetaexpError prints its line; any other exception is a bug and prints its traceback.
    HYDRA_FULL_ERROR=1 prints all tracebacks. Output that cannot be written is never an error.
    """
    with command_output():
        return _code(body)


def _code(body: Callable[[], int | None]) -> int:
    try:
        return body() or 0
    except (MetaexpError, KeyboardInterrupt) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        complain(str(error) or "interrupted")
        return error.exit_code if isinstance(error, MetaexpError | Interrupted) else 130
    except Exception:
        traceback.print_exc()
        return 1


def complain(message: str) -> None:
    """Print one line on stderr."""
    print(f"metaexp: {printable(_LINES.sub(' ', message.strip()))}", file=sys.stderr, flush=True)


_LINES = re.compile(r"\s*\n\s*")  # other spaces may be those of a file's name


class CommandLine(NamedTuple):
    """What was typed after `python -m metaexp.train`, read once.

    Attributes:
        overrides: the key=value arguments.
        flags: the flags as typed.
        extra: the folder of --config-dir.
        action: the requested action; `show` is --cfg, `hydra` is one that Hydra handles.
        topics: words after --help that are no settings, e.g. all, or a group.
        dry: --dry-run: say what would run, start nothing.
        typed: the whole line as it can be pasted into a shell.
    """

    overrides: Overrides
    flags: list[str]
    extra: str | None
    action: Literal["run", "sweep", "help", "show", "hydra"]
    topics: tuple[str, ...] = ()
    dry: bool = False
    typed: str = ""

    @classmethod
    def parse(cls, argv: Sequence[str]) -> "CommandLine":
        """Read a command line; flags may appear anywhere among the overrides.

        Raises:
            ConfigError: an unknown flag, two commands at once, a flag that metaexp does not support, or an argument
                that is not key=value.
        """
        typed = " ".join([program(), *map(shell, argv)])
        dry, argv = "--dry-run" in argv, [word for word in argv if word != "--dry-run"]
        given = _arguments(argv)
        topics = tuple(word for word in given.overrides if given.help and "=" not in word)
        given.overrides = [word for word in given.overrides if word not in topics]
        rest, flags = list(given.overrides), []
        for word in argv:
            if rest and word == rest[0]:
                rest.pop(0)
            elif word not in topics:
                flags.append(word)
        overrides = parse(given.overrides)
        action: Literal["run", "sweep", "help", "show", "hydra"] = "run"
        if given.help:
            action = "help"
        elif given.hydra_help or given.info or given.shell_completion:
            action = "hydra"
        elif given.multirun or overrides.multirun:
            action = "sweep"
        elif given.cfg:
            action = "show"
        if dry and action not in ("run", "sweep"):
            raise ConfigError("--dry-run: shows what a run or a sweep would do; leave out the other flag")
        return cls(overrides, flags, given.config_dir, action, topics, dry, typed)


def program() -> str:
    """How the command was called: the console script, or the module."""
    return "metaexp train" if os.path.basename(sys.argv[0]) == "metaexp" else "python -m metaexp.train"


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = get_args_parser()
    known = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]

    def refuse(message: str) -> None:
        unknown = re.search(r"unrecognized arguments: (\S+)", message)
        if unknown and (said := _without_dashes(unknown[1], argv)):
            raise ConfigError(f"{unknown[1]}: no such flag{said}")
        raise ConfigError(message + (nearest(unknown[1], known) if unknown else "") + " (see --help)")

    parser.error = refuse  # type: ignore[method-assign,assignment]
    if "--version" in argv:
        print(f"metaexp {_version('metaexp')}, hydra-core {_version('hydra-core')}, torch {_version('torch')}")
        raise SystemExit(0)
    given = parser.parse_intermixed_args(list(argv))
    if given.experimental_rerun or given.config_path or given.config_name:
        raise ConfigError("--config-path, --config-name, --experimental-rerun: not supported; use --config-dir DIR")
    commands = {"--run": given.run, "--cfg": given.cfg, "--multirun": given.multirun}
    commands |= {"--info": given.info, "--shell-completion": given.shell_completion}
    if sum(map(bool, commands.values())) > 1:
        raise ConfigError(f"only one of {', '.join(name for name, typed in commands.items() if typed)} at a time")
    return given


def _without_dashes(flag: str, argv: Sequence[str]) -> str:
    """What to type instead of a flag that is a setting here, or a word from elsewhere: `--lr 0.1`."""
    name, equals, value = flag.partition("=")
    if not equals:
        after = list(argv)[list(argv).index(flag) + 1 :][:1] if flag in argv else []
        value = after[0] if after and not after[0].startswith("-") and "=" not in after[0] else ""
    key = name.lstrip("-").replace("-", "_")
    if key in GROUPS or key in TRAIN or key.partition(".")[0] in (*GROUPS, *TRAIN):
        return f"; settings have no dashes: {key}={value or '...'}"
    return hint(key, value)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
