"""`python -m metaexp.train`: train, test, write the result; with -m, a sweep. See --help."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# torch and lightning are imported only after the configuration has been checked: a typo is reported at once.
from metaexp.config.command_line import CommandLine, complain, exit_code
from metaexp.config.help import help_text
from metaexp.config.seeds import with_seeds
from metaexp.config.settings import Settings
from metaexp.errors import ConfigError
from metaexp.storage.lock import is_child_of_holder
from metaexp.storage.saved_config import dump_yaml
from metaexp.system.lean import pause_collector
from metaexp.system.ranks import one_process


def main() -> None:
    """The command; exits with the codes of metaexp.errors."""
    sys.exit(exit_code(lambda: alone(sys.argv[1:])))


def alone(argv: Sequence[str]) -> int | None:
    """`train` for a process that does nothing else and then ends."""
    return train(argv, own_process=True)


def train(argv: Sequence[str], own_process: bool = False) -> int | None:
    """Run a command line; returns the exit code, None for 0. Raises whatever the run raises.

    Args:
        argv: the command line.
        own_process: this process makes the run alone and then ends.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # the user's own classes, also when started as a console script
    folder = os.environ.get("METAEXP_RUN_DIR")
    if folder and os.environ.get("LOCAL_RANK", "0") != "0" and is_child_of_holder(Path(folder)):
        _join(Path(folder))
        return None
    line = with_seeds(CommandLine.parse(argv))
    if line.action == "help":
        print(help_text(line), end="")
        return None
    if line.action == "hydra":
        return _hydra([*line.flags, *line.overrides.words])
    settings = Settings(line.overrides, line.extra)
    if line.action == "sweep":
        return _sweep(settings, line)
    config, hydra = settings.load_all(line.overrides)
    config["command"] = line.typed
    if line.action == "show":
        prepared = settings.prepare(line.overrides)
        return _hydra([*line.flags, *settings.composer.kept(prepared.words), *prepared.words])
    if hydra.mode is not None and hydra.mode.name == "MULTIRUN":  # an experiment file may ask for a sweep
        return _sweep(settings, line)
    if line.dry:
        _show(config)
        return None
    if "jobs" in config["typed"]:
        raise ConfigError(f"jobs={config['jobs']}: only a sweep has several jobs; add -m")
    if own_process:
        pause_collector()
    from metaexp.run.single import run

    run(config)
    return None


def _sweep(settings: Settings, line: CommandLine) -> int:
    one_process("a sweep (-m)")
    from metaexp.run.sweep import sweep

    return sweep(settings, line.overrides, line.extra, line.typed, line.dry)


def _show(config: dict[str, Any]) -> None:
    """The composed settings of one run, once it is known that its parts can be made."""
    from metaexp.run.parent import parts  # torch is imported here

    parts(config)
    shown = {key: value for key, value in config.items() if key not in ("typed", "trusted", "command")}
    print(dump_yaml(shown), end="")
    complain("--dry-run: these settings are valid; nothing was started")


def _hydra(argv: Sequence[str]) -> int | None:
    from metaexp.run.sweep import call_hydra

    return call_hydra(argv)


def _join(folder: Path) -> None:
    # Another process of a distributed run, started by the first with the same command line: same settings.
    from metaexp.run.single import run
    from metaexp.storage.saved_config import read_config

    run(read_config(folder), folder)


if __name__ == "__main__":
    main()
