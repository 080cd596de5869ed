"""scripts/medical_pictures.py: its baselines against independent code, and the command on made pictures."""

import json
import sys
from pathlib import Path

import fake_omniglot
import numpy as np
import pytest
from conftest import ROOT

pytest.importorskip("sklearn")
sys.path.insert(0, str(ROOT / "scripts"))
import medical_pictures as command
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from tabling import transfer
from tabling.page import between

from metaexp.tasks.medmnist import MedMNIST


@pytest.fixture(scope="module")
def made_pictures(tmp_path_factory) -> Path:
    """Both sets with few pictures, whose second class is brighter in one quarter."""
    folder, random = tmp_path_factory.mktemp("medmnist"), np.random.default_rng(0)
    for name in transfer.SETS:
        arrays = {}
        for split, count in (("train", 60), ("val", 40), ("test", 40)):
            labels = np.repeat([0, 1], count // 2)
            pixels = random.integers(0, 160, (count, 28, 28))
            pixels[labels == 1, :14, :14] += 25
            arrays |= {f"{split}_images": pixels.astype(np.uint8), f"{split}_labels": labels[:, None].astype(np.uint8)}
        np.savez(folder / f"{name}.npz", **arrays)
    return folder


def test_baselines_are_those_of_scikit_learn(made_pictures):
    family = MedMNIST(str(made_pictures), set="breastmnist", shots=3, queries=15)
    drawn = transfer.episodes(family, "test", 6)
    assert [part.shape for part in drawn[0]] == [(6, 784), (6,), (30, 784), (30,)]
    for e in drawn:
        assert transfer.neighbour(e) == KNeighborsClassifier(1).fit(*e[:2]).score(*e[2:])
        assert transfer.nearest_mean(e) == NearestCentroid().fit(*e[:2]).score(*e[2:])
    by_strength = {c: np.array([transfer.logistic(e, c) for e in drawn]) for c in transfer.STRENGTHS}
    best = max(by_strength, key=lambda c: by_strength[c].mean())
    assert (transfer.chosen_logistic(drawn, drawn) == by_strength[best]).all()


def run(home: Path, pictures: Path, *words: str) -> dict:
    places = ["--medmnist", pictures, "--runs", home / "runs", "--out", home / "m.json", "--page", home / "m.md"]
    command.main([*map(str, places), *words])
    return json.loads((home / "m.json").read_text())


def test_the_command_without_methods(made_pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "SHOTS", (5,))
    monkeypatch.setattr(transfer, "STRENGTHS", (0.1,))
    found = run(tmp_path, made_pictures, "--methods", "none", "--episodes", "8")
    rows = found["cells"]["pneumoniamnist, 5 shots"]["rows"]
    family = MedMNIST(str(made_pictures), shots=5, queries=15)
    values = np.array([transfer.nearest_mean(e) for e in transfer.episodes(family, "test", 8)])
    assert rows["nearest class mean on pixels"]["mean"] == pytest.approx(values.mean())
    text = (tmp_path / "m.md").read_text()
    assert "Not run so far: `protonet`, `r2d2`, `maml` meta-trained on Omniglot." in text
    row = rows[transfer.LOGISTIC]
    assert between(100 * row["mean"], 100 * row["half"]) in text
    with pytest.raises(SystemExit):
        command.main(["--medmnist", str(made_pictures)])


@pytest.mark.tier("long")
def test_the_command_with_a_method_trained_on_characters(made_pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "SHOTS", (5,))
    omniglot = fake_omniglot.write_packed(tmp_path / "omniglot")
    words = ["--omniglot", str(omniglot), "--methods", "protonet", "--episodes", "10", "--budget", "0.01"]
    found = run(tmp_path, made_pictures, *words)
    rows = found["cells"]["breastmnist, 5 shots"]["rows"]
    assert not rows["protonet"]["baseline"]
    assert "logistic regression on protonet's features" in rows
    assert [step for step, _ in found["methods"]["protonet"]["curve"]] == [1, 2, 3, 4]
    weights = (tmp_path / "runs" / "protonet.pt").stat().st_mtime_ns
    assert run(tmp_path, made_pictures, *words)["cells"] == found["cells"]
    assert (tmp_path / "runs" / "protonet.pt").stat().st_mtime_ns == weights
