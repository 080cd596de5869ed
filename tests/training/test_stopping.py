"""Which validation metric decides on the best checkpoint, on the target and on patience."""

import pytest
from references import gp

from metaexp.algos.cnp import CNP
from metaexp.contract import new
from metaexp.models.linear import Linear
from metaexp.training.stopping import StopRule


def rule(metric=None, target=None, patience=None) -> StopRule:
    config = {"stop": {"metric": metric, "target": target, "patience": patience}}
    return StopRule.of(config, new(lambda f: CNP(f, Linear), gp()))


def row(name: str, mean: float, diverged: int = 0) -> dict:
    return {"kind": "val", name: {"mean": mean, "diverged": diverged}}


def nothing() -> dict:
    return {"value": None, "step": 0, "waited": 0}


@pytest.mark.parametrize(
    ("metric", "value", "better"), [(None, -1.0, -0.5), ("mse", 1.0, 0.5), ("coverage90", 0.5, 0.8)]
)
def test_the_best_weights_follow_the_metric_that_judges(metric, value, better):
    judge, best = rule(metric), nothing()
    name = metric or "log_likelihood"
    assert judge.judged == name
    verdicts = [judge.judge(row(name, mean), best, step) for step, mean in enumerate((value, better, value))]
    assert [verdict.better for verdict in verdicts] == [True, True, False]
    assert [verdict.reason for verdict in verdicts] == [None] * 3
    assert best == {"value": better, "step": 1, "waited": 1}


def test_patience_where_every_validation_had_a_diverged_task():
    judge, best = rule(patience=2), nothing()
    reasons = [judge.judge(row("log_likelihood", 1.0, 1), best, step).reason for step in range(3)]
    assert reasons == [None, None, "patience: no better log_likelihood in 2 validations; all had diverged tasks"]
    assert best["value"] is None


@pytest.mark.parametrize(("metric", "values", "target"), [("mse", (2.0, 0.5), 0.5), (None, (-2.0, -1.0), -1.5)])
def test_a_target_ends_the_run_when_it_is_reached(metric, values, target):
    judge, best = rule(metric, target=target), nothing()
    reasons = [judge.judge(row(metric or "log_likelihood", v), best, 10 * i).reason for i, v in enumerate(values)]
    assert reasons[0] is None
    assert reasons[1].startswith(f"target: {metric or 'log_likelihood'} {values[1]:.6g} at step 10")


def test_patience_names_the_best_so_far():
    judge, best = rule("mse", patience=2), nothing()
    values = (3.0, 2.0, 2.5, 2.0)
    reasons = [judge.judge(row("mse", v), best, 10 * i).reason for i, v in enumerate(values)]
    assert reasons == [None, None, None, "patience: no better mse in 2 validations since step 10 (2)"]
