"""Fine-tuning a network on a support set: what the transfer baselines share, as free functions."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from metaexp import metrics
from metaexp.checks import whole
from metaexp.evaluation.scores import evaluate
from metaexp.inner import InnerOptimiser, Tree, descend, minibatches
from metaexp.types import Examples


def epochs_to_steps(epochs: int, batch: int | None, n: int) -> int:
    """Number of minibatch steps in so many epochs over n examples."""
    return epochs * (1 if batch is None else math.ceil(n / max(1, min(batch, n))))


def steps_on(learner: Any, examples: int) -> int:
    """Steps that the learner's `test_epochs` take over so many support examples; of a family whose support sets vary
    those of the test's size for all, since the tasks of a test share one number of steps."""
    if learner.family.varying("test"):
        return int(learner.test_steps)
    return epochs_to_steps(learner.test_epochs, learner.test_batch, examples)


def fine_tune(
    loss: Callable[[Tree, Examples], Tensor],
    params: Tree,
    support: Examples,
    key: Tensor,
    optimiser: InnerOptimiser,
    lr: float | Tensor,
    steps: int,
    batch: int | None,
) -> list[Tree]:
    """Plain training on minibatches of the support set: the parameters after 0, 1, ..., steps steps."""
    rows = minibatches(key, 64, len(support.x), batch, steps)

    def on_batch(p: Tree, step: int) -> Tensor:
        return loss(p, support if rows is None else Examples(support.x[rows[step]], support.y[rows[step]]))

    return descend(on_batch, params, optimiser, lr, steps, first_order=True).path


def check_fine_tuning(lr: object, epochs: int, batch: int | None) -> list[float]:
    """The candidate rates as a list; refuses what is out of range, naming the argument."""
    rates = [float(rate) for rate in lr] if isinstance(lr, (list, tuple)) else [float(lr)]  # type: ignore[arg-type]
    if not rates or any(not rate > 0 for rate in rates):
        raise ValueError(f"test_lr={lr}: must be above 0 (one rate, or a list to choose from)")
    whole("test_epochs", epochs, 0)
    if batch is not None:
        whole("test_batch", batch, 1)
    return rates


def choose_rate(learner: Any, rates: list[float], tasks: int = 200) -> dict[str, Any]:
    """Set the buffer `learner.test_lr` to the rate with the best final metric on validation tasks; what to record."""
    if len(rates) == 1:
        learner.test_lr.fill_(rates[0])  # a checkpoint may have brought another one
        return {}
    name = next(iter(learner.metrics))
    sign = -metrics.sign(metrics.direction(metrics.declared(learner), name))
    means = {}
    for rate in rates:
        learner.test_lr.fill_(rate)
        means[rate] = float(evaluate(learner, "val", tasks, ["queries"], final=True).first(name)[:, -1].mean())
    best = min(rates, key=lambda rate: sign * means[rate] if math.isfinite(means[rate]) else math.inf)
    learner.test_lr.fill_(best)
    return {"test_lr": best, "validation_" + name: {str(rate): mean for rate, mean in means.items()}}
