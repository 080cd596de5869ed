"""Small real runs, made in this process, for the tests of report, evaluate and load."""

import re
from pathlib import Path

import numpy as np
from conftest import ROOT
from undrawn import undrawn

from metaexp.config.settings import load
from metaexp.run.single import run

TINY = "device=cpu device.threads=1 compile=false meta_batch=4 steps=6 val.every=3 val.tasks=5 test.tasks=40".split()

SHIPPED = ROOT / "scripts/runs/sine_r2d2"  # a trained run


def waves(n: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points of a sine that no run has seen."""
    x = np.random.default_rng(seed).uniform(-5, 5, (n, 1))
    return x, 3 * np.sin(x[:, 0] - 1)


# A user's package: a learner with Gaussian predictions, and data sets of vectors and of images.
OWN = '''
import numpy as np
import torch
from metaexp.algos.base import MetaLearner

class Gauss(MetaLearner):
    """Mean and deviation of the support targets, shifted and stretched by what is learned."""

    def __init__(self, family, model, **shell):
        super().__init__(family, model, loss=lambda p, y: ((p[:, :1] - y) ** 2).mean() + p[:, 1:].mean(), **shell)
        self.shift = torch.nn.Parameter(torch.zeros(()))

    larger_is_better = False

    @property
    def metrics(self):
        return {"mse": lambda p, y: ((p[:, :1] - y) ** 2).mean()}

    def adapt(self, support, key):
        return {"mean": support.y.mean() + self.shift, "std": support.y.std()}

    def predict(self, adapted, x):
        ones = torch.ones_like(x[:, :1])
        return torch.cat((ones * adapted["mean"], ones * adapted["std"]), 1)

class Vectors:
    """16 classes of unequal size around points of the plane."""

    def __init__(self):
        random = np.random.default_rng(0)
        centres = 3 * random.normal(size=(16, 2))
        self.items = [(c + 0.3 * random.normal(size=2), f"class{i:02}") for i, c in enumerate(centres)
                      for _ in range(20 + i)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        x, label = self.items[i]
        return x.astype(np.float32), label

class Pictures(Vectors):
    """The same as pictures of bytes, 1 by 2."""

    def __getitem__(self, i):
        x, label = self.items[i]
        return np.clip(x * 12 + 128, 0, 255).astype(np.uint8)[None], label
'''
VECTORS = """# Points of the plane
defaults:
  - dataset
  - override /model@_global_.model: mlp
dataset: {{_target_: {package}.parts.{name}}}
ways: 3
queries: 4
test: {{ways: null, shots: null, queries: null, rotation: null}}
"""
GAUSS = "# Mean and deviation of the support\n_target_: {package}.parts.Gauss\n_partial_: true\n"


def train(out: Path, *typed: str, extra: Path | None = None) -> Path:
    """The folder of a finished run under `out`, made without pictures, which take most of the time."""
    before = set(out.glob("*/config.yaml"))
    with undrawn():
        run(load([*TINY, *typed, f"out={out}"], None if extra is None else str(extra)))
    (made,) = set(out.glob("*/config.yaml")) - before
    return made.parent


def own_package(folder: Path) -> tuple[str, Path]:
    """A user's package, and its folder for --config-dir: task=vectors, task=pictures, algo=gauss."""
    package = "own_" + re.sub(r"\W", "_", folder.name)
    (folder / package).mkdir(parents=True)
    (folder / package / "parts.py").write_text(OWN)
    for name in ("Vectors", "Pictures"):
        file = folder / "groups/task" / f"{name.lower()}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(VECTORS.format(package=package, name=name))
    (folder / "groups/algo").mkdir()
    (folder / "groups/algo/gauss.yaml").write_text(GAUSS.format(package=package))
    return package, folder / "groups"


def contents(folder: Path) -> dict[str, bytes]:
    """The content of every file of a run except its evaluations."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if "evaluations" not in path.parts}
