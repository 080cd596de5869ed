"""What a run records of its training besides weights and optimiser: metaexp's own part of a checkpoint."""

import math
import statistics
from dataclasses import dataclass, field
from typing import Any

from metaexp.outer.meta_training import MetaTraining
from metaexp.system.machine import peak_mb
from metaexp.tasks.placeholder import keep

FORMAT = 1  # version of what `state` returns


@dataclass
class TrainingRecord:
    """The progress of meta-training, its best value and why it ended: part of every checkpoint."""

    step: int = 0  # outer steps done
    best: dict[str, Any] = field(default_factory=lambda: {"value": None, "step": 0, "waited": 0})
    reason: str | None = None  # why the run ended early
    pending: bool = True  # whether the validation of the current step is due
    rates: list[float] = field(default_factory=list)  # outer steps per second, one per row
    times: dict[str, float] = field(default_factory=dict)  # seconds by what was done: compile, train, validate
    spent: float = 0.0  # seconds spent in earlier processes of this run
    peak: int = 0  # largest peak memory in MB of the earlier processes

    @property
    def scratch(self) -> dict[str, float]:
        """The untrained network's validation metrics, the baseline `scratch`; kept with the best value."""
        found: dict[str, float] = self.best.get("scratch", {})
        return found

    def peak_mb(self) -> int:
        """The largest peak memory of any process of this run."""
        return max(self.peak, peak_mb())

    def took(self, what: str, seconds: float) -> None:
        """Adds to the seconds of compile, train or validate."""
        self.times[what] = self.times.get(what, 0.0) + seconds

    def speed(self) -> float | None:
        """Median outer steps per second of the rows after the first, which includes warming up. No row includes the
        first step of a process, which may compile."""
        rates = self.rates[1:] or self.rates
        return statistics.median(rates) if rates else None

    def best_value(self) -> float | None:
        """Best validation value so far."""
        value = self.best["value"]
        return value if value is not None and math.isfinite(value) else None

    def finished(self, steps: int) -> bool:
        """Whether meta-training is over: all steps, or stopped early by its own rule."""
        return self.reason is not None or (self.step >= steps and not self.pending)

    def state(self, training: MetaTraining, seconds: float, config_sha256: str) -> dict[str, Any]:
        """Plain containers and tensors for the checkpoint; `seconds` of the run up to now, SHA-256 of its settings."""
        learner, schedule = training.learner, training.schedule
        return {
            "format": FORMAT,
            "step": self.step,
            "best": dict(self.best),
            "reason": self.reason,
            "pending": self.pending,
            "sums": training.sums(),
            "count": training.count,
            "skipped": training.skipped,
            "schedule": schedule.state_dict() if schedule is not None else None,
            "mapping": learner.mapping,
            "compiled": training.compiled,
            "rates": list(self.rates),
            "seconds": seconds,
            "times": dict(self.times),
            "peak_mb": self.peak_mb(),
            "family": keep(learner.family),
            "trained_on": learner.family.trained_on,
            "config_sha256": config_sha256,
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> "TrainingRecord":
        """The record in a checkpoint's state."""
        return cls(
            step=state["step"],
            best=dict(state["best"]),
            reason=state["reason"],
            pending=state.get("pending", False),
            rates=list(state["rates"]),
            times=dict(state.get("times", {})),
            spent=state.get("seconds", 0.0),
            peak=state.get("peak_mb", 0),
        )


def restore_training(training: MetaTraining, data: dict[str, Any], device: Any) -> None:
    """Restore learner, optimiser, schedule and sums from a checkpoint."""
    state = data["metaexp"]
    training.learner.load_state_dict(data["state_dict"])
    training.learner.set_mapping(state["mapping"], device, tried=True)
    training.compiled, training.finite.skipped = state["compiled"], state.get("skipped", 0)
    training.optimizer.load_state_dict(data["optimizer_states"][0])
    training.set_sums(state["sums"], state["count"])
    if training.schedule is not None and state["schedule"] is not None:
        training.schedule.load_state_dict(state["schedule"])
