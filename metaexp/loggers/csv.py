"""Numbers as CSV: metrics.csv and hparams.yaml in the run's folder."""

import csv
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger

from metaexp.constraints import Count, checked


class CSV(CSVLogger):
    """Lightning's CSV logger, writing into the run's own folder; a continued run keeps its earlier rows.

    Args:
        folder: the run's folder.
        resumed_at: the outer step of the checkpoint that the run continues from; later rows are dropped.
        flush_logs_every_n_steps: rows that are kept in memory before they are written.
    """

    @checked
    def __init__(self, folder: Path, resumed_at: int | None = None, flush_logs_every_n_steps: Count = 100):
        super().__init__(str(folder), name="", version="", flush_logs_every_n_steps=flush_logs_every_n_steps)
        self._file, self._resumed_at = Path(folder) / "metrics.csv", resumed_at

    @property
    def experiment(self) -> Any:
        """Lightning's writer, made on first use. It removes an existing file, so earlier rows are read first."""
        if self._experiment is None:
            kept = self._kept()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the folder has other files
                writer: Any = super().experiment
            for row in kept:
                writer.log_metrics({name: float(value) for name, value in row.items()}, int(float(row["step"])))
            return writer
        return super().experiment

    def _kept(self) -> list[dict[str, str]]:
        """The rows of the run's earlier processes up to the checkpoint, without empty cells."""
        if self._resumed_at is None or not self._file.is_file():
            return []
        with self._file.open(newline="") as file:
            rows = [{k: v for k, v in row.items() if k and v not in ("", None)} for row in csv.DictReader(file)]
        return [row for row in rows if "step" in row and int(float(row["step"])) <= self._resumed_at]
