"""Testing a trained run on other tasks and other data: whose tasks, whose units, what it is called, what was seen."""

import json
import shutil
from csv import DictReader
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import contents, train
from undrawn import undraw

from metaexp.config.command_line import exit_code
from metaexp.errors import ConfigError
from metaexp.evaluate import evaluate
from metaexp.evaluation.scores import evaluate as scores_of
from metaexp.report.command import report
from metaexp.run.other_data import other_data
from metaexp.run.other_task import other_task
from metaexp.run.restore import open_config, recorded, restore
from metaexp.tasks.base import TaskFamily
from metaexp.tasks.images import Images
from metaexp.tasks.linear import Linear
from metaexp.tasks.sine import Sine
from metaexp.tasks.sine_line import SineLine

QUICK = ["test.curve_shots=[]", "test.tasks=8"]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    undraw(monkeypatch.setattr)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def sine(out: Path) -> Path:
    return train(out, "algo=maml", "task=sine", *QUICK, "algo.test_steps=2")


def newest(folder: Path) -> Path:
    return max((folder / "evaluations").iterdir(), key=lambda path: int(path.name))


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def scores(folder: Path, name: str) -> np.ndarray:
    with np.load(folder / "test_scores.npz") as file:
        return file[name]


def with_family(run: Path, family: TaskFamily, tasks: int) -> Any:
    """The scores of the run's best weights on the test tasks of a family."""
    restored = restore(run, open_config(run))
    learner, best = restored.parts.learner, restored.checkpoints.best()
    assert best is not None
    learner.load_state_dict(best[0]["state_dict"])
    learner.family = family
    return scores_of(learner, "test", tasks, ["queries"])


# -- functions: shifted, and another family


@pytest.mark.parametrize(
    ("typed", "made", "mark"),
    [
        (["task.amplitude=[5,10]"], Sine(amplitude=(5.0, 10.0), queries=100), "shifted"),
        (["task=sine_line"], SineLine(shots=10, queries=100), "cross-domain"),
        (["task=linear", "task.inputs=1", "task.test.shots=3"], Linear(shots=3, queries=100, inputs=1), "cross-domain"),
    ],
)
def test_the_tasks_are_those_of_a_family_made_so(sine: Path, typed: list[str], made: TaskFamily, mark: str) -> None:
    before = contents(sine)
    assert evaluate([f"run={sine}", *typed]) == 0
    result, expected = told(newest(sine)), with_family(sine, made, 8)
    assert np.array_equal(scores(newest(sine), "mse"), expected.arrays["mse"])
    assert result["protocol"]["query_sha256"] == expected.query_sha256
    assert (result["evaluation"]["mark"], result["evaluation"]["trained_on"]) == (mark, "sine")
    assert result["evaluation"]["seen"] is None  # generated: nothing can be seen again
    assert contents(sine) == before


def test_the_runs_own_tasks_are_not_marked_however_they_are_named(
    sine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate([f"run={sine}", "task=sine", "task.amplitude=[0.1,5]"]) == 0
    assert "mark" not in told(newest(sine))["evaluation"]
    assert np.array_equal(scores(newest(sine), "mse"), scores(sine, "mse"))
    assert "cross-domain" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("task=clusters", "task=clusters: is classification, and this run learned regression"),
        ("task=linear", "task=linear: an input is [2], and this run takes [1]"),
        ("task=linear task.inputs=1 task.outputs=2", "task=linear: a target has 2 numbers, and this run predicts 1"),
        ("task=sine_line task.amplitud=[1,2]", "task.amplitud"),
        ("task=nowhere", "task=nowhere: no such choice"),
        ("task.amplitude=[1,2,3]", "task.amplitude=[1, 2, 3]: must be"),
        ("task.gives=1", "task.gives=1: cannot be changed"),
        ("encoder=ngrams", "encoder=ngrams: other data pass the run's own encoder, none"),
        ("task=sine_line task.shots=0", "task.shots=0: must be at least 1"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(sine: Path, typed: str, says: str) -> None:
    before = sorted((sine / "evaluations").glob("*"))
    with pytest.raises(ConfigError) as error:
        evaluate([f"run={sine}", *typed.split()])
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert sorted((sine / "evaluations").glob("*")) == before


def test_a_rate_is_chosen_on_the_runs_own_validation_tasks(tmp_path: Path) -> None:
    """Not on tasks of the family that is tested: nothing of it may be used before the test."""
    folder = train(tmp_path, "algo=joint", "task=sine", "algo.test_lr=[0.01,0.001]", "algo.test_epochs=2",
                   "task.test.queries=10", *QUICK)  # fmt: skip
    assert evaluate([f"run={folder}", "task=sine_line"]) == 0
    assert told(newest(folder))["finish"] == told(folder)["finish"]
    assert told(folder)["finish"]["validation_mse"].keys() == {"0.01", "0.001"}


# -- pictures: other folders


def pictures(folder: Path, classes: dict[str, int], size: int = 8, count: int = 8) -> Path:
    """Noisy grey squares, one folder per class; the number is what they are drawn from."""
    for name, seed in classes.items():
        draw = np.random.default_rng(seed)
        (folder / name).mkdir(parents=True)
        for i in range(count):
            values = draw.integers(0, 256, (size, size), dtype=np.uint8)
            Image.fromarray(values).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def images(out: Path) -> tuple[Path, Path]:
    """A run on 12 classes of pictures of 8 x 8, and its pictures."""
    root = pictures(out / "pictures", {f"class{i:02}": i for i in range(12)})
    words = ["task=images", f"task.root={root}", "task.size=8", "task.channels=1", "task.ways=2", "task.queries=3"]
    words += ["algo=protonet", "cache=off", "name=images", *QUICK, "test.tasks=12"]
    return train(out, *words), root


def test_other_pictures_take_the_runs_size_and_all_their_classes_are_tested(
    images: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = images
    other = pictures(tmp_path / "other", {"left": 100, "right": 101}, size=16)
    assert evaluate([f"run={folder}", "task=images", f"task.root={other}"]) == 0
    result = told(newest(folder))
    assert result["evaluation"]["mark"] == "cross-domain"
    assert result["evaluation"]["seen"] == {"classes": 0, "of": 2, "names": 0, "which": []}
    assert result["protocol"]["ways"] == 2
    assert result["data_sha256"] != told(folder)["data_sha256"]
    assert "cross-domain trained on images, tested on images" in capsys.readouterr().out
    first = scores(newest(folder), "accuracy")
    # Only the folder is named: it is recognised as other data, too.
    assert evaluate([f"run={folder}", f"task.root={other}"]) == 0
    assert told(newest(folder))["evaluation"]["mark"] == "cross-domain"
    assert np.array_equal(scores(newest(folder), "accuracy"), first)
    made = Images(str(other), 8, "crop", 1, ways=2, queries=3, split=[0, 0, 1])
    assert np.array_equal(first, with_family(folder, made, 12).arrays["accuracy"])


def test_the_runs_own_pictures_elsewhere_are_the_same_data(images: tuple[Path, Path], tmp_path: Path) -> None:
    folder, root = images
    moved = shutil.copytree(root, tmp_path / "moved")
    assert evaluate([f"run={folder}", f"task.root={moved}"]) == 0
    assert "mark" not in told(newest(folder))["evaluation"]
    assert np.array_equal(scores(newest(folder), "accuracy"), scores(folder, "accuracy"))
    # With the original gone, the digest in result.json decides.
    root.rename(tmp_path / "away")
    try:
        assert evaluate([f"run={folder}", f"task.root={moved}"]) == 0
        assert "mark" not in told(newest(folder))["evaluation"]
        changed = next((moved / "class03").iterdir())
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(changed)
        assert evaluate([f"run={folder}", f"task.root={moved}"]) == 0
        assert told(newest(folder))["evaluation"]["mark"] == "cross-domain"
        assert told(newest(folder))["evaluation"]["seen"] is None  # the training pictures are not here to compare with
    finally:
        (tmp_path / "away").rename(root)


def test_classes_that_were_trained_on_are_counted_by_their_pictures(
    images: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, root = images
    family = restore(folder, open_config(folder)).parts.family
    trained = [family.names[i] for i in family.splits["train"].tolist()]
    other = pictures(tmp_path / "other", {"new": 100, trained[0]: 101})  # one has the name of a training class
    shutil.copytree(root / trained[1], other / "renamed")  # and one its pictures
    assert evaluate([f"run={folder}", "task=images", f"task.root={other}"]) == 0
    assert told(newest(folder))["evaluation"]["seen"] == {"classes": 1, "of": 3, "names": 1, "which": ["renamed"]}
    shown = capsys.readouterr().out
    assert "SEEN         1 of 3 test classes have examples that were trained on: renamed" in shown
    assert exit_code(lambda: report([str(newest(folder))])) == 0
    assert "1 of 3 test classes were trained on" in capsys.readouterr().out
    # Another split of the same data: the marks say so, and how many were trained on.
    lists = {
        "train": trained[2:5],
        "val": [family.names[i] for i in family.splits["val"].tolist()],
        "test": trained[:2],
    }
    (tmp_path / "lists.json").write_text(json.dumps(lists))
    assert evaluate([f"run={folder}", f"task.class_file={tmp_path / 'lists.json'}"]) == 0
    again = told(newest(folder))["evaluation"]
    assert (again["mark"], again["seen"]["classes"], again["seen"]["of"]) == ("shifted", 2, 2)


def test_ways_follow_the_run_and_may_be_typed_where_the_method_allows_it(
    images: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, _ = images
    other = pictures(tmp_path / "other", {f"c{i}": 50 + i for i in range(4)})
    assert evaluate([f"run={folder}", "task=images", f"task.root={other}", "task.ways=4", "task.shots=2"]) == 0
    protocol, before = told(newest(folder))["protocol"], told(folder)["protocol"]
    changed = {name for name in before if before[name] != protocol[name]}
    assert changed == {"ways", "shots", "split", "classes", "query_sha256"}
    assert (protocol["ways"], protocol["shots"], protocol["classes"]) == (4, 2, [0, 0, 4])
    with pytest.raises(ConfigError, match=r'task\.ways=5: split "test" has 4 classes'):
        evaluate([f"run={folder}", "task=images", f"task.root={other}", "task.ways=5"])


# -- arrays: the run's own units


def test_other_arrays_are_scaled_by_the_runs_units(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(3.0, 2.0, (400, 2))
    np.savez(tmp_path / "a.npz", x=x, y=x.sum(1), task=np.arange(400) // 20)
    np.savez(tmp_path / "b.npz", x=10 + x[:60] * 5, y=-x[:60, 0], task=np.arange(60) // 20)
    words = [f"task.files=['{tmp_path / 'a.npz'}']", "task.shots=5", "task.queries=5", "task.standardise=xy"]
    folder = train(tmp_path / "out", "algo=maml", "task=arrays", *words, *QUICK)
    config = open_config(folder)
    changes = {"task.files": [str(tmp_path / "b.npz")]}
    found = other_data(folder, config, config, other_task(config, changes, [], None), recorded(folder))
    with np.load(tmp_path / "a.npz") as file:
        rows = np.isin(file["task"], [int(n.split()[1]) for n in _train_names(folder)])
        mean, std = file["x"][rows].mean(0), file["x"][rows].std(0)
        y_mean, y_std = file["y"][rows].mean(), file["y"][rows].std()
    episode = found.family.sample("test", torch.arange(5))
    rows_b = episode.info["rows"][:, 5:] + 20 * episode.info["task"][:, None]
    with np.load(tmp_path / "b.npz") as file:
        assert np.allclose(episode.query.x.numpy(), ((file["x"] - mean) / std)[rows_b], rtol=1e-5, atol=1e-5)
        assert np.allclose(
            episode.query.y[..., 0].numpy(), ((file["y"] - y_mean) / y_std)[rows_b], rtol=1e-5, atol=1e-5
        )
    assert found.mark == "cross-domain"
    assert found.seen == {"classes": 0, "of": 3, "names": len({"0", "1", "2"} & _train_values(folder)), "which": []}
    assert sorted(found.family.other.splits["test"].tolist()) == [0, 1, 2]  # all of them
    assert evaluate([f"run={folder}", f"task.files=['{tmp_path / 'b.npz'}']"]) == 0
    assert told(newest(folder))["evaluation"]["seen"] == found.seen


def _train_names(folder: Path) -> list[str]:
    family = restore(folder, open_config(folder)).parts.family
    return [family.names[i] for i in family.splits["train"].tolist()]


def _train_values(folder: Path) -> set[str]:
    return {name.split()[1] for name in _train_names(folder)}


def test_data_for_the_test_alone_are_not_trained_on(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((40, 1)), y=np.zeros(40), task=np.arange(40) // 20)
    with pytest.raises(ConfigError, match=r"task\.split=\[0, 0, 1\]: no task is left for training"):
        train(
            tmp_path / "out", "algo=maml", "task=arrays", f"task.files=['{tmp_path / 'a.npz'}']", "task.split=[0,0,1]"
        )
    root = pictures(tmp_path / "pictures", {f"c{i}": i for i in range(4)})
    with pytest.raises(ConfigError, match=r'task\.ways=2: split "train" has 0 classes'):
        train(tmp_path / "out", "algo=protonet", "task=images", f"task.root={root}", "task.ways=2", "task.queries=2",
              "task.split=[0,0,1]", "cache=off")  # fmt: skip


# -- sentences


def test_other_sentences_pass_the_runs_encoder(tmp_path: Path) -> None:
    def file(name: str, labels: int, words: str) -> Path:
        rows = [f"{words} number{i} of kind{label},l{label}" for label in range(labels) for i in range(6)]
        (tmp_path / name).write_text("text,label\n" + "\n".join(rows) + "\n")
        return tmp_path / name

    own, other = file("own.csv", 10, "a sentence"), file("other.csv", 3, "another thing")
    folder = train(tmp_path / "out", "algo=protonet", "task=text", f"task.file={own}", "task.ways=2", "task.queries=2",
                   "cache=off", "encoder=ngrams", "encoder.dimensions=64", *QUICK)  # fmt: skip
    assert evaluate([f"run={folder}", "task=text", f"task.file={other}"]) == 0
    again = told(newest(folder))["evaluation"]
    assert (again["mark"], again["seen"]) == (
        "cross-domain",
        {"classes": 0, "of": 3, "names": 3 - _lost(folder), "which": []},
    )
    moved = tmp_path / "moved.csv"
    shutil.copy(own, moved)
    assert evaluate([f"run={folder}", f"task.file={moved}"]) == 0  # the same sentences: the run's own test
    assert "mark" not in told(newest(folder))["evaluation"]
    assert np.array_equal(scores(newest(folder), "accuracy"), scores(folder, "accuracy"))
    assert evaluate([f"run={folder}", "task=text", f"task.file={moved}"]) == 0  # all of its classes, this time
    again = told(newest(folder))["evaluation"]
    assert (again["mark"], again["seen"]["classes"], again["seen"]["of"]) == ("shifted", 6, 10)


def _lost(folder: Path) -> int:
    """How many of the labels l0, l1, l2 are not for training."""
    family = restore(folder, open_config(folder)).parts.family
    return 3 - len({"l0", "l1", "l2"} & {family.names[i] for i in family.splits["train"].tolist()})


# -- the report


def test_the_report_marks_them_and_pairs_only_equal_query_sets(
    out: Path, sine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    native = train(tmp_path, "algo=maml", "task=sine_line", "task.shots=10", *QUICK, "algo.test_steps=2")
    for words in (["task=sine_line"], ["task.amplitude=[5,10]"]):
        assert evaluate([f"run={sine}", *words, f"out={tmp_path / 'again'}"]) == 0
    capsys.readouterr()
    csv = tmp_path / "table.csv"
    own = shutil.copytree(sine, tmp_path / "own", ignore=shutil.ignore_patterns("evaluations"))
    assert exit_code(lambda: report([str(native), str(tmp_path / "again"), str(own), "--wide", "--csv", str(csv)])) == 0
    shown = capsys.readouterr().out
    with csv.open() as file:
        rows = [row for row in DictReader(file) if not row["floor"]]
    marks = {(row["task"], row["setting_tested" if "setting_tested" in row else "tested"]): row for row in rows}
    assert set(marks) == {
        ("sine", "own tasks"), ("sine", "shifted"), ("sine_line", "own tasks"), ("sine_line", "cross-domain, from sine")
    }  # fmt: skip
    two = [marks["sine_line", "own tasks"], marks["sine_line", "cross-domain, from sine"]]
    assert two[0]["query_sha256"] == two[1]["query_sha256"]
    assert [float(row["mean"]) for row in two] == [
        told(native)["test"]["mse"]["mean"], told(tmp_path / "again/1")["test"]["mse"]["mean"]
    ]  # fmt: skip
    assert marks["sine", "shifted"]["query_sha256"] != marks["sine", "own tasks"]["query_sha256"]
    assert shown.count("claim about checkpoints") == 1
    pairs = [line for line in shown.splitlines() if " - " in line and "checkpoints" in line]
    assert len(pairs) == 1  # on sine_line alone
    assert "own tasks" in pairs[0]
    assert "cross-domain, from sine" in pairs[0]
    assert "shifted: tested on tasks of the family it was trained on, with other settings" in shown
