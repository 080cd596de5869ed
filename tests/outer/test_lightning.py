"""A user's own Lightning Trainer fits MetaTraining: foreign callbacks and loggers see outer steps.

Real trainers on a tiny problem. Lightning's counters are private: a version that counts differently fails here.
"""

import csv
import warnings
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger

from metaexp.algos.maml import MAML
from metaexp.contract import largest_difference
from metaexp.evaluation.intervals import summary
from metaexp.evaluation.scores import evaluate
from metaexp.models.mlp import MLP
from metaexp.outer import MetaTraining
from metaexp.tasks.sine import Sine


def training(schedule: bool = False, lr: float = 0.01, **settings) -> MetaTraining:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learner = MAML(Sine(shots=5, queries=5), partial(MLP, hidden=[8]), inner_lr=0.01)
    optimizer = torch.optim.Adam(learner.parameters(), lr=lr)
    rates = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.5) if schedule else None
    return MetaTraining(learner, optimizer, rates, **{"meta_batch": 2, "val_tasks": 12} | settings)


def trainer(folder: Path, *callbacks, **settings) -> L.Trainer:
    own = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    own |= {"enable_checkpointing": False, "default_root_dir": folder, "callbacks": list(callbacks)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return L.Trainer(**own | settings)


class Steps(L.Callback):
    """What a callback sees, by hook."""

    def __init__(self):
        self.validated, self.batches = [], []

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            self.validated.append((trainer.global_step, float(trainer.callback_metrics["val/mse"])))

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.batches.append((batch_idx + 1, trainer.global_step, trainer.fit_loop.epoch_loop.total_batch_idx + 1))


def test_default_arguments_end_at_steps(tmp_path):
    """No max_epochs, no max_steps: the module's own loader, clock and end; one validation, after the last step."""
    module, seen = training(steps=130), Steps()
    one = trainer(tmp_path, seen)
    one.fit(module)
    assert module.clock == one.global_step == 130
    assert seen.batches == [(n, n, n) for n in (50, 100, 130)]  # log_every_n_steps is 50
    assert [step for step, _ in seen.validated] == [130]
    scores = evaluate(module.learner, "val", 12, ["queries"])
    assert seen.validated[0][1] == pytest.approx(summary(scores.arrays["mse"])["mean"], rel=1e-6)
    straight = training(steps=130)
    for index in range(130):
        straight.step(index)
    assert largest_difference(dict(module.learner.state_dict()), dict(straight.learner.state_dict())) == 0


def test_validation_every_so_many_outer_steps(tmp_path):
    for module, settings in ((training(steps=50, val_every=20), {}), (training(steps=50), {"val_check_interval": 20})):
        seen = Steps()
        trainer(tmp_path, seen, **settings).fit(module)
        # The trainer's own interval skips a last step that is not a multiple, as in any training.
        assert [step for step, _ in seen.validated] == ([20, 40, 50] if not settings else [20, 40])


def test_max_steps_limit_batches_and_fast_dev_run(tmp_path):
    for settings, end in (({"max_steps": 33}, 33), ({"limit_train_batches": 21, "max_epochs": 1}, 21)):
        module = training(steps=90)
        one = trainer(tmp_path, **settings)
        one.fit(module)
        assert module.clock == one.global_step == end
    module = training(steps=90)
    trainer(tmp_path, fast_dev_run=True).fit(module)
    assert module.clock == 1


def test_early_stopping_ends_before_steps(tmp_path):
    module = training(steps=500, val_every=10, lr=0.0)  # nothing is learned, so nothing gets better
    one = trainer(tmp_path, EarlyStopping("val/mse", patience=3, mode="min"))
    one.fit(module)
    assert module.clock == one.global_step == 40


def test_model_checkpoint_saves_at_its_steps_with_the_learners_names(tmp_path):
    module = training(steps=50)
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=20, save_top_k=-1)
    one = trainer(tmp_path, saver, enable_checkpointing=True)
    one.fit(module)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step=20.ckpt", "step=40.ckpt"]
    saved = torch.load(tmp_path / "step=40.ckpt", weights_only=False)
    assert saved["global_step"] == 40
    assert list(saved["state_dict"]) == list(module.learner.state_dict())
    assert int(saved["state_dict"]["meta_step"]) == 40


@pytest.mark.parametrize("at", [20, 40])
def test_lightnings_own_resume_is_exact(tmp_path, at):
    """`trainer.fit(..., ckpt_path=...)` continues at the checkpoint's clock, with the same bits."""
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=20, save_top_k=-1)
    straight = training(steps=60, schedule=True)
    trainer(tmp_path, saver, enable_checkpointing=True).fit(straight)
    second, seen = training(steps=60, schedule=True), Steps()
    one = trainer(tmp_path, seen, log_every_n_steps=10)
    one.fit(second, ckpt_path=str(tmp_path / f"step={at}.ckpt"))
    assert second.clock == one.global_step == 60
    assert [batch for batch, _, _ in seen.batches] == list(range(at + 10, 61, 10))
    assert all(batch == step for batch, step, _ in seen.batches)
    assert largest_difference(dict(second.learner.state_dict()), dict(straight.learner.state_dict())) == 0
    assert second.optimizer.param_groups[0]["lr"] == straight.optimizer.param_groups[0]["lr"]


def test_csv_logger_and_learning_rate_monitor_show_outer_steps(tmp_path):
    module = training(steps=40, schedule=True, val_every=20)
    logger = CSVLogger(tmp_path, name="", version="")
    one = trainer(tmp_path, LearningRateMonitor("step"), logger=logger, log_every_n_steps=10)
    one.fit(module)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    losses = {int(row["step"]): float(row["train/outer_loss"]) for row in rows if row.get("train/outer_loss")}
    assert list(losses) == [10, 20, 30, 40]
    again = training(steps=40, schedule=True)
    means = []
    for index in range(40):
        means.append(float(again.step(index).loss))
    for step, loss in losses.items():
        assert loss == pytest.approx(sum(means[step - 10 : step]) / 10, rel=1e-5)
    assert [int(row["step"]) for row in rows if row.get("val/mse")] == [20, 40]
    rates = {int(row["step"]): float(row["lr-Adam"]) for row in rows if row.get("lr-Adam")}
    assert rates == pytest.approx({step: 0.01 * 0.5 ** (step // 7) for step in (9, 19, 29, 39)})


def test_progress_bars_count_outer_steps(tmp_path, capsys):
    class Bar(RichProgressBar):
        shown: list = []

        def _update(self, progress_bar_id, current, visible=True):
            self.shown.append((current, self.total_train_batches if not self.trainer.validating else None))
            super()._update(progress_bar_id, current, visible)

    module = training(steps=40)
    trainer(tmp_path, Bar(), enable_progress_bar=True, log_every_n_steps=10).fit(module)
    counts = [current for current, total in Bar.shown if total == 40]
    assert counts[-1] == 40
    assert {10, 20, 30} <= set(counts)


def test_validate_and_test_of_a_trainer(tmp_path):
    module = training(steps=10)
    one = trainer(tmp_path)
    (validated,) = one.validate(module, verbose=False)
    (tested,) = one.test(module, verbose=False)
    for split, found in (("val", validated), ("test", tested)):
        scores = evaluate(module.learner, split, 12, ["queries"])
        assert found[f"{split}/mse"] == pytest.approx(summary(scores.arrays["mse"])["mean"], rel=1e-6)


def test_state_dict_takes_lightnings_arguments():
    module, other = training(), training()
    names = list(module.learner.state_dict())
    assert list(module.state_dict()) == names
    prefixed = module.state_dict(prefix="module.", keep_vars=True)
    assert list(prefixed) == [f"module.{name}" for name in names]
    found: dict = {}
    module.state_dict(destination=found)
    assert list(found) == names
    with torch.no_grad():
        for p in other.learner.parameters():
            p.add_(1.0)
    other.load_state_dict(module.state_dict(), strict=True)
    assert largest_difference(dict(other.state_dict()), dict(module.state_dict())) == 0
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({}, strict=True)
    other.load_state_dict({}, strict=False)


@pytest.mark.parametrize("settings", [{"fast_dev_run": True}, {"limit_train_batches": 5}, {"overfit_batches": 5}])
def test_fewer_batches_than_the_interval_between_validations(tmp_path, settings):
    module, seen = training(steps=30, val_every=10), Steps()
    trainer(tmp_path, seen, max_epochs=1, **settings).fit(module)
    assert module.clock == (1 if "fast_dev_run" in settings else 5)
    assert [step for step, _ in seen.validated] == [module.clock]


def test_no_logging_and_double_precision(tmp_path):
    module = training(steps=12, val_every=6)
    trainer(tmp_path, log_every_n_steps=0, precision="64-true").fit(module)
    assert module.clock == 12
    assert module.learner.family.dtype == torch.float64
    assert all(p.dtype == torch.float64 for p in module.learner.parameters())


def test_one_trainer_for_two_trainings(tmp_path):
    one, seen = trainer(tmp_path), Steps()
    one.callbacks.append(seen)
    for lr in (0.01, 0.02):
        seen.validated.clear()
        one.fit_loop.epoch_progress.reset()
        one.should_stop = False
        module = training(steps=25, val_every=10, lr=lr)
        one.fit(module)
        assert [step for step, _ in seen.validated] == [10, 20, 25]
        assert one.val_check_interval == 1.0


def test_a_resumed_row_has_all_its_steps_and_skips_go_on(tmp_path):
    """A checkpoint between two rows keeps the sums, and how many steps were skipped."""
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=24, save_top_k=-1)
    straight = training(steps=30, skips=3)
    trainer(tmp_path, saver, enable_checkpointing=True, log_every_n_steps=10).fit(straight)
    second = training(steps=30, skips=3)
    saved = torch.load(tmp_path / "step=24.ckpt", weights_only=True)
    saved["meta_training"]["skipped"] = 2
    torch.save(saved, tmp_path / "changed.ckpt")
    trainer(tmp_path, log_every_n_steps=10).fit(second, ckpt_path=str(tmp_path / "changed.ckpt"))
    assert second.skipped == 2
    assert second.last_row[0] == straight.last_row[0] == 30
    for name in ("outer_loss", "meta_gradient_norm"):
        assert second.last_row[1][name] == pytest.approx(straight.last_row[1][name], rel=1e-6)


def test_a_learner_that_was_moved_between_two_fits_goes_on_learning(tmp_path):
    """Lightning's teardown moves a module; the step must not keep the tensors of before."""
    for compiled in (False, True):
        moved, kept = training(steps=20, compiled=compiled), training(steps=20)
        trainer(tmp_path, max_steps=10).fit(moved)
        before = [p.detach().clone() for p in moved.learner.parameters()]
        moved.learner.double().float()
        trainer(tmp_path).fit(moved)
        trainer(tmp_path).fit(kept)
        assert moved.clock == 20
        assert any(not torch.equal(p, q) for p, q in zip(moved.learner.parameters(), before, strict=True))
        assert largest_difference(dict(moved.learner.state_dict()), dict(kept.learner.state_dict())) < 1e-5


def test_a_trainer_with_other_processes_is_refused():
    module = training(steps=10, world=2, meta_batch=4)
    with pytest.raises(ValueError, match="world=2: the trainer has 1 processes"):
        trainer(Path()).fit(module)
