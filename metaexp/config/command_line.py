"""What every command of metaexp shares: arguments, help, and how an error becomes one line and an exit code."""

import argparse
import importlib.metadata
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence

from hydra._internal.utils import get_args_parser

from metaexp.checks import nearest
from metaexp.config.compose import GROUPS, Composer, parse
from metaexp.errors import ConfigError, Interrupted, MetaexpError

_FLAGS = """
Flags:
  -m, --multirun    run every combination of comma-separated values: seed=0,1,2 algo=maml,reptile
  --config-dir DIR  your own folder of groups, e.g. DIR/algo/mine.yaml for algo=mine
  --cfg job         print the composed settings and stop
  --help, --hydra-help, --version, --info, --shell-completion
"""


def exit_code(body: Callable[[], int | None]) -> int:
    """Call `body` and turn what it raises into the process's exit code, with one line on stderr.

    A MetaexpError prints its line; anything else is a fault of the program and prints its traceback.
    HYDRA_FULL_ERROR=1 prints all tracebacks.
    """
    try:
        return body() or 0
    except (MetaexpError, KeyboardInterrupt) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        complain(str(error) or "interrupted")
        return error.exit_code if isinstance(error, MetaexpError | Interrupted) else 130
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:
        traceback.print_exc()
        return 1


def complain(message: str) -> None:
    """One line on stderr."""
    print(f"metaexp: {' '.join(message.split())}", file=sys.stderr, flush=True)


class Arguments(argparse.Namespace):
    """Hydra's flags and the overrides; `flags` are the flags as typed, without the overrides."""

    overrides: list[str]
    flags: list[str]
    config_dir: str | None
    cfg: str | None
    info: str | None
    help: bool
    multirun: bool
    run: bool
    hydra_help: bool
    shell_completion: bool


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Read a command line; flags may stand anywhere among the overrides.

    Raises:
        ConfigError: an unknown flag, two commands at once, or a flag that this program does not take.
    """
    parser = get_args_parser()
    known = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]

    def refuse(message: str) -> None:
        unknown = re.search(r"unrecognized arguments: (\S+)", message)
        raise ConfigError(message + (nearest(unknown[1], known) if unknown else "") + " (see --help)")

    parser.error = refuse  # type: ignore[method-assign,assignment]
    if "--version" in argv:
        print(f"metaexp {_version('metaexp')}, hydra-core {_version('hydra-core')}, torch {_version('torch')}")
        raise SystemExit(0)
    arguments = parser.parse_intermixed_args(list(argv), namespace=Arguments())
    if arguments.experimental_rerun or arguments.config_path or arguments.config_name:
        raise ConfigError("--config-path, --config-name and --experimental-rerun are not taken; use --config-dir DIR")
    commands = {"--run": arguments.run, "--cfg": arguments.cfg, "--multirun": arguments.multirun}
    commands |= {"--info": arguments.info, "--shell-completion": arguments.shell_completion}
    if sum(map(bool, commands.values())) > 1:
        raise ConfigError(f"only one of {', '.join(name for name, given in commands.items() if given)} at a time")
    rest, flags = list(arguments.overrides), []
    for word in argv:
        if rest and word == rest[0]:
            rest.pop(0)
        else:
            flags.append(word)
    arguments.flags = flags
    arguments.overrides = [_quoted(word) for word in arguments.overrides]
    return arguments


def _quoted(override: str) -> str:
    """Quotes a path that Hydra would not read: the folders of sweeps and the checkpoints have `=` in their names."""
    key, _, value = override.partition("=")
    path = key in ("resume", "out", "task.root") and re.fullmatch(r"[^\"'\[\]{}]*[ =][^\"'\[\]{}]*", value)
    return f'{key}="{value}"' if path else override


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def help_text(command: str, overrides: Sequence[str] = (), extra: str | None = None) -> str:
    """Usage, the everyday settings with their comments, and every choice of every group with one line."""
    search = [str(o.input_line) for o in parse(overrides) if o.key_or_group == "hydra.searchpath"]
    composer = Composer(extra, search)
    lines = [f"usage: python -m {command} [GROUP=CHOICE ...] [KEY=VALUE ...] [flags]", ""]
    lines += ["Settings (settings of a group are written GROUP.KEY=VALUE; see them with --cfg job):"]
    lines += [f"  {line}".rstrip() for line in _settings_text(composer.text(composer.name))]
    for group in GROUPS:
        options = composer.options(group)
        width = max((len(option) for option in options), default=0)
        lines += ["", f"{group}="]
        lines += [f"  {option:{width}}  {_first_comment(composer.text(f'{group}/{option}'))}" for option in options]
    return "\n".join(lines) + "\n" + _FLAGS


def _settings_text(text: str) -> list[str]:
    lines = text.splitlines()
    start = next((n for n, line in enumerate(lines) if re.match(r"\w", line) and not line.startswith("defaults")), 0)
    return lines[start:]


def _first_comment(text: str) -> str:
    comments = (line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    return next((comment for comment in comments if comment and not comment.startswith("@package")), "")
