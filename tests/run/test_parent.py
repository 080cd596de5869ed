"""start=RUN: a new run goes on from a finished one. Whose weights, whose units, old and new tasks side by side."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forks import Fault, Forks
from made_table import HEADER, rows, write
from small_runs import train
from stopped_runs import KILL, STEP, assert_same_run
from undrawn import undraw

from metaexp.config.overrides import parse
from metaexp.config.settings import Settings, load
from metaexp.encoders.ngrams import NGrams
from metaexp.errors import BusyError, ConfigError, MetaexpError
from metaexp.evaluate import evaluate
from metaexp.evaluation.scores import evaluate as scores_of
from metaexp.run.restore import load_weights, open_config, restore
from metaexp.run.sweep_jobs import check, find_jobs
from metaexp.storage.metrics_log import read_rows
from metaexp.storage.run_folder import RunFolder
from metaexp.tasks.sine import Sine
from metaexp.tasks.text import Text
from metaexp.training.forgetting import beside

QUICK = ["test.curve_shots=[]", "test.tasks=8"]
TEXT = ["task=text", "task.ways=2", "task.queries=2", "cache=off", "encoder=ngrams", "encoder.dimensions=64", *QUICK]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    undraw(monkeypatch.setattr)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def sine(out: Path) -> Path:
    return train(out, "algo=maml", "task=sine", *QUICK, "algo.test_steps=2", "optimizer.lr=0.01")


def go_on(parent: Path, out: Path, *typed: str) -> Path:
    """A run that starts from another one and takes all of its settings but these."""
    from metaexp.run.single import run

    return run(load([f"start={parent}", *typed, f"out={out}"])).folder


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def scores(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "test_scores.npz") as file:
        return {name: file[name] for name in file.files}


def newest(folder: Path) -> Path:
    return max((folder / "evaluations").iterdir(), key=lambda path: int(path.name))


def validations(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == "val"]


def test_without_steps_the_test_is_the_parents_to_the_bit(sine: Path, tmp_path: Path) -> None:
    child = go_on(sine, tmp_path, "steps=0")
    before, now = scores(sine), scores(child)
    for name in before:  # baselines, too: without meta-training is the untrained network in both
        assert np.array_equal(before[name], now[name]), name
    result = told(child)
    assert result["test"] == told(sine)["test"]
    old = result["parent"]["old"]
    assert old["query_sha256"] == told(sine)["protocol"]["query_sha256"]
    (metric,) = old["metrics"].values()
    assert metric["before"] == metric["after"]
    assert (metric["change"], metric["change_ci95"]) == (0.0, 0.0)
    assert np.array_equal(now["floor_parent_mse"], before["mse"])


def test_it_starts_at_the_parents_best_weights_and_says_whose_they_are(
    sine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = go_on(sine, tmp_path, "seed=1")
    best = next(row for row in validations(sine) if row["step"] == told(sine)["weights"]["step"])
    first = validations(child)[0]
    assert first["mse"] == best["mse"]  # validation tasks do not depend on the seed
    assert "scratch" not in first["floors"]
    assert first["floors"]["parent"]["mse"] == best["mse"]["mean"]
    assert validations(child)[-1]["mse"] != best["mse"]
    parent, file = told(child)["parent"], sine / "checkpoints/best.ckpt"
    sidecar = json.loads((sine / "checkpoints/best.ckpt.json").read_text())
    assert (parent["folder"], parent["checkpoint"], parent["sha256"]) == (str(sine), file.name, sidecar["sha256"])
    assert parent["step"] == told(sine)["weights"]["step"]
    assert parent["settings"] == open_config(sine)["task"]
    optimiser = torch.load(child / "checkpoints/step=000000006.ckpt", weights_only=True)["optimizer_states"][0]
    assert {float(state["step"]) for state in optimiser["state"].values()} == {6.0}  # a fresh one
    shown = capsys.readouterr()
    assert f"starts from {sine} (best.ckpt, step {parent['step']}), with a fresh optimiser" in shown.out + shown.err
    assert f"started from {sine}" in shown.out


def test_a_run_counts_its_own_steps_however_many_its_parent_has(out: Path, tmp_path: Path) -> None:
    parent = train(out, "algo=maml", "task=sine", *QUICK, "test.weights=last")
    assert told(parent)["weights"]["step"] >= 6
    child = go_on(parent, tmp_path, "steps=2", "val.every=1")
    assert told(child)["steps"] == told(child)["weights"]["step"] == 2
    assert [row["step"] for row in read_rows(child) if row["kind"] == "val"] == [0, 1, 2]
    optimiser = torch.load(child / "checkpoints/step=000000002.ckpt", weights_only=True)["optimizer_states"][0]
    assert {float(state["step"]) for state in optimiser["state"].values()} == {2.0}
    first = [row["outer_loss"] for row in read_rows(child) if row["kind"] == "train"]
    again = go_on(parent, tmp_path / "again", "steps=1", "val.every=1")
    assert [row["outer_loss"] for row in read_rows(again) if row["kind"] == "train"] == first[:1]


def test_old_and_new_test_tasks_stand_side_by_side(sine: Path, tmp_path: Path) -> None:
    child = go_on(sine, tmp_path, "task.amplitude=[5,10]", "test.tasks=12", "steps=12")
    result = told(child)
    old, new = (result["parent"][when]["metrics"]["mse"] for when in ("old", "new"))
    assert old["before"]["mean"] == told(sine)["test"]["mse"]["mean"]
    assert new["after"]["mean"] == result["test"]["mse"]["mean"]
    assert (old["after"]["tasks"], new["after"]["tasks"]) == (8, 12)
    restored = restore(child, open_config(child))
    load_weights(restored, "best")
    learner = restored.parts.learner
    learner.family = Sine(shots=10, queries=100)  # the parent's tasks
    again = scores_of(learner, "test", 8, ["queries"]).arrays["mse"][:, -1]
    assert old["after"]["mean"] == again.mean()
    apart = again - scores(sine)["mse"][:, -1]
    assert old["change"] == pytest.approx(apart.mean())
    assert old["change_ci95"] == pytest.approx(1.96 * apart.std(ddof=1) / np.sqrt(8))
    apart = scores(child)["mse"][:, -1] - scores(child)["floor_parent_mse"][:, -1]
    assert new["change"] == pytest.approx(apart.mean())
    assert evaluate([f"run={child}"]) == 0
    assert np.array_equal(scores(newest(child))["mse"], scores(child)["mse"])
    assert told(newest(child))["parent"] == result["parent"]


def test_killed_and_resumed_it_has_the_same_bits_though_the_parent_is_gone(
    sine: Path, tmp_path: Path, forks: Forks
) -> None:
    parent = shutil.copytree(sine, tmp_path / "parent")
    words = ["task.amplitude=[5,10]", "steps=9", "checkpoint.every=4"]
    one = go_on(parent, tmp_path / "straight", *words)
    ended = forks(f"start={parent}", *words, "out=cut", cwd=tmp_path, fault=Fault(STEP, 7, KILL))
    assert ended.code == -signal.SIGKILL
    shutil.move(parent, tmp_path / "elsewhere")
    (other,) = (tmp_path / "cut").iterdir()
    ended = forks(f"resume={other}", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert_same_run(one, other)
    assert told(one)["parent"] == told(other)["parent"]
    assert ended.out.count("old tasks") == 1


@pytest.mark.parametrize(
    ("typed", "error", "says"),
    [
        ("model.hidden=[8]", ConfigError, "its weights do not fit"),
        ("algo=protonet task=clusters", ConfigError, "is classification, and this run learned regression"),
        ("task=linear", ConfigError, "an input is [2], and this run takes [1]"),
        ("from={sine}", ConfigError, "takes that run's settings already; leave one out"),
        ("resume={sine}", ConfigError, "a resumed run keeps its own settings; leave out start="),
        ("experiment=maml_sine", ConfigError, "its settings would replace those of experiment=maml_sine"),
        ("seedz=1", ConfigError, "seedz=1: no such setting"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(
    typed: str, error: type[MetaexpError], says: str, sine: Path, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        go_on(sine, tmp_path / "out", *typed.format(sine=sine).split())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert not list((tmp_path / "out").glob("*/*"))


def test_a_run_without_weights_or_in_use_is_no_start(sine: Path, out: Path, tmp_path: Path) -> None:
    nothing = train(out, "algo=mean", "task=sine", "name=nothing", *QUICK)
    with pytest.raises(ConfigError, match="has no checkpoint, so there are no trained weights to start from"):
        load([f"start={nothing}"])
    with pytest.raises(ConfigError, match="start=nowhere: no such run folder"):
        load(["start=nowhere"])
    used = shutil.copytree(sine, tmp_path / "used")
    with RunFolder.reopen(used) as folder:
        folder.status("running", step=1)
        with pytest.raises(BusyError, match="is still running; wait for its end"):
            load([f"start={used}"])


def test_the_hash_is_of_the_weights_and_not_of_the_place(sine: Path, tmp_path: Path) -> None:
    from metaexp.storage.saved_config import config_sha256

    moved = shutil.copytree(sine, tmp_path / "moved")
    one, two, fresh = (config_sha256(load([word])) for word in (f"start={sine}", f"start={moved}", f"from={sine}"))
    assert one == two != fresh
    assert fresh == config_sha256(open_config(sine))


def test_in_a_sweep_each_job_starts_there(sine: Path) -> None:
    settings = Settings()
    _, jobs, faults = find_jobs(
        settings, settings.prepare(parse([f"start={sine}", "seed=1,2", "model.hidden=[40,40]"]))
    )
    assert not faults
    assert [job.config["parent"]["checkpoint"] for job in jobs] == ["best.ckpt"] * 2
    assert not check(jobs)
    _, jobs, _ = find_jobs(settings, settings.prepare(parse([f"start={sine}", "model.hidden=[40,40],[8]"])))
    (fault,) = check(jobs)
    assert "its weights do not fit" in fault


def test_a_run_that_was_started_is_a_parent_itself(sine: Path, tmp_path: Path) -> None:
    child = go_on(sine, tmp_path, "task.amplitude=[5,10]")
    grandchild = go_on(child, tmp_path / "more", "steps=0")
    assert told(grandchild)["parent"]["folder"] == str(child)
    assert told(grandchild)["test"] == told(child)["test"]
    assert load([f"from={child}"])["start"] == str(sine)  # how it began is one of its settings


# -- raw data become inputs as in the parent


def sentences(file: Path, labels: int, words: str) -> Path:
    lines = [f"{words} number{i} of kind{label},{words[0]}{label}" for label in range(labels) for i in range(6)]
    file.write_text("text,label\n" + "\n".join(lines) + "\n")
    return file


def test_sentences_keep_the_encoder_and_the_units(tmp_path: Path) -> None:
    own, other = sentences(tmp_path / "own.csv", 10, "a sentence"), sentences(tmp_path / "new.csv", 12, "some thing")
    parent = train(tmp_path / "out", "algo=protonet", f"task.file={own}", "task.standardise=centre", *TEXT)
    child = go_on(parent, tmp_path / "child", f"task.file={other}", "steps=3")
    one, two = (restore(run, open_config(run)).parts.family for run in (parent, child))
    assert torch.equal(one.x_mean, two.x_mean)
    assert torch.equal(one.x_std, two.x_std)
    fresh = Text(str(other), encoder=NGrams(dimensions=64), standardise="centre", ways=2, queries=2)
    assert not torch.equal(fresh.x_mean, one.x_mean)
    vectors = (family.data.double() * family.x_std + family.x_mean for family in (two, fresh))
    assert torch.allclose(*vectors, atol=1e-5)
    assert json.loads((child / "inputs.json").read_text()) == json.loads((parent / "inputs.json").read_text())
    assert evaluate([f"run={child}"]) == 0
    assert np.array_equal(scores(newest(child))["accuracy"], scores(child)["accuracy"])
    result = told(child)["parent"]
    assert result["seen"] == {"classes": 0, "of": len(two.splits["test"]), "names": 0, "which": []}
    assert result["old"]["metrics"]["accuracy"]["before"]["mean"] == told(parent)["test"]["accuracy"]["mean"]
    with pytest.raises(ConfigError, match="encoder: NGrams is not what this run was trained with, its dimensions"):
        go_on(parent, tmp_path / "no", "encoder.dimensions=32")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on a table, and the table."""
    folder = tmp_path_factory.mktemp("table")
    file = write(folder / "schools.csv", rows())
    words = ["task=table", f"task.file={file}", "task.by=school", "task.target=score", "task.shots=2", "algo=maml"]
    return train(folder, *words, "task.queries=3", "task.bucket=4", *QUICK), file


def test_a_table_keeps_its_transformers(table: tuple[Path, Path], tmp_path: Path) -> None:
    parent, _ = table
    made = [row[:1] + [row[1] if row[1] == "" else 3 * float(row[1]), *row[2:]] for row in rows(seed=1)]
    other = write(tmp_path / "new.csv", [[*row, "x"] for row in made], [*HEADER, "extra"])
    child = go_on(parent, tmp_path / "child", f"task.file={other}", "steps=3")
    one, two = (restore(run, open_config(run)).parts.family for run in (parent, child))
    assert one.content.inputs.columns == two.content.inputs.columns
    assert torch.equal(one.y_mean, two.y_mean)
    assert torch.equal(one.y_std, two.y_std)
    age = next(column for column in one.content.inputs.columns if column["name"] == "age")
    place = two.content.inputs.features.index("age")
    known = sorted((float(row[1]) - age["mean"]) / age["std"] for row in made if row[1] != "")
    encoded = two.content.x[:, place]
    assert set(np.round(known, 9)) <= set(np.round(encoded.numpy(), 9))
    assert evaluate([f"run={child}"]) == 0
    assert np.array_equal(scores(newest(child))["mse"], scores(child)["mse"])
    old = told(child)["parent"]["old"]["metrics"]["mse"]
    assert old["before"]["mean"] == told(parent)["test"]["mse"]["mean"]
    again = go_on(parent, tmp_path / "again", "steps=0")
    assert told(again)["test"] == told(parent)["test"]
    grandchild = go_on(child, tmp_path / "grandchild", "steps=0")
    assert told(grandchild)["test"] == told(child)["test"]
    old = told(grandchild)["parent"]["old"]["metrics"]["mse"]
    assert old["before"]["mean"] == old["after"]["mean"] == told(child)["test"]["mse"]["mean"]


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (["school", "age", "sex", "day", "wage", "score"], "has no column income"),
        (["school", "age", "sex", "day", "income", "points"], "has no column score"),
    ],
)
def test_a_table_with_other_columns_is_refused(
    head: list[str], says: str, table: tuple[Path, Path], tmp_path: Path
) -> None:
    other = write(tmp_path / "new.csv", rows(), head)
    with pytest.raises(MetaexpError) as caught:
        go_on(table[0], tmp_path / "out", f"task.file={other}")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code in (2, 3)
    assert not (tmp_path / "out").exists()


def test_without_the_parents_data_the_new_tasks_are_learned_and_the_old_ones_left_out(
    table: tuple[Path, Path], tmp_path: Path
) -> None:
    parent, file = table
    away = shutil.copytree(parent, tmp_path / "parent")
    config = (away / "config.yaml").read_text().replace(str(file), str(tmp_path / "gone.csv"))
    (away / "config.yaml").write_text(config)
    child = go_on(away, tmp_path / "out", f"task.file={file}", "steps=0")
    assert told(child)["test"] == told(parent)["test"]
    assert "gone.csv" in told(child)["parent"]["old"]["why"]


def test_changes_are_paired_and_have_a_direction() -> None:
    draw = np.random.default_rng(0)
    one, two = draw.normal(size=(50, 3)), draw.normal(size=(50, 2))
    found = beside({"mse": one, "lost": one}, {"mse": two}, {"mse": False}.get)["metrics"]
    apart = two[:, -1] - one[:, -1]
    assert set(found) == {"mse"}
    assert found["mse"]["change"] == pytest.approx(apart.mean())
    assert found["mse"]["change_ci95"] == pytest.approx(1.96 * apart.std(ddof=1) / np.sqrt(50))
    assert (found["mse"]["before"]["mean"], found["mse"]["larger_is_better"]) == (one[:, -1].mean(), False)
