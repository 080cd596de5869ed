"""scripts/mixture.py: what the page says of regret, of the Bayes prediction and of resuming."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from metaexp.report.reading import Run
from metaexp.tasks.mixture import NAMES, Mixture

sys.path.insert(0, str(ROOT / "scripts"))
from mixing import bayes, section


def run(seed, scores):
    return Run(Path("x"), {"seed": seed}, {"algo": "a"}, {"mse": scores}, ("", 0.0))


def test_regret_is_paired_and_its_interval_is_that_of_the_mean_over_seeds():
    random = np.random.default_rng(0)
    known = {"mse": random.exponential(0.1, 90), "kind": np.arange(90) % 6}
    scores = [known["mse"][:, None] + random.normal(0.2, 0.05, (90, 3)) for _ in range(3)]
    row = section._row([run(i, one) for i, one in enumerate(scores)], known)
    each = np.mean([one[:, -1] for one in scores], 0)
    excess = each - known["mse"]
    assert row["seeds"] == 3
    assert row["mse"] == pytest.approx(each.mean())
    assert row["regret"] == pytest.approx(excess.mean())
    assert row["regret_ci95_tasks"] == pytest.approx(1.96 * excess.std(ddof=1) / np.sqrt(90))
    means = np.array([one[:, -1].mean() for one in scores])
    assert row["ci95_seeds"] == pytest.approx(4.3027 * means.std(ddof=1) / np.sqrt(3), rel=1e-4)  # Student, 2 degrees
    for i, name in enumerate(NAMES):
        assert row["by_kind"][name] == pytest.approx(each[i::6].mean())
    scores[0][4, 1] = np.inf  # only the last step counts
    scores[1][7, -1] = np.nan
    lost = section._row([run(i, one) for i, one in enumerate(scores)], known)
    assert lost["not_finite"] == 1
    assert lost["regret"] == pytest.approx(np.delete(excess, 7).mean())
    assert section._row([], known) == {}


def test_the_bayes_prediction_is_kept_and_made_again_for_other_settings(tmp_path):
    file, family = tmp_path / "kept.npz", Mixture(test={"queries": 5}, oracle_samples=64)
    found = bayes.bayes(family, 12, file)
    assert found["kind"].tolist() == family.sample("test", torch.arange(12)).info["kind"].tolist()
    assert not np.array_equal(found["mse"], found["mse_2"])
    assert (found["apart"] > 0).all()
    again = bayes.bayes(family, 12, file)
    assert all(np.array_equal(found[name], again[name]) for name in found)
    np.savez(file, **{**dict(np.load(file)), "mse": np.zeros(12)})
    assert not bayes.bayes(family, 12, file)["mse"].any()  # it was read
    other = bayes.bayes(Mixture(test={"queries": 5}, oracle_samples=64, x_range=(-5.0, 5.0)), 12, file)
    assert other["mse"].all()
    table = bayes.told(found, family)
    assert f"| all | 12 | {found['mse'].mean():.4f} ±" in table[2]
    assert len(table) == 3 + len(set(found["kind"].tolist()))
