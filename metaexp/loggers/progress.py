"""What a run prints while it trains: a bar on a terminal, otherwise a line from time to time.

Times are wall-clock, and so is the rate until the run has recorded one; neither counts the first step, which may
compile. The bar and its numbers are redrawn by time, not by step, so that a step costs only one reading of the clock.
"""

import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO, cast

from metaexp.checks import printable
from metaexp.system.output import Tolerant, tolerant

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_LOG = logging.getLogger("metaexp")
WINDOW = 60.0  # seconds over which the rate is taken


class Progress:
    """Shows the outer loop's progress on `stream`: in place on a terminal, otherwise as a line from time to time.

    Args:
        total: outer steps of the whole run.
        start: outer steps done before (by a resumed run).
        stream: where to print; default sys.stderr.
        every: seconds between lines if `stream` is not a terminal.
        larger_is_better: whether larger values of the first validation metric are better.
        console: a Rich console to draw on instead of `stream`.
        clock: returns seconds; tests replace it.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        stream: TextIO | None = None,
        every: float = 10.0,
        larger_is_better: bool = False,
        console: "Console | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.step, self.larger_is_better, self._clock = total, start, larger_is_better, clock
        self.rate: float | None = None  # outer steps per second as the run records them; None: measured here
        self._stream = tolerant(sys.stderr if stream is None else stream)
        self._loss: float | None = None
        self._metric, self._value, self._best = "", math.nan, math.nan
        now = clock()
        self._seen: deque[tuple[float, int]] = deque([(now, start)])
        self._live = _live(self._stream, console)
        self._gap = every if self._live is None else 0.2
        self._due = now + self._gap

    def begin(self, step: int) -> None:
        """Rates and the time left count from here: call after the first step, which may compile."""
        self._seen = deque([(self._clock(), step)])

    def update(self, step: int, loss: Callable[[], float] | None = None) -> None:
        """Call after every outer step with the number of steps done; `loss` is called only when its value is shown."""
        self.step = step
        if (now := self._clock()) >= self._due:
            self._loss = self._loss if loss is None else float(loss())
            self._show(now)

    def validation(self, step: int, metrics: Mapping[str, float], loss: float | None = None) -> None:
        """Call after every validation; the first metric is shown, with the best value so far on a terminal."""
        self.step = step
        self._loss = self._loss if loss is None else loss
        self._metric, self._value = next(iter(metrics.items()))
        sign = -1.0 if self.larger_is_better else 1.0
        if not sign * self._value >= sign * self._best:  # also replaces the NaN of the start
            self._best = self._value if not math.isnan(self._value) else self._best
        self._show(self._clock())

    def note(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._live is None:
            self._write(lambda: print(printable(text), file=self._stream, flush=True))
        else:
            console, text = self._live.console, printable(text)
            self._write(lambda: console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True))

    def close(self) -> None:
        """Shows the last state and ends the line; call it however the run ends. A second call does nothing."""
        if self._live is not None:
            self._write(lambda: self._live.update(self._bar(self._clock()), refresh=True))
            self._write(self._live.stop)
            self._live = None
            self._gap = self._due = math.inf

    def __enter__(self) -> "Progress":
        """From here on, the package's log messages are shown as notes."""
        self._notes = _Notes(self)
        _LOG.addHandler(self._notes)
        self._level = _LOG.level
        _LOG.setLevel(logging.INFO)
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        _LOG.removeHandler(self._notes)
        _LOG.setLevel(self._level)
        self.close()

    def line(self, now: float) -> str:
        """The state: `step 1200/20000  outer loss 0.412  val mse 0.51  810 outer steps/s  0:23 left`."""
        return "  ".join([f"step {self.step}/{self.total}", *self._values(), *self._pace(now)])

    def _values(self) -> list[str]:
        facts = [] if self._loss is None else [f"outer loss {self._loss:.3g}"]
        if self._metric:
            facts.append(f"val {self._metric} {self._value:.3g}")
            if self._live is not None:
                facts[-1] += f" (best {self._best:.3g})"
        return facts

    def _pace(self, now: float) -> list[str]:
        then, step = self._seen[0]
        if now <= then or self.step <= step:
            return []
        pace = (self.step - step) / (now - then)  # with validations
        return [steps_per_second(self.rate or pace), f"{duration((self.total - self.step) / pace)} left"]

    def _show(self, now: float) -> None:
        self._due = now + self._gap
        if self._live is None:
            self.note(self.line(now))
        else:
            self._write(lambda: self._live.update(self._bar(now), refresh=True))
        self._seen.append((now, self.step))
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW:
            self._seen.popleft()

    def _bar(self, now: float) -> "Table":
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        bar = ProgressBar(self.total, self.step, width=24 if self._live.console.width >= 110 else 8)
        text = "  ".join([f"{self.step}/{self.total}", *reversed(self._pace(now)), *self._values()])
        table = Table.grid(padding=(0, 1))
        table.add_row(bar, Text(text, no_wrap=True, overflow="ellipsis"))
        return table

    def _write(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (OSError, ValueError):  # a console of the caller's whose reader has gone: go on training without it
            self._gap = self._due = math.inf


def _live(stream: Tolerant, console: "Console | None") -> Any:
    """A started Rich display, redrawn by explicit calls (no thread), or None if `stream` cannot move its cursor."""
    if console is None and not stream.isatty():
        return None
    from rich.console import Console
    from rich.live import Live

    console = console or Console(file=cast(TextIO, stream))
    if not console.is_terminal or console.is_dumb_terminal:
        return None
    # Output that goes to a file or a pipe must still arrive there.
    live = Live(console=console, auto_refresh=False, redirect_stdout=tolerant(sys.stdout).isatty())
    live.start()
    return live


class _Notes(logging.Handler):
    """Shows log records of the package as lines of the progress."""

    def __init__(self, progress: Progress):
        super().__init__(logging.INFO)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self.progress.note(record.getMessage())


def steps_per_second(rate: float) -> str:
    """The rate of the outer loop, in the words of the screen and of the result."""
    return f"{rate:.0f} outer steps/s" if rate >= 10 else f"{rate:.2g} outer steps/s"


def duration(seconds: float) -> str:
    """0:23, 12:05, 3:04:59, 2d 3h."""
    whole = round(max(seconds, 0.0))
    minutes, hours, days = whole // 60 % 60, whole // 3600 % 24, whole // 86400
    if days:
        return f"{days}d {hours}h"
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
