"""`metaexp board [FOLDER] [ARGUMENTS]`: TensorBoard on a folder of runs, `outputs` if none is given."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from metaexp.checks import printable, shell
from metaexp.commands.board_view import BoardView
from metaexp.config.overrides import typed_path
from metaexp.errors import ConfigError

HELP = """usage: metaexp board [FOLDER] [--port 6007 ...]

Starts TensorBoard on FOLDER, a run's folder or a folder of runs; without it on
outputs. There a run is one row, named by method, task and settings, and the
baselines of a task are rows, too. The runs themselves stay as they are.
Further arguments are TensorBoard's: --port, --bind_all, ...
With --logdir FOLDER the rows are the folders as they lie there.
"""
PORTS = range(6006, 6106)
SECONDS = 5.0  # between looks for new runs: TensorBoard's own interval


def board(argv: Sequence[str]) -> int:
    """Replaces this process by TensorBoard, which then gets its signals and gives the exit code.

    Raises ConfigError if the folder does not exist.
    """
    if argv and argv[0] in ("--help", "-h"):
        print(HELP, end="")
        return 0
    folder, rest = folder_of(argv)
    if folder is None:
        os.execv(sys.executable, [sys.executable, "-m", "tensorboard.main", *rest])
    view = BoardView(folder)
    view.update()
    port, rest = _port(rest)
    print(f"validation and test on top: http://localhost:{port}/{pins(view.metrics)}#timeseries", flush=True)
    _keep(view)
    os.execv(sys.executable, command(view.path, port, rest))


def folder_of(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The folder of runs (None: the arguments name TensorBoard's own), and TensorBoard's arguments.

    Raises ConfigError if the folder does not exist, or if there are two.
    """
    rest = list(argv)
    if any(word.split("=")[0] in ("--logdir", "--logdir_spec") for word in rest):
        return None, rest
    given = rest.pop(0) if rest and not rest[0].startswith("-") else None
    folder = typed_path("FOLDER", "outputs" if given is None else given)
    if not folder.is_dir():
        first = "" if Path("outputs").is_dir() else "; train first, e.g. metaexp train algo=reptile task=sine"
        raise ConfigError(f"{folder}: no such folder{first or '; name the folder of your runs'}")
    if others := [word for word in rest if Path(word).is_dir()]:
        raise ConfigError(f"{others[0]}: one folder only; name the one around both, like {shell(str(folder.parent))}")
    return folder, rest


def command(view: Path, port: str, rest: Sequence[str]) -> list[str]:
    """The command line of TensorBoard on a folder in which one run may have several event files."""
    several = [] if any(word.startswith("--reload_multifile") for word in rest) else ["--reload_multifile", "true"]
    return [sys.executable, "-m", "tensorboard.main", "--logdir", str(view), "--port", port, *several, *rest]


def pins(metrics: Sequence[str]) -> str:
    """The part of an address that pins the charts of these metrics, validation and test, above all others."""
    tags = [tag for metric in metrics[:3] for tag in (f"val/{metric}/after", f"test/{metric}")]
    cards = json.dumps([{"plugin": "scalars", "tag": tag} for tag in tags], separators=(",", ":"))
    return f"?pinnedCards={quote(cards, safe=':,/')}" if tags else ""


def _port(rest: list[str]) -> tuple[str, list[str]]:
    """The port that was typed, or the first free one; and the other arguments."""
    for place, word in enumerate(rest):
        if word.startswith("--port="):
            return word.removeprefix("--port="), rest[:place] + rest[place + 1 :]
        if word == "--port" and place + 1 < len(rest):
            return rest[place + 1], rest[:place] + rest[place + 2 :]
    for port in PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("localhost", port))
            return str(port), rest
    return str(PORTS[0]), rest


def _keep(view: BoardView) -> None:
    """Starts a process that keeps the view up to date as long as this one lives, then removes it."""
    parent = os.getpid()
    if os.fork() > 0:
        return
    try:
        for number in (signal.SIGINT, signal.SIGTERM):  # they are for TensorBoard, which ends; then this process does
            signal.signal(number, signal.SIG_IGN)
        due = time.monotonic() + SECONDS
        while os.getppid() == parent:
            time.sleep(0.5)
            if time.monotonic() > due:
                try:
                    view.update()
                except Exception as error:
                    print(printable(f"warning: the board stops looking for new runs: {error}"), file=sys.stderr)
                    due = float("inf")
                else:
                    due = time.monotonic() + SECONDS
    finally:
        view.remove()
        os._exit(0)
