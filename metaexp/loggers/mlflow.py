"""Numbers, settings and pictures to MLflow. Needs the extra `mlflow`."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger

URI = os.environ.get("MLFLOW_TRACKING_URI")  # the user's: MLflow itself sets the variable later, for the whole process
RUN_ID = "mlflow_run_id"  # file in a run's folder that names its MLflow run


class MLflow(MLFlowLogger):
    """Lightning's MLflow logger; a continued run continues its own MLflow run.

    Args:
        folder: the run's folder.
        resumed_at: the outer step of the checkpoint that the run continues from; None: a new run.
        tracking_uri: URI of the MLflow server or store; None: $MLFLOW_TRACKING_URI, otherwise the file mlflow.db beside
            the run (pictures: the folder mlflow there).
        experiment: name of the experiment in MLflow.
        tags: tags of the MLflow run.
    """

    def __init__(
        self,
        folder: Path,
        resumed_at: int | None = None,
        tracking_uri: str | None = None,
        experiment: str = "metaexp",
        tags: Mapping[str, Any] | None = None,
    ):
        for name in ("mlflow", "alembic"):  # they log the creation of each database table
            logging.getLogger(name).setLevel(logging.WARNING)
        folder = Path(folder)
        known = folder / RUN_ID
        run_id = known.read_text().strip() if resumed_at is not None and known.is_file() else None
        store = f"sqlite:///{folder.parent / 'mlflow.db'}"
        super().__init__(
            experiment_name=experiment,
            run_name=folder.name,
            tracking_uri=tracking_uri or URI or store,
            tags=dict(tags) if tags else None,
            artifact_location=None if tracking_uri or URI else str(folder.parent / "mlflow"),
            run_id=run_id,
        )
        self.continues = run_id is not None
        known.write_text(f"{self.run_id}\n")

    def picture(self, tag: str, path: Path, step: int) -> None:
        """A picture as an artifact under figures/."""
        self.experiment.log_artifact(self.run_id, str(path), "figures")

    def end(self, status: str) -> None:
        """Leaves the environment as it was: another run of this process may have another store."""
        if URI is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
