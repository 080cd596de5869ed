"""Which validation metric decides on the best checkpoint and on patience."""

from types import SimpleNamespace

import pytest
from references import gp

from metaexp.algos.cnp import CNP
from metaexp.contract import new
from metaexp.models.linear import Linear
from metaexp.training.control import Control


@pytest.mark.parametrize(
    ("metric", "value", "better"), [(None, -1.0, -0.5), ("mse", 1.0, 0.5), ("coverage90", 0.5, 0.8)]
)
def test_the_best_checkpoint_follows_the_metric_that_judges(metric, value, better):
    config = {"stop": {"metric": metric, "target": None, "patience": None}}
    saved = []
    save = SimpleNamespace(save_best=lambda write, step: saved.append(step))
    none = SimpleNamespace()
    control = Control(config, new(lambda f: CNP(f, Linear), gp()), none, none, none, save, none, none)
    name = metric or "log_likelihood"
    assert control.judged == name
    for step, mean in enumerate((value, better, value)):
        control.step = step
        control._judge({"kind": "val", name: {"mean": mean, "diverged": 0}})
    assert saved == [0, 1]
    assert control.best_value() == better


def test_patience_where_every_validation_had_a_diverged_task():
    config = {"stop": {"metric": None, "target": None, "patience": 2}}
    none = SimpleNamespace()
    loop = SimpleNamespace(stopped=False)
    control = Control(config, new(lambda f: CNP(f, Linear), gp()), loop, none, none, none, none, none)
    for step in range(3):
        assert control.reason is None
        control.step = step
        control._judge({"kind": "val", "log_likelihood": {"mean": 1.0, "diverged": 1}})
    assert control.reason == "patience: no better log_likelihood in 2 validations; all had diverged tasks"
    assert loop.stopped
