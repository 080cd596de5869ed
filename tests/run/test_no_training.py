"""`steps=0`: the untrained learner is tested, reported, resumed and loaded like any other."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_runs import train

import metaexp
from metaexp.config.compose import config_dir
from metaexp.errors import ConfigError
from metaexp.evaluate import evaluate
from metaexp.report.command import report

WORDS = ("money card bank pay", "train plane ticket seat", "rain snow sun wind", "song tune band play",
         "milk bread cheese rice", "red blue green pink")  # fmt: skip
NONE = ["steps=0", "val.tasks=2", "test.tasks=6", "test.curve_shots=[]"]
SMALL = {
    "incontext": ["algo.width=8", "algo.heads=2", "algo.layers=1"],
    "cnp": ["algo.width=8"],
    "acnp": ["algo.width=8", "algo.heads=2"],
    "hypernet": ["algo.encoder=[8]", "algo.generator=[8]"],
    "joint": ["algo.test_epochs=1", "algo.test_lr=0.01"],
    "scratch": ["algo.test_epochs=1", "algo.test_lr=0.01"],
    "mother": ["algo.children=2", "algo.hidden=4"],
    "l2l": ["algo.rule.hidden=2", "algo.test_steps=2"],
    "imaml": ["algo.inner_steps=1"],
    "cavia": ["model=mlp"],
    "boil": ["model.head=random"],
}
ALGOS = sorted({path.stem for path in Path(config_dir(), "algo").glob("*.yaml")} - {"oracle"})
QUICK = ("cnp", "joint", "maml", "mother", "scratch")  # one of each kind; the others take as long again
LONG = pytest.mark.tier("long")


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of a small task of sentences."""
    file = tmp_path_factory.mktemp("data") / "sentences.csv"
    lines = [f"the {a} and the {b},{i}" for i, row in enumerate(WORDS) for a in row.split() for b in row.split()]
    file.write_text("text,label\n" + "\n".join(lines) + "\n")
    task = f"task=text task.file={file} task.ways=2 task.queries=3 task.split=[0.34,0.33,0.33] task.test.shots=1"
    return [*task.split(), "task.test.queries=3", "encoder=ngrams", "encoder.dimensions=16", "cache=off"]


@pytest.mark.parametrize("algo", [pytest.param(one, marks=[] if one in QUICK else [LONG]) for one in ALGOS])
def test_without_training_the_untrained_learner_is_tested(algo: str, sentences: list[str], tmp_path: Path) -> None:
    folder = train(tmp_path, f"algo={algo}", *sentences, *NONE, *SMALL.get(algo, []))
    result = json.loads((folder / "result.json").read_text())
    assert (result["steps"], result["weights"]["step"], result.get("doubt")) == (0, 0, None)
    accuracy = next(name for name in result["test"] if name.startswith("accuracy"))
    assert 0 <= result["test"][accuracy]["mean"] <= 1
    if "scratch" in result["floors"]:  # the baseline is the same network without training
        scores = np.load(folder / "test_scores.npz")
        np.testing.assert_array_equal(scores[f"floor_scratch_{accuracy}"], scores[accuracy])
    model = metaexp.load(folder)
    x = np.eye(16, dtype=np.float32)[:4]
    assert set(model.fit(x, ["a", "a", "b", "b"]).predict(x)) <= {"a", "b"}


def test_it_is_resumed_tested_again_and_reported(
    sentences: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["algo=protonet", "model=identity", *sentences, *NONE]
    folder = train(tmp_path, *typed)
    assert "protonet on text, identity, seed 0: no outer steps\n" in capsys.readouterr().out
    first = json.loads((folder / "result.json").read_text())
    assert metaexp.start(f"resume={folder}").result == first
    three = metaexp.load(folder).fit(["a song", "a train", "some rain"], ["music", "travel", "weather"])
    assert list(three.predict(["rain and some", "the train"])) == ["weather", "travel"]
    assert evaluate([f"run={folder}"]) == 0
    again = json.loads((folder / "evaluations/1/result.json").read_text())
    assert (again["test"], again.get("doubt")) == (first["test"], None)
    assert report([str(tmp_path)]) == 0
    assert "protonet" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="has ended after 0 steps; start a new run of 4"):
        metaexp.start(f"resume={folder}", "steps=4")
