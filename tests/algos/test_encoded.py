"""With the defaults for encoded vectors, methods begin at the given geometry: at nearest class means by cosines."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import metaexp
from metaexp.config.settings import load
from metaexp.encoders.ngrams import NGrams
from metaexp.evaluation.scores import evaluate
from metaexp.storage.metrics_log import read_rows
from metaexp.tasks.text import Text
from metaexp.training.build import Experiment

EXACT = ("protonet", "cnp", "acnp", "incontext")
NEAR = ("r2d2", "maml", "fomaml", "anil", "metasgd", "imaml", "reptile", "mother", "hypernet", "scratch", "joint")
SMALL = {
    "cnp": ["algo.width=8"],
    "acnp": ["algo.width=8", "algo.heads=2"],
    "incontext": ["algo.width=8", "algo.heads=2", "algo.layers=1"],
    "mother": ["algo.children=2", "algo.hidden=4"],
}


@pytest.fixture(scope="module")
def typed(tmp_path_factory) -> list[str]:
    """Sentences of classes that share some words, which no encoder tells apart without fault."""
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefghij"), 4)) for _ in range(60)]
    lines = [f"{' '.join(random.choice(words[3 * c : 3 * c + 12], 3))},{c}" for c in range(15) for _ in range(12)]
    file = tmp_path_factory.mktemp("data") / "sentences.csv"
    file.write_text("text,label\n" + "\n".join(lines))
    return ["task=text", f"task.file={file}", "encoder.dimensions=64", "encoder=ngrams", "task.ways=3",
            "task.queries=5", "device=cpu", "device.threads=1", "cache=off"]  # fmt: skip


def expected(family: Text, tasks: int, shots: int) -> np.ndarray:
    """Accuracy of nearest class means by cosines, [tasks]."""
    support, query, _, _ = family.sample("test", torch.arange(tasks), shots=shots)
    unit = F.normalize(support.x, dim=-1) if shots > 1 else support.x
    means = torch.einsum("tny,tnd->tyd", support.y, unit)
    guessed = (query.x @ F.normalize(means, dim=-1).transpose(1, 2)).argmax(-1)
    return (guessed == query.y.argmax(-1)).double().mean(1).numpy()


@pytest.mark.parametrize("algo", [*EXACT, *NEAR])
def test_before_training_a_method_is_nearest_class_means(algo: str, typed: list[str]) -> None:
    config = load([f"algo={algo}", *typed, *SMALL.get(algo, [])])
    assert config["task"]["standardise"] == "centre"
    experiment = Experiment(config)
    wanted = expected(experiment.family, 60, 1)
    found = evaluate(experiment.learner, "test", 60, ["queries"]).arrays["accuracy"][:, -1]
    assert 0.4 < wanted.mean() < 0.95
    if algo in EXACT:
        np.testing.assert_allclose(found, wanted)
    else:
        assert abs((found - wanted).mean()) < 0.02


def test_boil_and_cavia_say_which_network_they_need(typed: list[str]) -> None:
    for algo, message in (("boil", r"algo.model: the head is zero.*model.head=random, or take model=mlp"),
                          ("cavia", r"algo.model: the network is linear in its input.*use model=mlp")):  # fmt: skip
        with pytest.raises(Exception, match=message):
            Experiment(load([f"algo={algo}", *typed]))


def test_a_new_task_comes_in_the_units_of_training(typed: list[str]) -> None:
    family = Experiment(load(["algo=protonet", *typed])).family
    vectors = NGrams(dimensions=64).encode(family.texts)
    torch.testing.assert_close(((torch.from_numpy(vectors) - family.x_mean) / family.x_std).float(), family.data)
    for raw in (family.texts, vectors):  # sentences, or vectors as the encoder makes them
        torch.testing.assert_close(family.raw_inputs()(raw).float(), family.data)


@pytest.mark.tier("long")
@pytest.mark.parametrize("algo", [*EXACT, *NEAR])
def test_training_does_not_lose_what_clinc150_vectors_say(algo: str, data_folder: Path, tmp_path_factory) -> None:
    """A hundred steps on the published training intents leave validation intents no worse, beyond the interval."""
    if algo == "scratch":
        pytest.skip("is not meta-trained")
    folder, clinc = tmp_path_factory.getbasetemp(), data_folder / "clinc150"
    typed = f"algo={algo} task=text task.file={clinc}/data_full.json task.drop=[oos] task.fold=01 encoder=ngrams"
    sizes = "steps=100 val.every=100 val.tasks=200 test.tasks=1 task.queries=5 compile=false device=cpu"
    run = metaexp.start(
        *typed.split(), *sizes.split(), f"task.class_file={clinc}/fewshot_class_splits.json", "test.curve_shots=[]",
        f"cache={folder / 'cache'}", f"out={folder / 'runs'}",
    )  # fmt: skip
    first, last = [row["accuracy"] for row in read_rows(run.folder) if row["kind"] == "val"]
    print(f"{algo}: {first['mean']:.4f}, after 100 steps {last['mean']:.4f} +- {last['ci95']:.4f}")
    assert first["mean"] > 0.75  # nearest class means
    assert last["mean"] > first["mean"] - last["ci95"]
