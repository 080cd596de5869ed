"""A real shell on a pseudo-terminal, in which a test types and presses Tab."""

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

END = "<end>"


class Shell:
    """`shell.tab("metaexp train al")` is the line as the shell completes it.

    Args:
        command: the interactive shell.
        start: lines that it runs first.
        folder: its working folder.
        environment: its environment.
    """

    def __init__(self, command: Sequence[str], start: Sequence[str], folder: Path, environment: dict[str, str]):
        ours, theirs = pty.openpty()
        self.terminal = ours
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment, start_new_session=True
        )
        os.close(theirs)
        for line in start:
            os.write(ours, f"{line}\n".encode())
        self.run("true")

    def tab(self, line: str) -> str:
        """The line after Tab was pressed at its end, its words parted by one space."""
        # Ctrl-A puts the cursor at the beginning of the line, which is thereby printed and not run.
        said = self.run(f"{line}\t\x01printf '[%s]' \x05")
        return " ".join(re.findall(r"\[([^\[\]]*)\]", said.rpartition("\n")[2]))

    def run(self, keys: str, seconds: float = 60) -> str:
        """Types the keys and Enter; returns what the shell prints until then."""
        os.write(self.terminal, f"{keys}; printf '<%s>' end\n".encode())
        seen, late = "", time.monotonic() + seconds
        while END not in seen:
            assert time.monotonic() < late, seen
            if select.select([self.terminal], [], [], 0.2)[0]:
                seen += os.read(self.terminal, 65536).decode(errors="replace")
        return seen

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)
