"""The comparison of few-shot intents: its files, its classifiers on frozen vectors, its numbers and headlines."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import intents
import text_table
from comparing.text_page import Cell, write


def test_logistic_regression_in_the_span_of_the_support_is_that_of_all_dimensions():
    sklearn = pytest.importorskip("sklearn.linear_model")
    random = torch.Generator().manual_seed(0)
    for _ in range(5):
        x, u = (torch.randn(n, 40, generator=random) for n in (10, 30))
        y = torch.eye(5).repeat(2, 1)
        whole = sklearn.LogisticRegression(C=10.0, max_iter=1000).fit(x.double().numpy(), y.argmax(1).numpy())
        np.testing.assert_array_equal(text_table.logistic(x, y, u, 10.0), whole.predict(u.double().numpy()))


def test_nearest_mean():
    x, y = torch.tensor([[0.0, 0], [2, 0], [0, 4]]), torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    assert text_table.nearest_mean(x, y, torch.tensor([[0.9, 2.3], [1.1, 1.4], [0, 3]])).tolist() == [1, 0, 1]


def test_the_files_have_the_papers_sizes(data_folder: Path, tmp_path: Path):
    intents.prepare(data_folder, tmp_path)
    folds = json.loads((tmp_path / "folds.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "intents.jsonl").read_text().splitlines()]
    assert len(rows) == 35_583
    for name, sizes in {"clinc-01": [50, 50, 50], "banking-05": [25, 25, 27], "cross": [90, 30, 77]}.items():
        assert [len(folds[name][part]) for part in intents.SPLITS] == sizes
    assert not any("credit" in label for label in folds["cross"]["train"])
    assert {"clinc/exchange_rate", "banking/exchange_rate"} <= {row["label"] for row in rows}


def test_means_intervals_and_headlines_are_those_of_the_scores(tmp_path: Path):
    random = np.random.default_rng(0)
    base = random.random((2, 4, 50))
    scores = tmp_path / "scores"
    scores.mkdir()
    about = {"date": "2026-01-01", "versions": {"torch": "1"}, "machine": {"cpu": "a processor"}}
    for fold in (0, 1):
        # logistic 0.1 above prototypes at 1 shot, below elsewhere; protonet above both at 1 and 2 shots, below at 10
        parts = {"prototypes": base[fold], "logistic": base[fold] + np.array([[0.1], [-0.1], [-0.1], [-0.1]])}
        parts["protonet"] = base[fold] + np.array([[0.2], [0.3], [0.0], [-0.2]]) + 0.01 * random.random((4, 50))
        parts["protonet"][2] = base[fold][2]
        parts["r2d2"] = parts["protonet"] + 0.05  # better still, but never meta-trained in one of the folds
        for method, values in parts.items():
            made = {"accuracy": values.tolist(), "neighbour": values.tolist(), "about": about}
            made |= {"weights": {"kind": "best", "step": 0 if fold and method == "r2d2" else 100}, "doubt": None}
            (scores / f"clinc-0{fold + 1}_ngrams_{method}.json").write_text(json.dumps(made))
    write(scores, tmp_path / "out")
    numbers = json.loads((tmp_path / "out/text.json").read_text())["groups"]["clinc:ngrams"]
    mean = 100 * base.mean(axis=(0, 2))
    half = 196 * np.sqrt((base.var(2, ddof=1) / 50).sum(0)) / 2
    np.testing.assert_allclose(numbers["accuracy"]["prototypes"], np.stack([mean, half], 1), atol=6e-4)
    np.testing.assert_allclose([row[0] for row in numbers["difference"]["protonet"]], [10.5, 30.5, 0, -19.5], atol=0.2)
    page = (tmp_path / "out/text.md").read_text()
    head = "meta-training helps at 1 shot (protonet), helps at 2 shots (protonet), does not help at 5 shots, "
    assert head + "does not help at 10 shots; worse: protonet, r2d2." in page
    assert "The weights of step 0 were the best on validation classes in runs of: r2d2." in page
    gap = Cell([base[0]]) - Cell([base[0] - 0.5])
    np.testing.assert_allclose(gap.mean(), 0.5)
    np.testing.assert_allclose(gap.half(), 0, atol=1e-12)
