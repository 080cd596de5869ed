"""Lightning's trainer on our checkpoint files."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from checkpoint_files import flip

from metaexp.storage.checkpoint_file import DamagedCheckpoint, verify
from metaexp.storage.checkpoints import Checkpoints
from metaexp.storage.lightning_plugin import AtomicCheckpointIO


class Tiny(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(3))
        self.loaded: dict[str, Any] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.1)

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return (self.w * batch).square().sum()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["metaexp"] = {"format": 1, "step": self.trainer.global_step}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.loaded = checkpoint["metaexp"]


def test_as_lightnings_plugin_a_resumed_run_is_bit_identical(tmp_path: Path) -> None:
    def trainer(steps: int) -> L.Trainer:
        return L.Trainer(
            max_steps=steps,
            accelerator="cpu",
            plugins=[AtomicCheckpointIO()],
            default_root_dir=tmp_path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    loader = torch.utils.data.DataLoader(torch.ones(8, 3), batch_size=1)
    whole, first, second = Tiny(), Tiny(), Tiny()
    trainer(4).fit(whole, loader)
    half = trainer(2)
    half.fit(first, loader)
    path = Checkpoints(tmp_path / "checkpoints").save(half.save_checkpoint, 2)
    assert verify(path)["step"] == 2
    trainer(4).fit(second, loader, ckpt_path=str(path), weights_only=False)
    assert second.loaded == {"format": 1, "step": 2}
    assert torch.equal(second.w, whole.w)
    assert not torch.equal(first.w, whole.w)
    flip(path)
    with pytest.raises(DamagedCheckpoint, match="SHA-256"):
        trainer(4).fit(second, loader, ckpt_path=str(path))
