"""The output of jobs that run side by side: whole lines, each with the name of its job."""

import io
import os
import sys


class _Lines(io.TextIOBase):
    """Writes whole lines to a descriptor, each behind a title; it is no terminal, so nothing is redrawn in place."""

    def __init__(self, descriptor: int, title: str):
        self._descriptor, self._title, self._rest = descriptor, title, ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).replace("\r", "\n").split("\n")
        self._put("".join(f"{self._title}: {line}\n" for line in lines if line.strip()))
        return len(text)

    def flush(self) -> None:
        pass

    def finish(self) -> None:
        """Writes what has no end of line yet."""
        if self._rest.strip():
            self.write("\n")

    def _put(self, text: str) -> None:
        data = text.encode("utf-8", "replace")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            pass  # nobody reads it


def prefix_lines(title: str) -> None:
    """From here on, this process writes whole lines, each behind a title."""
    sys.stdout, sys.stderr = _Lines(1, title), _Lines(2, title)
