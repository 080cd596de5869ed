"""Lightning's trainer reads and writes checkpoint files through this plugin."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from metaexp.storage import checkpoint_file


class AtomicCheckpointIO(CheckpointIO):
    """Whole, verified files that hold no code: `Trainer(plugins=[AtomicCheckpointIO()])`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes the checkpoint and its sidecar (see `checkpoint_file.save`). Raises SpaceError."""
        checkpoint_file.save(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """The verified checkpoint. `weights_only` is True whatever is asked. Raises CheckpointError."""
        return checkpoint_file.load(Path(path), map_location, quiet=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes the file and its sidecar."""
        checkpoint_file.remove(Path(path))
