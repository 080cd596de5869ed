"""Scores kind by kind: against plain sums, and in the result and the boards of a run."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_runs import train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metaexp.evaluation.intervals import summary
from metaexp.evaluation.kinds import Kinds, add_by_kind, kind_scalars, kinds_of
from metaexp.tasks.mixture import NAMES, Mixture
from metaexp.tasks.sine import Sine
from metaexp.tasks.sine_line import SineLine
from metaexp.training.figures import draw_kinds


def test_kinds_of_a_family_do_not_depend_on_the_chunks():
    family = Mixture()
    found = kinds_of(family, "test", 250, chunk=60)
    assert found.numbers.tolist() == family.sample("test", torch.arange(250)).info["kind"].tolist()
    assert found.names == NAMES
    assert kinds_of(Sine(), "test", 10) is None
    line = kinds_of(SineLine(line=1.0), "val", 3)
    assert [line.name(number) for number in line.numbers] == ["line"] * 3


def test_means_and_intervals_of_each_kind():
    random = np.random.default_rng(0)
    numbers, values = random.integers(0, 3, 200), random.normal(size=(200, 4))
    values[5, 1] = np.nan
    found = Kinds(numbers, ("a", "b")).split(values)
    assert list(found) == ["a", "b", "2"]
    for number, one in enumerate(found.values()):
        own = values[(numbers == number) & np.isfinite(values).all(1), -1]
        assert one["mean"] == pytest.approx(own.mean(), abs=1e-15)
        assert one["ci95"] == pytest.approx(1.96 * own.std(ddof=1) / np.sqrt(len(own)), abs=1e-15)
        assert one["tasks"] == (numbers == number).sum()
        assert one["diverged"] == one["tasks"] - len(own)
    assert sum(one["diverged"] for one in found.values()) == 1
    lost = Kinds(np.zeros(2, int), ()).split(np.full((2, 1), np.inf))["0"]
    assert lost == {"mean": None, "ci95": None, "tasks": 2, "diverged": 2}
    entries = {"mse": summary(values)}
    add_by_kind(entries, {"mse": values}, None)
    assert "by_kind" not in entries["mse"]


def test_the_result_and_the_boards_of_a_run_have_them(tmp_path):
    settings = [
        "algo=maml",
        "task=mixture",
        "task.oracle_samples=32",
        "steps=2",
        "test.tasks=60",
        "test.curve_shots=[]",
    ]
    folder = train(tmp_path, *settings)
    result = json.loads((folder / "result.json").read_text())
    kinds = kinds_of(Mixture(), "test", 60)
    with np.load(folder / "test_scores.npz") as arrays:
        for entry, values in ((result["test"]["mse"], arrays["mse"]),
                              *((result["floors"][f]["mse"], arrays[f"floor_{f}_mse"])
                                for f in ("mean", "neighbour", "oracle", "scratch"))):  # fmt: skip
            means = {NAMES[k]: values[kinds.numbers == k, -1].mean() for k in np.unique(kinds.numbers)}
            assert {name: one["mean"] for name, one in entry["by_kind"].items()} == pytest.approx(means, rel=1e-12)
    board = EventAccumulator(str(folder))
    board.Reload()
    shown = kind_scalars(result["test"])
    assert set(shown) == {f"test/mse_by_kind/{NAMES[k]}" for k in np.unique(kinds.numbers)}
    for tag, value in shown.items():
        assert board.Scalars(tag)[0].value == pytest.approx(value, rel=1e-6)
    shown = {}
    loggers = SimpleNamespace(figure=lambda tag, figure, step: shown.update({tag: figure}))
    draw_kinds(SimpleNamespace(metrics={"mse": None}), loggers, result, 2)
    written = {text.get_text() for axes in shown["test/by_kind_mse"].axes for text in axes.texts}
    for entry in (result["test"]["mse"], result["floors"]["oracle"]["mse"]):
        for one in entry["by_kind"].values():
            assert any(float(word) == pytest.approx(one["mean"], rel=0.06) for word in written if word)
