"""What TensorBoard shows of a run: scalars, histograms, pictures, a layout that groups them, HParams, points.

Tags are in `metaexp.loggers.board_tags`.
"""

import io
import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from metaexp.loggers.board_tags import charts_of, shown_tag
from metaexp.loggers.hparams_row import row_messages
from metaexp.loggers.projector import write_points
from metaexp.loggers.run_names import table_name
from metaexp.storage.saved_config import key_of
from metaexp.system.files import replace_file, space_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def validation_scalars(metric: str, per_step: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Tags and values of one metric on the validation tasks.

    Args:
        metric: its name.
        per_step: {"mean": ..., "ci95": ...} after 0, 1, ..., steps inner steps, as in result.json.
    """
    last, root = per_step[-1], f"val/{metric}"
    values = {f"{root}/before": per_step[0]["mean"]} if len(per_step) > 1 else {}
    values[f"{root}/after"] = last["mean"]
    values[f"{root}/after_low"] = last["mean"] - last["ci95"]
    values[f"{root}/after_high"] = last["mean"] + last["ci95"]
    steps = {f"{root}/step_{step:02d}": value["mean"] for step, value in enumerate(per_step) if len(per_step) > 1}
    return values | steps


NO_DATE = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}  # equal runs, equal bytes
PRINT_DPI = 300


def _drawn(figure: "Figure", ending: str, dpi: float | None = None) -> bytes:
    from matplotlib import rc_context

    if ending == "png":
        return _png(figure, dpi or figure.dpi)
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "metaexp"}):
        figure.savefig(buffer, format=ending, dpi=dpi or figure.dpi, metadata=NO_DATE[ending])
    return buffer.getvalue()


def _png(figure: "Figure", dpi: float) -> bytes:
    """The bytes that `savefig` writes. It draws a figure twice, the first time only to let the layout settle; here the
    layout is settled by itself."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer, before, layout = io.BytesIO(), figure.dpi, figure.get_layout_engine()
    figure.dpi, own = dpi, figure.canvas
    try:
        canvas = FigureCanvasAgg(figure)
        if layout is not None:
            layout.execute(figure)
            figure.set_layout_engine("none")
        canvas.print_png(buffer, metadata=NO_DATE["png"])
    finally:
        figure.set_canvas(own)
        figure.set_layout_engine(layout)
        figure.dpi = before
    return buffer.getvalue()


def _write(data: bytes, file: Any) -> None:
    file.write(data)


class _Logger(TensorBoardLogger):
    """Lightning's, in the folder that it is given: a `$` or `~` in its name is part of the name."""

    @property
    def log_dir(self) -> str:
        """The folder of the event files."""
        return os.path.join(self.root_dir, str(self.version))


class TensorBoard:
    """Writes a run's event files into its own folder, so that a folder of runs or a sweep is one TensorBoard tree.

    Costs nothing between calls. Only rank 0 writes; on other ranks every method does nothing.

    Args:
        folder: the run's folder.
        resumed_at: the outer step of the checkpoint that a run continues from; TensorBoard drops later events.
        rank: rank of this process; default: Lightning's.
        formats: further formats in which pictures are kept beside PNG: pdf, svg.
        shape: brings a figure into the form for print in which its files are kept; None: they are as drawn.
        board_form: a context in which a figure has the form that TensorBoard shows; None: as drawn.

    Raises (every method):
        SpaceError: a file could not be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        resumed_at: int | None = None,
        rank: int | None = None,
        formats: Sequence[str] = (),
        shape: "Callable[[Figure], None] | None" = None,
        board_form: "Callable[[Figure], AbstractContextManager[None]] | None" = None,
    ):
        self.folder, self.formats, self.shape = Path(folder), [one for one in formats if one != "png"], shape
        self.board_form = board_form
        self.active = (getattr(rank_zero_only, "rank", 0) if rank is None else rank) == 0
        self.logger = _Logger(
            str(self.folder.parent),
            name="",
            version=self.folder.name,
            default_hp_metric=False,
            purge_step=None if resumed_at is None else resumed_at + 1,
        )
        _mute_writer_threads()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes numbers at an outer step, under the tags that TensorBoard shows (`shown_tag`)."""
        if self.active:
            with self._guard():
                for tag, value in values.items():
                    self.logger.experiment.add_scalar(shown_tag(tag), float(value), step)

    def histogram(self, tag: str, values: np.ndarray, step: int) -> None:
        """Writes the distribution of numbers, those that are finite and within TensorBoard's bins, at an outer step."""
        finite = values[np.abs(values) < 1e20]  # its outermost bin
        if self.active and len(finite):
            with self._guard():
                self.logger.experiment.add_histogram(tag, finite, step)

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Shows a picture, in the form that is readable there, and keeps its newest version as `figures/<tag>.png`
        (`/` in the tag becomes `_`), and in the other formats beside it."""
        if not self.active:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        with nullcontext() if self.board_form is None else self.board_form(figure):
            png = _drawn(figure, "png")
            width, height = (round(inches * figure.dpi) for inches in figure.get_size_inches())
        if self.shape is None:
            kept = {"png": _drawn(figure, "png")}
        else:
            self.shape(figure)
            kept = {"png": _drawn(figure, "png", dpi=PRINT_DPI)}
        kept |= {ending: _drawn(figure, ending) for ending in self.formats}
        with self._guard():
            path = self.figure_path(tag)
            path.parent.mkdir(parents=True, exist_ok=True)
            for ending, data in kept.items():
                replace_file(path.with_suffix(f".{ending}"), partial(_write, data), needs=len(data))
            image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
            summary = Summary(value=[Summary.Value(tag=tag, image=image)])
            self.logger.experiment.file_writer.add_summary(summary, step)

    def figure_path(self, tag: str) -> Path:
        """The path where `figure` keeps the picture of this tag."""
        return self.folder / "figures" / f"{_file_name(tag)}.png"

    def embedding(
        self, tag: str, points: Tensor, columns: Mapping[str, Sequence[Any]], marks: Sequence[tuple[Any, str]] = ()
    ) -> None:
        """Shows points [n, d] in the dashboard "Projector", the newest version for each tag; see `write_points`."""
        if self.active:
            with self._guard():
                write_points(self.folder, _file_name(tag), points, columns, marks)

    def layout(self, metrics: Sequence[str]) -> None:
        """Groups the scalars for the dashboard "Custom scalars"; every chart of a metric also shows its baselines."""
        if self.active:
            with self._guard():
                self.logger.experiment.add_custom_scalars(charts_of(metrics))

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Shows Markdown under "Text"."""
        if self.active:
            with self._guard():
                self.logger.experiment.add_text(tag, markdown, step)

    def hparams(
        self,
        config: Mapping[str, Any],
        metrics: Mapping[str, float | None],
        step: int = 0,
        shared: Sequence[str] = (),
    ) -> None:
        """Writes the run's row of the HParams table: the flat config and the final test metrics.

        The row is written to the sub-folder `test`, without the message that fixes the table's columns: TensorBoard
        then merges the columns of all runs of a tree, whatever their algorithm and metric, and does not mistake a
        training curve for a result. A metric that is None (every task diverged) is shown as NaN, and a setting that is
        None is left out, so that a column of numbers and nulls stays numeric. The row is named by method and task: in
        place of its path, TensorBoard's table would show the beginning alone, which is the date.

        Args:
            shared: the metrics that every method has. If the run has some of them, they alone are in the table, and the
                others beside the run's curves: TensorBoard's parallel coordinates leave out each run that lacks one of
                the first five metrics of the tree.
        """
        if not self.active:
            return
        values = {f"test/{name}": math.nan if value is None else float(value) for name, value in metrics.items()}
        table = {tag: value for tag, value in values.items() if tag.removeprefix("test/") in shared} or values
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard shows the first few columns that differ, by name: `algo` says more there than a class.
        shown = {
            key.removeprefix("choices."): value
            for key, value in config.items()
            if not key.endswith("_target_") and key_of(key).shown
        }
        # A null is left out: as text it would make the whole column one of text, and its numbers could not be sorted.
        given = {key: value for key, value in shown.items() if value is not None}
        row = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in given.items()}
        with self._guard():
            writer: Any = SummaryWriter(str(self.folder / "test"))
            try:
                for message in row_messages(row, table_name(self.folder, config)):
                    writer.file_writer.add_summary(message, step)
                for tag, value in table.items():
                    writer.add_scalar(tag, value, step)
            finally:
                _close(writer)
            for tag in values.keys() - table.keys():
                self.logger.experiment.add_scalar(tag, values[tag], step)

    def flush(self) -> None:
        """Writes everything given so far to the file."""
        if self.active:
            with self._guard():
                self.logger.experiment.flush()

    def close(self) -> None:
        """Flushes and closes the event file; does nothing if nothing was written."""
        if self.active and self.logger._experiment is not None:
            with self._guard():
                _close(self.logger.experiment)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise space_error(Path(error.filename or self.folder / "events.out.tfevents"), error) from error


def _file_name(tag: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=-]+", "_", tag)


def _close(writer: Any) -> None:
    """Closes an event file. `flush` may return before its thread has noted that the last write failed: ask again."""
    thread = None if writer.file_writer is None else writer.file_writer.event_writer._async_writer._worker
    writer.close()
    if thread is not None and thread.exception is not None:
        raise thread.exception


_muted: Callable[..., Any] | None = None


def _mute_writer_threads() -> None:
    """Keeps the traceback of an event file's own thread off the screen when it meets an OSError.

    The thread hands its exception to the next call (see `TensorBoard._guard`), so it is reported once, in one line.
    """
    global _muted
    if threading.excepthook is _muted:
        return
    before = threading.excepthook

    def hook(args: Any) -> None:
        ours = type(args.thread).__module__ == "tensorboard.summary.writer.event_file_writer"
        if not (ours and isinstance(args.exc_value, OSError)):
            before(args)

    _muted = threading.excepthook = hook
