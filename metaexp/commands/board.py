"""`metaexp board [FOLDER] [ARGUMENTS]`: TensorBoard on a folder of runs, `outputs` if none is given."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from metaexp.checks import shell
from metaexp.config.overrides import typed_path
from metaexp.errors import ConfigError

HELP = """usage: metaexp board [FOLDER] [--port 6007 ...]

Starts TensorBoard on FOLDER, a run's folder or a folder of runs; without it on
outputs. Further arguments are TensorBoard's: --port, --bind_all, ...
"""


def board(argv: Sequence[str]) -> int:
    """Replaces this process by TensorBoard, which then gets its signals and gives the exit code.

    Raises ConfigError if the folder does not exist.
    """
    if argv and argv[0] in ("--help", "-h"):
        print(HELP, end="")
        return 0
    os.execv(sys.executable, command(argv))


def command(argv: Sequence[str]) -> list[str]:
    """The command line of TensorBoard for these arguments; raises as `board`."""
    rest = list(argv)
    if any(word.split("=")[0] in ("--logdir", "--logdir_spec") for word in rest):
        return [sys.executable, "-m", "tensorboard.main", *rest]
    given = rest.pop(0) if rest and not rest[0].startswith("-") else None
    folder = typed_path("FOLDER", "outputs" if given is None else given)
    if not folder.is_dir():
        first = "" if Path("outputs").is_dir() else "; train first, e.g. metaexp train algo=reptile task=sine"
        raise ConfigError(f"{folder}: no such folder{first or '; name the folder of your runs'}")
    if others := [word for word in rest if Path(word).is_dir()]:
        raise ConfigError(f"{others[0]}: one folder only; name the one around both, like {shell(str(folder.parent))}")
    return [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), *rest]
