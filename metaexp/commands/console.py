"""The console script `metaexp`: `metaexp train ...` is `python -m metaexp.train ...`, and so on for every command.

Nothing but the chosen command is imported: torch, Lightning and Hydra take seconds.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from metaexp.checks import nearest


class Command(NamedTuple):
    """One of the commands: the function that runs its arguments, what it does, how it is typed."""

    place: str  # "module:function"; it takes the arguments and returns the exit code, None for 0
    does: str
    example: str


COMMANDS = {
    "train": Command("metaexp.train:alone", "train, test, write the result", "metaexp train algo=reptile task=sine"),
    "evaluate": Command(
        "metaexp.evaluate:evaluate", "test a trained run again", "metaexp evaluate run=outputs/RUN task.shots=5"
    ),
    "adapt": Command(
        "metaexp.adapt.__main__:main",
        "learn a new task from your own file",
        "metaexp adapt run=outputs/RUN support=my.csv query=new.csv",
    ),
    "report": Command("metaexp.report.command:report", "compare all runs in one table", "metaexp report outputs"),
    "audit": Command(
        "metaexp.audit.command:run", "check for leaks and wrong meta-gradients", "metaexp audit algo=maml task=sine"
    ),
    "board": Command("metaexp.commands.board:board", "open TensorBoard", "metaexp board outputs"),
    "demo": Command("metaexp.commands.demo:demo", "watch a trained run learn, in seconds", "metaexp demo"),
    "completion": Command(
        "metaexp.commands.completion:completion", "tab completion", 'eval "$(metaexp completion bash)"'
    ),
}


def main() -> None:
    """The console script; exits with the codes of metaexp.errors."""
    sys.exit(console(sys.argv[1:]))


def console(argv: Sequence[str]) -> int:
    """Run a command line; returns the exit code. Prints the one line of what a user did wrong."""
    command, *rest = argv or ["--help"]
    if command == "help" and rest:
        command, rest = rest[0], ["--help"]
    if command in ("--help", "-h", "help"):
        return _print(overview())
    if command == "--version":
        command, rest = "train", ["--version"]
    if command not in COMMANDS:
        print(f"metaexp: {_unknown(command, rest)}", file=sys.stderr)
        return 2
    if command == "completion":  # asked at every press of the key; what it prints is read by the shell
        return int(_function(COMMANDS[command].place)(rest) or 0)
    from metaexp.config.command_line import exit_code

    return exit_code(lambda: _function(COMMANDS[command].place)(rest))


def overview() -> str:
    """What can be done, one line each with an example."""
    wide = max(map(len, COMMANDS))
    lines = [
        "metaexp: meta-learning experiments",
        "usage: metaexp COMMAND [ARGUMENTS]   (metaexp COMMAND --help says more)",
        "",
    ]
    for name, command in COMMANDS.items():
        lines += [f"  {name:{wide}}  {command.does}", f"  {'':{wide}}    {command.example}"]
    return "\n".join(lines) + "\n"


def _function(place: str) -> Callable[[Sequence[str]], int | None]:
    from metaexp.errors import ConfigError

    module, _, name = place.partition(":")
    try:
        found: Callable[[Sequence[str]], int | None] = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ConfigError(f"{module}: not part of this installation; install metaexp again") from None
    return found


def _unknown(command: str, rest: Sequence[str]) -> str:
    from metaexp.checks import printable, shell

    if "=" in command or command.startswith(("-m", "--config-dir", "--cfg")):
        words = " ".join(map(shell, ["metaexp", "train", command, *rest]))
        return f"{printable(command)}: name a command first, e.g. {words}"
    hint = nearest(command, COMMANDS) or f"; there are {', '.join(COMMANDS)}"
    return f"{printable(command)}: no such command{hint}"


def _print(text: str) -> int:
    from metaexp.system.output import command_output

    with command_output():
        print(text, end="")
    return 0


if __name__ == "__main__":
    main()
