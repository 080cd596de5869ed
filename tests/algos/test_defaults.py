"""Methods at the settings of conf/algo."""

import numpy as np
import pytest
import torch
from references import gradients, sines

from metaexp.config.compose import config_dir
from metaexp.config.instantiate import instantiate
from metaexp.config.settings import Settings
from metaexp.contract import pictures
from metaexp.evaluation.scores import evaluate
from metaexp.models.mlp import MLP

GRADIENT = ("anil", "boil")
METHODS = (*GRADIENT, "metasgd", "protonet", "r2d2", "hypernet", "incontext")


@pytest.mark.parametrize("algo", METHODS)
@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_finite_over_200_tasks_at_default_settings(algo, kind):
    """In float32, as conf/algo has them, at training and along the whole path at test."""
    if (algo, kind) == ("protonet", "regression"):
        return
    family = sines(shots=10) if kind == "regression" else pictures(shots=1)
    family.to("cpu", torch.float32)
    make = instantiate(Settings([], config_dir()).composer.content(f"algo/{algo}"), group="algo", trusted=set())
    torch.manual_seed(0)
    learner = make(family, MLP)
    gradient, value = gradients(learner, learner.train_batch(torch.arange(200)))
    assert value.isfinite()
    assert all(g.isfinite().all() for g in gradient.values())
    scores = evaluate(learner, "test", 200, ["queries"], diagnose=True).arrays
    assert all(np.isfinite(values).all() for values in scores.values())
    own = {"metasgd": "rate/head", "r2d2": "strength", "hypernet": "added"} | dict.fromkeys(
        GRADIENT, "inner_gradient_norm"
    )
    if algo in own:
        assert len(scores[own[algo]]) == 200
    assert {name for name in own.values() if name in scores} == ({own[algo]} if algo in own else set())
