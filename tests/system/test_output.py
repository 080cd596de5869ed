"""Streams that cannot be written never raise; what they can take arrives."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from metaexp.config.command_line import exit_code
from metaexp.evaluate import evaluate
from metaexp.loggers.progress import Progress
from metaexp.report.command import report
from metaexp.system.output import Tolerant, open_closed_descriptors, say, tolerant, tolerant_output

SHIPPED = ROOT / "scripts" / "runs" / "sine_r2d2"


class OnlyWrite:
    """The least that some environments put in place of standard output."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


class Broken:
    """Fails in every way that a stream may."""

    def __init__(self, error: Exception):
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error

    def isatty(self) -> bool:
        raise self.error


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


ERRORS = [OSError(28, "No space left on device"), BrokenPipeError(32, "Broken pipe"), ValueError("I/O on closed file")]
ERRORS += [BlockingIOError(11, "again"), RuntimeError("a widget has gone")]
STREAMS = [*map(Broken, ERRORS), closed(), None, object()]


@pytest.mark.parametrize("stream", STREAMS, ids=range(len(STREAMS)))
def test_nothing_that_a_stream_does_comes_through(stream: Any) -> None:
    made = Tolerant(stream)
    print("text", file=made, flush=True)
    made.writelines(["a", "b"])
    assert (made.write("four"), made.isatty(), made.encoding.lower()) == (4, False, "utf-8")
    assert (made.failed is None) == (stream is None)
    progress = Progress(10, 0, stream, every=0.0)
    progress.update(1, lambda: 0.5)
    progress.close()


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("ascii", "2.5 +- 0.1, \\u03b1 ...\n"), ("latin-1", "2.5 ± 0.1, \\u03b1 ...\n"), ("utf-8", "2.5 ± 0.1, α …\n")],
)
def test_characters_that_a_terminal_does_not_have(encoding: str, expected: str) -> None:
    raw = io.BytesIO()
    print("2.5 ± 0.1, α …", file=(made := Tolerant(io.TextIOWrapper(raw, encoding, newline="\n"))), flush=True)
    shown = raw.getvalue().decode(encoding)
    assert shown == (expected.replace("±", "+-") if encoding == "latin-1" else expected)
    print("\udce4.csv", file=made, flush=True)  # part of a file's name that is not text
    assert raw.getvalue().decode(encoding).endswith("\\udce4.csv\n")
    assert made.failed is None


def test_a_stream_with_nothing_but_write_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = OnlyWrite()
    monkeypatch.setattr(sys, "stderr", stream)
    say("one line")
    with tolerant_output():
        assert not sys.stderr.isatty()
        print("another", file=sys.stderr, flush=True)
    assert stream.text == "one line\nanother\n"
    assert sys.stderr is stream


def test_the_streams_are_restored_by_the_last_block(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with tolerant_output():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with tolerant_output():
        made = sys.stdout
        assert tolerant(made) is made
        thread.start()
        inside.wait(10)
    assert sys.stdout is made  # the other thread still prints
    leave.set()
    thread.join()
    assert sys.stdout is stream


def test_closed_descriptors_are_opened_on_the_null_device(tmp_path: Path) -> None:
    """Otherwise the next file gets number 2, and what is printed there lands in it."""
    code = (
        "import os, sys\nfrom metaexp.system.output import open_closed_descriptors\n"
        "os.closerange(0, 3)\nopen_closed_descriptors()\n"
        "file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\nos.write(2, b'a warning')\n"
        "os.write(file, str(file).encode())\nassert all(os.get_inheritable(number) for number in range(3))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, tmp_path / "file"], env=environment, check=True, timeout=60)
    assert int((tmp_path / "file").read_text()) >= 3
    before = [os.fstat(number) for number in range(3)]
    open_closed_descriptors()
    assert [os.fstat(number).st_ino for number in range(3)] == [found.st_ino for found in before]


@pytest.mark.parametrize("error", [ERRORS[0], ERRORS[1]], ids=["full", "gone"])
def test_evaluate_and_report(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "stdout", Broken(error))
    monkeypatch.setattr(sys, "stderr", said)
    argv = [f"run={SHIPPED}", "test.tasks=3", "test.curve_shots=[]", f"out={tmp_path / 'tested'}"]
    assert exit_code(lambda: evaluate(argv)) == 0, said.getvalue()
    assert (tmp_path / "tested" / "1" / "result.json").is_file()
    table = tmp_path / "table.md"
    assert exit_code(lambda: report([str(SHIPPED), "--markdown", str(table)])) == 0
    assert "r2d2" in table.read_text()
    lost = [line for line in said.getvalue().splitlines() if "could not be written" in line]
    assert lost == ["metaexp: the output could not be written (No space left on device)"] * (2 * (error is ERRORS[0]))
    assert "Traceback" not in said.getvalue()
