"""When meta-training ends early, and which weights are the best so far."""

from typing import Any, NamedTuple

from metaexp import metrics
from metaexp.metric_names import forms, near


class Verdict(NamedTuple):
    """What a validation decides."""

    value: float | None  # of the judged metric; None if a task diverged
    better: bool  # the best so far
    reason: str | None  # why the run ends here; None: it continues


class StopRule(NamedTuple):
    """Judges validations by one metric."""

    metric: str | None  # as typed; None: the learner's first metric, in its first normalisation mode
    first: str  # the learner's first metric
    larger_is_better: bool | None
    target: float | None = None  # ends the run as soon as the metric is this good
    patience: int | None = None  # ends it after so many validations without a better value

    @classmethod
    def of(cls, config: dict[str, Any], learner: Any) -> "StopRule":
        """The rule that a run's settings describe."""
        stop, first = config["stop"], next(iter(learner.metrics))
        larger = metrics.direction(metrics.declared(learner), stop["metric"] or first)
        return cls(stop["metric"], first, larger, stop["target"], stop["patience"])

    @property
    def judged(self) -> str:
        """The metric's name in result.json."""
        return self.metric or self.first

    def judge(self, row: dict[str, Any], best: dict[str, Any], step: int) -> Verdict:
        """Judge a validation and update `best`, whose keys are value, step and waited.

        Args:
            row: a row of metrics.jsonl, with a summary for every metric.
            best: the best validation so far; changed in place.
            step: outer steps done.
        """
        sign = metrics.sign(self.larger_is_better)
        name = self.metric or forms(self.first, row)[0]
        found = near(row, name)
        value = found["mean"] if isinstance(found, dict) and not found["diverged"] else None
        better = value is not None and (best["value"] is None or sign * value > sign * best["value"])
        if better:
            best |= {"value": value, "step": step, "waited": 0}
        elif step:
            best["waited"] += 1
        reason = None
        if value is not None and self.target is not None and sign * value >= sign * self.target:
            reason = f"target: {name} {value:.6g} at step {step} (stop.target={self.target})"
        elif self.patience is not None and best["waited"] >= self.patience:
            known = best["value"]
            since = "; all had diverged tasks" if known is None else f" since step {best['step']} ({known:.6g})"
            reason = f"patience: no better {name} in {self.patience} validations{since}"
        return Verdict(value, better, reason)
