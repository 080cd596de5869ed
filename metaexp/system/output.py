"""Standard output and error that cannot end a run: what they do not take is lost, and the run goes on.

A full disk under `> file`, a reader that has gone (`| head -1`), a closed or missing stream, an ASCII terminal: the
state on disk is what counts, not what could be printed about it.
"""

import errno
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_PLAIN = str.maketrans({"±": "+-", "…": "...", "×": "x", "–": "-", "—": "-", "━": "-", "─": "-"})
_LOCK = threading.Lock()
_OPEN: list[int] = []  # the threads of the blocks of `tolerant_output` that are open in this process
_BEFORE: dict[str, tuple[Any, Any]] = {}  # sys.stdout and sys.stderr before the first of them, and in it


class Tolerant:
    """A text stream whose writing never raises; anything else is that of the stream inside.

    Characters that its encoding does not have are replaced ("+-" for "±", otherwise backslash escapes).

    Args:
        stream: the stream inside; None discards everything. It needs no method but `write`.

    Attributes:
        failed: the first error of the stream inside, None so far.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = open(os.devnull, "w", encoding="utf-8") if stream is None else stream  # noqa: SIM115
        self.failed: Exception | None = None

    def write(self, text: str) -> int:
        """Writes the text if that is possible; returns its length in any case."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            self._try(lambda: self._stream.write(self._encodable(text)))
        except Exception as error:  # streams of notebooks and of tests raise what they like
            self.failed = self.failed or error
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes each text."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flushes the stream inside, if it can."""
        if hasattr(self._stream, "flush"):
            self._try(self._stream.flush)

    @property
    def encoding(self) -> str:
        """The encoding of the stream inside; UTF-8 if it does not say."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether the stream inside says that it is a terminal."""
        try:
            return bool(self._stream.isatty())
        except Exception:
            return False

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":  # during copying or unpickling
            raise AttributeError(name)
        return getattr(self._stream, name)

    def _try(self, action: Any) -> None:
        try:
            action()
        except Exception as error:
            self.failed = self.failed or error

    def _encodable(self, text: str) -> str:
        return text.translate(_PLAIN).encode(self.encoding, "backslashreplace").decode(self.encoding)


def tolerant(stream: Any) -> Any:
    """The stream as a Tolerant one; a Tolerant one as it is."""
    return stream if isinstance(stream, Tolerant) else Tolerant(stream)


def say(text: str) -> None:
    """One line on standard error, if it can be written."""
    print(text, file=tolerant(sys.stderr), flush=True)


def open_closed_descriptors() -> None:
    """Opens those of the descriptors 0 to 2 that are closed on the null device.

    Otherwise the next file that the process opens gets the number, and whatever prints to descriptor 2 writes into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            made = os.open(os.devnull, os.O_RDWR)
            if made == number:
                os.set_inheritable(number, True)  # children expect all three
            else:  # another thread was faster
                os.dup2(made, number)
                os.close(made)


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Inside the block `sys.stdout` and `sys.stderr` are Tolerant, and descriptors 0 to 2 are open.

    Blocks may be nested, and open in several threads: the last one that ends restores the streams.
    """
    open_closed_descriptors()
    with _LOCK:
        _OPEN.append(threading.get_ident())
        for name in ("stdout", "stderr") if len(_OPEN) == 1 else ():
            before = getattr(sys, name)
            _BEFORE[name] = before, tolerant(before)
            setattr(sys, name, _BEFORE[name][1])
    try:
        yield
    finally:
        for _, installed in list(_BEFORE.values()):
            installed.flush()
        with _LOCK:
            _OPEN.remove(threading.get_ident())
            for name in () if _OPEN else list(_BEFORE):
                before, installed = _BEFORE.pop(name)
                if getattr(sys, name) is installed:  # otherwise someone else has replaced it since
                    setattr(sys, name, before)


@contextmanager
def command_output() -> Iterator[None]:
    """`tolerant_output` for a whole command: the interpreter's own last flush cannot fail either.

    That standard output could not be written is said on standard error, except when its reader has closed the pipe.
    """
    with tolerant_output():
        streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, Tolerant)]
        try:
            yield
        finally:
            for stream in streams:
                stream.flush()
            failed = streams[0].failed if streams else None
            if isinstance(failed, OSError) and failed.errno != errno.EPIPE:
                print(f"metaexp: the output could not be written ({failed.strerror})", file=sys.stderr, flush=True)
            for stream in streams:
                if stream.failed is not None:
                    with suppress(Exception):  # not every stream has a descriptor
                        null = os.open(os.devnull, os.O_WRONLY)
                        os.dup2(null, stream.fileno())
                        os.close(null)
