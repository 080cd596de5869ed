"""The recipe of docs/own_data.md: a file of any name that builds on `dataset` is trained with the pair's settings."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from metaexp.config.settings import load
from metaexp.evaluation.scores import evaluate
from metaexp.training.build import Experiment

PACKAGE = '''
import numpy as np

class Patterns:
    """60 classes of 10 noisy copies of a random 8 x 8 pattern."""

    def __init__(self):
        random = np.random.default_rng(0)
        pattern = np.kron(random.uniform(0, 255, (60, 1, 4, 4)), np.ones((2, 2)))
        self.x = np.clip(pattern + random.normal(0, 30, (60, 10, 8, 8)), 0, 255).astype(np.uint8)

    def __len__(self):
        return 600

    def __getitem__(self, i):
        return self.x[i // 10, i % 10], i // 10
'''
RECIPE = "# My pictures\ndefaults: [dataset]\ndataset: {_target_: own_patterns.Patterns}\n"


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "task").mkdir()
    (tmp_path / "task/patterns.yaml").write_text(RECIPE)
    (tmp_path / "own_patterns.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield str(tmp_path)
    sys.modules.pop("own_patterns", None)


def test_maml_learns_own_pictures_with_the_pairs_settings(pictures: str) -> None:
    typed = ["algo=maml", "task=patterns", "device=cpu", "compile=false", "model.filters=16", "steps=8"]
    assert load(typed, pictures)["meta_batch"] == 32
    typed.append("meta_batch=8")
    config = load(typed, pictures)
    built = load(["algo=maml", "task=dataset", *typed[2:]])
    assert config["algo"] == built["algo"]
    assert (config["algo"]["inner_lr"], config["algo"]["test_steps"], config["task"]["queries"]) == (0.4, 3, 1)
    experiment = Experiment(config)

    for index in range(config["steps"]):
        experiment.training.advance(index)
    accuracy = evaluate(experiment.learner, "test", 20, ["queries"], final=True).first("accuracy").mean()
    torch.set_num_threads(1)
    assert accuracy > 0.6  # chance is 0.2; with the settings of no pair it is 0.2 to 0.4
