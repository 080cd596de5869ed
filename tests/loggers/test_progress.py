"""Progress: what is printed on a terminal and elsewhere."""

import io
import logging
import math
import warnings

import lightning as L
import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from rich.console import Console

from metaexp.loggers.progress import Progress
from metaexp.training.trainer import quiet


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_lines_where_there_is_no_terminal():
    clock, stream, reads = Clock(), io.StringIO(), []

    def loss():
        reads.append(clock.now)
        return 0.41234

    progress = Progress(20000, 0, stream, every=10.0, clock=clock)
    for step in range(1, 1201):
        clock.now = step / 100  # 100 outer steps a second
        progress.update(step, loss)
    progress.validation(1200, {"mse": 0.51, "mae": 0.4})
    progress.note("checkpoint written")
    progress.close()
    assert stream.getvalue().splitlines() == [
        "step 1000/20000  outer loss 0.412  100 outer steps/s  3:10 left",
        "step 1200/20000  outer loss 0.412  val mse 0.51  100 outer steps/s  3:08 left",
        "checkpoint written",
    ]
    assert reads == [10.0]  # the loss was read only when it was shown


def test_the_rate_is_that_of_the_last_minute_of_this_process():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(100_000, 40_000, stream, every=10.0, clock=clock)
    clock.now = 300.0  # compiling
    progress.begin(40_001)
    progress.update(40_001)
    for _ in range(12):
        clock.now += 10.0
        progress.update(progress.step + 3000)
    rates = [text.split("  ")[-2:] for text in stream.getvalue().splitlines()]
    assert rates[0] == ["step 40001/100000"]  # the compiler's time is in no rate and in no time left
    assert rates[1] == ["300 outer steps/s", "3:10 left"]
    assert rates[-1] == ["300 outer steps/s", "1:20 left"]
    progress.rate = 512.4  # what the run records is shown, and the time left is that of the clock
    clock.now += 10.0
    progress.update(progress.step + 3000)
    assert stream.getvalue().splitlines()[-1].split("  ")[-2:] == ["512 outer steps/s", "1:10 left"]


def test_a_closed_stream_does_not_stop_a_run():
    stream = io.StringIO()
    progress = Progress(10, 0, stream, every=0.0)
    stream.close()
    progress.update(1, lambda: 0.5)
    progress.validation(2, {"mse": 1.0})
    progress.close()


@pytest.mark.parametrize(("larger", "best"), [(False, "0.5"), (True, "0.75")])
def test_a_bar_on_a_terminal(larger, best):
    clock, stream = Clock(), io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, _environ={"TERM": "xterm"})
    with Progress(1000, 0, clock=clock, larger_is_better=larger, console=console) as progress:
        drawn = stream.getvalue()
        clock.now = 0.1
        progress.update(50, lambda: pytest.fail("read between two refreshes"))
        assert stream.getvalue() == drawn
        clock.now = 0.25
        progress.update(100, lambda: 0.125)
        assert "100/1000  0:02 left  400 outer steps/s  outer loss 0.125" in stream.getvalue()
        for step, value in ((200, 0.5), (300, 0.75), (400, math.nan), (500, 0.625)):
            progress.validation(step, {"mse": value})
        progress.note("stopped: [stop.target] reached")
        assert "stopped: [stop.target] reached" in stream.getvalue()
    assert (
        f"500/1000  0:00 left  2000 outer steps/s  outer loss 0.125  val mse 0.625 (best {best})" in stream.getvalue()
    )
    assert stream.getvalue().endswith("\x1b[?25h")  # the cursor is back
    drawn = stream.getvalue()
    progress.close()
    clock.now = 9.0
    progress.update(600)
    assert stream.getvalue() == drawn


def test_quiet_drops_adverts_and_nothing_else():
    quiet()
    quiet()
    seen = []

    class Handler(logging.Handler):
        def emit(self, record):
            seen.append(record.getMessage())

    handler, logger = Handler(), logging.getLogger("lightning.pytorch.utilities.rank_zero")
    logger.addHandler(handler)
    try:
        L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
        rank_zero_info("`Trainer.fit` stopped")
    finally:
        logger.removeHandler(handler)
    assert seen == ["`Trainer.fit` stopped"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet()
        warnings.warn("The 'train_dataloader' does not have many workers which may be a bottleneck")
        warnings.warn("the outer loss is large")
    assert [str(one.message) for one in caught] == ["the outer loss is large"]
