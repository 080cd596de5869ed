"""All loggers of a run behind one object: TensorBoard always, and those that were chosen."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from metaexp.loggers.tensorboard import TensorBoard

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RunLoggers:
    """Passes a run's numbers, settings, pictures and result on to TensorBoard and to Lightning's loggers.

    Args:
        board: TensorBoard.
        others: Lightning's loggers. Each gets every number. A logger may define `picture(tag, path, step)`, which gets
            the pictures, and `end(status)`, called when nothing more will follow.
        draws: whether the run makes pictures.

    Raises (every method):
        SpaceError: a file of TensorBoard could not be written.
    """

    def __init__(self, board: TensorBoard, others: Sequence[Any] = (), draws: bool = True):
        self.board, self.others, self.draws = board, list(others), draws

    def __enter__(self) -> "RunLoggers":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        """Ends all loggers; an exception that is already propagating takes precedence over one from ending them."""
        if kind is None:
            self.close()
            return
        with suppress(Exception):
            self.close("failed")

    @property
    def active(self) -> bool:
        """Whether this process writes: only rank 0 does."""
        return self.board.active

    def begin(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Before the first step: the layout of the metrics to TensorBoard, if there are any, and the run's flat
        settings to the loggers that do not have them yet (TensorBoard gets them with the result)."""
        if not self.active:
            return
        if metrics:
            self.board.layout(metrics)
        for logger in self.others:
            if not getattr(logger, "continues", False):
                logger.log_hyperparams(dict(settings))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Logs numbers under their tags at an outer step."""
        self.board.scalars(values, step)
        if self.active:
            for logger in self.others:
                logger.log_metrics({tag: float(value) for tag, value in values.items()}, step)

    def histogram(self, tag: str, values: np.ndarray, step: int) -> None:
        """Shows a distribution in TensorBoard."""
        self.board.histogram(tag, values, step)

    def constants(self, values: Mapping[str, float], step: int) -> None:
        """Shows numbers that do not change in training as horizontal lines in TensorBoard, up to this outer step."""
        for at in sorted({0, step}):
            self.board.scalars(values, at)

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Logs a picture: kept as figures/<tag>.png, shown by TensorBoard and by loggers that take pictures."""
        self.board.figure(tag, figure, step)
        if self.active:
            path = self.board.figure_path(tag)
            for logger in self.others:
                if hasattr(logger, "picture"):
                    logger.picture(tag, path, step)

    def embedding(
        self, tag: str, points: Tensor, columns: Mapping[str, Sequence[Any]], marks: Sequence[tuple[Any, str]] = ()
    ) -> None:
        """Shows labelled points in TensorBoard's projector."""
        self.board.embedding(tag, points, columns, marks)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Shows Markdown in TensorBoard."""
        self.board.text(tag, markdown, step)

    def result(
        self,
        settings: Mapping[str, Any],
        test: Mapping[str, Mapping[str, Any]],
        step: int,
        shared: Sequence[str] = (),
    ) -> None:
        """Logs the final test metrics with their intervals, and in HParams those that every method has (`shared`)
        beside these settings."""
        self.board.hparams(settings, {name: value["mean"] for name, value in test.items()}, step, shared)
        if not self.active:
            return
        values: dict[str, float] = {}
        for name, value in test.items():
            for part in ("mean", "ci95", "median", "diverged"):
                if value.get(part) is not None:
                    values[f"test/{name}" + ("" if part == "mean" else f"/{part}")] = float(value[part])
        for logger in self.others:
            logger.log_metrics(values, step)

    def flush(self) -> None:
        """Writes everything logged so far to disk."""
        self.board.flush()
        if self.active:
            for logger in self.others:
                logger.save()

    def close(self, status: str = "success") -> None:
        """Ends all loggers; `status` is that of Lightning's `finalize`: success or failed."""
        self.board.close()
        if self.active:
            for logger in self.others:
                logger.save()
                logger.finalize(status)
                if hasattr(logger, "end"):
                    logger.end(status)
