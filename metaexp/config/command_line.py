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

from metaexp.checks import nearest, printable
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
    """

    overrides: Overrides
    flags: list[str]
    extra: str | None
    action: Literal["run", "sweep", "help", "show", "hydra"]

    @classmethod
    def parse(cls, argv: Sequence[str]) -> "CommandLine":
        """Read a command line; flags may appear anywhere among the overrides.

        Raises:
            ConfigError: an unknown flag, two commands at once, a flag that metaexp does not support, or an argument
                that is not key=value.
        """
        given = _arguments(argv)
        rest, flags = list(given.overrides), []
        for word in argv:
            if rest and word == rest[0]:
                rest.pop(0)
            else:
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
        return cls(overrides, flags, given.config_dir, action)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = get_args_parser()
    known = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]

    def refuse(message: str) -> None:
        unknown = re.search(r"unrecognized arguments: (\S+)", message)
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


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
