"""Numbers, settings and pictures to Weights & Biases. Needs the extra `wandb`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger

RUN_ID = "wandb_run_id"  # file in a run's folder that names its Weights & Biases run


class WandB(WandbLogger):
    """Lightning's logger for Weights & Biases, x axis in outer steps; a continued run continues its own W&B run.

    Args:
        folder: the run's folder; offline data is written to its sub-folder wandb.
        resumed_at: the outer step of the checkpoint that the run continues from; None: a new run.
        project: name of the project in Weights & Biases.
        offline: write to the folder only (`wandb sync` uploads it later).
        settings: further arguments of `wandb.init`.
    """

    def __init__(
        self,
        folder: Path,
        resumed_at: int | None = None,
        project: str = "metaexp",
        offline: bool = True,
        settings: Mapping[str, Any] | None = None,
    ):
        folder = Path(folder)
        known = folder / RUN_ID
        run_id = known.read_text().strip() if resumed_at is not None and known.is_file() else None
        quiet = wandb.Settings(silent=True, console="off")  # do not capture the run's own output
        super().__init__(
            name=folder.name,
            save_dir=str(folder),
            project=project,
            offline=offline,
            id=run_id,
            settings=quiet,
            **(settings or {}),
        )
        self.continues = run_id is not None
        known.write_text(f"{self.experiment.id}\n")

    def picture(self, tag: str, path: Path, step: int) -> None:
        """A picture under its tag."""
        self.log_image(key=tag, images=[str(path)], step=step)

    def end(self, status: str) -> None:
        """Ends the run: nothing is left in the background. (`finalize` comes after training, before the test.)"""
        self.experiment.finish(exit_code=0 if status == "success" else 1)
