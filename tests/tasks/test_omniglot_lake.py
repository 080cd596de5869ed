"""Lake's one-shot runs: the authors' baseline, which picture is which trial, what training sees, damage."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_omniglot import write_packed, write_runs
from PIL import Image
from small_runs import train

from metaexp.algos.hausdorff import Hausdorff, modified_hausdorff
from metaexp.algos.neighbour import Neighbour
from metaexp.contract import check_family
from metaexp.errors import ConfigError, DataError
from metaexp.evaluate import evaluate as evaluate_run
from metaexp.evaluation.scores import evaluate
from metaexp.run.restore import load_weights, open_config, restore
from metaexp.tasks.data.lake_runs import read_runs
from metaexp.tasks.omniglot_lake import OmniglotLake


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_packed(tmp_path_factory.mktemp("lake"))
    write_runs(root)
    return root


@pytest.fixture(scope="module")
def family(fake: Path) -> OmniglotLake:
    return OmniglotLake(root=str(fake), verify=False, ways=5)


def test_trials_are_the_files(family: OmniglotLake, fake: Path) -> None:
    """Run r, class c: the training drawing class(c+1), and the item that class_labels.txt gives to it."""
    episode = family.sample("test", torch.arange(20))
    assert episode.support.x.shape == episode.query.x.shape == (20, 20, 1, 28, 28)
    assert torch.equal(episode.support.y, torch.eye(20).expand(20, 20, 20))
    assert torch.equal(episode.query.y, episode.support.y)
    with zipfile.ZipFile(fake / "all_runs.zip") as archive:
        for run in (0, 7, 19):
            lines = archive.read(f"run{run + 1:02d}/class_labels.txt").decode().split()
            item_of = {known: item for item, known in zip(lines[::2], lines[1::2], strict=True)}
            for c in (0, 11, 19):
                known = f"run{run + 1:02d}/training/class{c + 1:02d}.png"
                for name, x in ((known, episode.support.x), (item_of[known], episode.query.x)):
                    with Image.open(archive.open(name)) as image:
                        ink = Image.fromarray(255 - np.asarray(image.convert("L")))
                    wanted = np.asarray(ink.resize((28, 28), Image.Resampling.LANCZOS))
                    assert np.array_equal((x[run, c, 0] * 255).round().numpy(), wanted)
    some = family.sample("test", torch.tensor([7, 27]), ways=4)
    assert torch.equal(some.query.x[0], episode.query.x[7, :4])
    assert torch.equal(some.query.x[0], some.query.x[1])  # there are 20
    assert family.limit("test") == 20
    assert family.limit("val") is None
    for sizes in ({"shots": 2}, {"queries": 2}, {"ways": 21}):
        with pytest.raises(ValueError, match="the runs are 20-way 1-shot with 1 query per class"):
            family.sample("test", torch.arange(2), **sizes)


def test_training_is_within_alphabets_of_the_background_set(family: OmniglotLake, fake: Path) -> None:
    for split in ("train", "val"):
        classes = family.sample(split, torch.arange(200)).info["classes"].tolist()
        alphabets = [{family.names[c].split("/")[0] for c in row} for row in classes]
        assert all(len(found) == 1 for found in alphabets)
        assert all(name.startswith("background") for found in alphabets for name in found)
    mixed = OmniglotLake(root=str(fake), verify=False, ways=5, within_alphabet=False)
    classes = mixed.sample("train", torch.arange(50)).info["classes"].tolist()
    assert max(len({mixed.names[c].split("/")[0] for c in row}) for row in classes) > 1
    check_family(family)


def test_baseline_of_a_test_has_20_tasks(family: OmniglotLake) -> None:
    scores = evaluate(Neighbour(family), "test", 1000, ["queries"], final=True)
    assert scores.arrays["accuracy"].shape == (20, 1)


def test_modified_hausdorff() -> None:
    a = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    b = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    assert float(modified_hausdorff(a, b)) == 2.5  # (0 + 5) / 2 one way, 0 the other
    assert float(modified_hausdorff(b, a)) == 2.5
    draw = np.random.default_rng(0)
    a, b = (draw.normal(size=(n, 2)) for n in (30, 50))
    distance = np.sqrt(((a[:, None] - b) ** 2).sum(-1))
    wanted = max(distance.min(1).mean(), distance.min(0).mean())
    assert abs(float(modified_hausdorff(torch.tensor(a), torch.tensor(b))) - wanted) < 1e-12


def errors(learner: Hausdorff, family: OmniglotLake, run: int) -> int:
    episode = family.sample("test", torch.tensor([run]))
    predicted = learner.predict(type(episode.support)(episode.support.x[0], episode.support.y[0]), episode.query.x[0])
    return int((predicted.argmax(-1) != torch.arange(20)).sum())


@pytest.mark.tier("long")  # half a minute
def test_all_400_trials_of_the_authors_baseline(data_folder: Path) -> None:
    """38.8 % errors (Lake and others, 2015; the authors' demo prints this number)."""
    family = OmniglotLake(root=str(data_folder / "omniglot"), size=105, resize="nearest")
    learner = Hausdorff(family)
    assert sum(errors(learner, family, run) for run in range(20)) == 155  # of 400: 38.75 %, printed as 38.8


def test_a_run_trained_on_omniglot_is_tested_on_the_runs(
    fake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prototypes of 5-way training take 20 ways; the scores are those of the family itself."""
    words = ["task=omniglot", f"task.root={fake}", "task.verify=false", "task.split=lake", "task.queries=3"]
    words += ["model.filters=4", "meta_batch=2", "test.tasks=4", "test.curve_shots=[]", "test.normalise=[single]"]
    run = train(tmp_path, "algo=protonet", *words)
    runs = ["task=omniglot_lake", f"task.root={fake}", "task.verify=false"]
    assert evaluate_run([f"run={run}", *runs, "test.tasks=1000"]) == 0
    result = json.loads((run / "evaluations/1/result.json").read_text())
    assert (result["evaluation"]["mark"], result["evaluation"]["seen"]["classes"]) == ("cross-domain", 0)
    assert {key: result["protocol"][key] for key in ("ways", "shots", "queries")} == {
        "ways": 20, "shots": 1, "queries": 1,
    }  # fmt: skip
    (name,) = result["test"]
    assert result["test"][name]["tasks"] == 20
    restored = restore(run, open_config(run))
    load_weights(restored, "best")
    learner = restored.parts.learner
    learner.family = OmniglotLake(root=str(fake), verify=False)
    direct = evaluate(learner, "test", 20, ["single"])
    with np.load(run / "evaluations/1/test_scores.npz") as file:
        assert np.array_equal(file[name], direct.arrays[name])
    assert "cross-domain trained on omniglot, tested on omniglot_lake" in capsys.readouterr().out
    outputs = train(tmp_path / "maml", "algo=maml", *words, "algo.inner_steps=1", "algo.test_steps=1")
    with pytest.raises(ConfigError) as caught:  # five outputs cannot name twenty classes
        evaluate_run([f"run={outputs}", *runs])
    assert "ways" in str(caught.value)


def test_damage(fake: Path, tmp_path: Path) -> None:
    def refused(message: str, **settings: Any) -> None:
        with pytest.raises(DataError, match=message) as caught:
            read_runs(tmp_path, "nearest", 28, False, settings.get("verify", False))
        assert str(caught.value).startswith(str(tmp_path / "all_runs.zip"))

    refused("no such file; task.download=true fetches it .0.4 MB., or put there https://raw.githubusercontent.com")
    whole = (fake / "all_runs.zip").read_bytes()
    (tmp_path / "all_runs.zip").write_bytes(whole)
    refused("sha256 is .*task.verify=false", verify=True)
    for content in (b"", b"zip", whole[: len(whole) // 2]):
        (tmp_path / "all_runs.zip").write_bytes(content)
        refused("damaged at all_runs.zip")
    for name, content in (
        ("run03/class_labels.txt", b"run03/test/item01.png run03/training/class01.png\n"),
        ("run03/test/item02.png", b"\x89PNG"),
        ("run03/training/class02.png", bytes(1 << 17)),
    ):
        with zipfile.ZipFile(fake / "all_runs.zip") as old, zipfile.ZipFile(tmp_path / "all_runs.zip", "w") as new:
            for member in old.namelist():
                new.writestr(member, content if member == name else old.read(member), zipfile.ZIP_DEFLATED)
        refused(f"damaged at {name} ")
