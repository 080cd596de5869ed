"""Everything in conf/ makes two outer steps, and every algorithm, family and network fulfils its contract.

A new file in conf/ needs a row here: the last test reports which one is missing.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_omniglot import write_packed, write_runs
from long_tier import long
from picture_sets import write_sets
from PIL import Image
from test_contract_worlds import ACTORS, WORLDS

from metaexp.config.compose import config_dir
from metaexp.config.settings import Settings
from metaexp.contract import (
    check_family,
    check_model,
    parameters,
)
from metaexp.errors import ConfigError
from metaexp.evaluation.scores import evaluate
from metaexp.outer.loaders import Span
from metaexp.training.build import Experiment

# Settings that make each choice small. {root} and {files} are fake data.
ALGOS = {
    "maml": ["algo.test_steps=2"],
    "fomaml": ["algo.test_steps=2"],
    "reptile": ["algo.inner_steps=2", "algo.test_steps=2"],
    "anil": ["algo.test_steps=2"],
    "boil": ["algo.test_steps=2"],
    "metasgd": ["algo.test_steps=2"],
    "l2l": ["algo.rule.hidden=3", "algo.inner_steps=3", "algo.truncation=2", "algo.test_steps=4"],
    "mother": ["algo.children=2", "algo.hidden=4", "algo.test_steps=2"],
    "protonet": ["algo.embedding=4"],
    "r2d2": [],
    "cnp": ["algo.width=16"],
    "acnp": ["algo.width=16", "algo.heads=2"],
    "hypernet": ["algo.encoder=[8,8]", "algo.generator=[8]", "algo.phi=0.001"],
    "incontext": ["algo.width=8", "algo.heads=2", "algo.layers=2"],
    "cavia": ["algo.context_size=2"],
    "imaml": ["algo.inner_steps=2", "algo.cg_steps=2"],
    "joint": ["algo.batch=4", "algo.test_epochs=1", "algo.test_lr=0.01"],
    "scratch": ["algo.test_epochs=1", "algo.test_lr=0.01"],
    "mean": [],
    "neighbour": [],
    "hausdorff": [],
    "oracle": [],
}
REGRESSION = ["task.shots=4", "task.queries=4", "task.test.shots=4", "task.test.queries=4"]
IMAGES = ["task.ways=2", "task.shots=2", "task.queries=1", "task.test.shots=1", "task.test.queries=2"]
TASKS = {
    "sine": REGRESSION,
    "linear": REGRESSION,
    "gp": REGRESSION,
    "arrays": [*REGRESSION, "task.files={files}"],
    "omniglot": [*IMAGES, "task.root={root}", "task.verify=false"],
    "dataset": [*IMAGES, "experiment=my_pictures"],
    "sine_line": REGRESSION,
    "mixture": [*REGRESSION, "task.oracle_samples=16"],
    "quadratic": [*REGRESSION, "task.dim=3"],
    "dynamics": [*REGRESSION, "task.length=3"],
    "clusters": [*IMAGES, "task.pool_classes=6"],
    "text": [*IMAGES, "task.file={texts}", "cache=off"],
    "omniglot_lake": ["task.ways=5", "task.queries=3", "task.root={root}", "task.verify=false"],
    "images": [*IMAGES, "task.root={pictures}", "task.size=16", "cache=off"],
    "medmnist": [*IMAGES, "task.root={medmnist}"],
    "table": [*REGRESSION, "task.file={table}", "task.by=shop", "task.target=sales", "task.bucket=2"],
    **{
        name: [*IMAGES, f"task.root={{{name}}}", "task.size=16", "cache=off"]
        for name in ("mini_imagenet", "tiered_imagenet", "cub", "cifar_fs", "fc100")
    },
}
MODELS = {"linear": [], "mlp": ["model.hidden=[4]"], "cnn4": ["model.filters=2"],
          "resnet12": ["model.channels=[2,2,3,3]"], "identity": [],
          "residual": ["model.hidden=4", "model.head=random"]}  # fmt: skip
PICTURES = ("omniglot", "dataset")
# What an algorithm cannot do: (algo, task or model)
NOT = {("boil", "linear model"), ("cavia", "linear model")}
NOT |= {
    ("protonet", task)
    for task in ("sine", "linear", "arrays", "sine_line", "mixture", "quadratic", "dynamics", "gp", "table")
}
NOT |= {("oracle", task) for task in ("arrays", "omniglot", "dataset", "text", "images", "medmnist", "table")}
NOT |= {("oracle", name) for name in ("mini_imagenet", "tiered_imagenet", "cub", "cifar_fs", "fc100")}
NOT |= {("oracle", "omniglot_lake"), ("boil", "identity model")}

NETWORKS = {  # networks of each task, its default first
    "sine": ("mlp", "linear"),
    "linear": ("mlp", "linear"),
    "gp": ("mlp", "linear"),
    "arrays": ("mlp", "linear"),
    "omniglot": ("cnn4", "mlp", "linear"),
    "dataset": ("cnn4", "mlp", "linear"),
    "sine_line": ("mlp", "linear"),
    "mixture": ("mlp", "linear"),
    "quadratic": ("linear", "mlp"),
    "dynamics": ("mlp", "linear"),
    "clusters": ("mlp", "linear"),
    "text": ("residual", "mlp", "identity"),
    "omniglot_lake": ("cnn4",),
    "images": ("cnn4", "resnet12"),
    "medmnist": ("cnn4",),
    "table": ("mlp", "linear"),
}
SETS = (
    "omniglot_lake",
    "mini_imagenet",
    "tiered_imagenet",
    "cub",
    "cifar_fs",
    "fc100",
)  # published: in the tier of long tests
NETWORKS |= dict.fromkeys(SETS, ("cnn4",))
LIKE_IMAGES = ("medmnist", *SETS)  # pictures from other files: one method stands for all
LIKE_DATASET = ("text", "images", *LIKE_IMAGES)  # families of the same class: a few methods stand for all
NOT |= {("hausdorff", task) for task, models in NETWORKS.items() if "cnn4" not in models}
# algo, task, model: every triple that makes sense. Of those that differ only in the network, MAML is tested with all
# and every other algorithm with the first (what it does with networks does not depend on the task).
SENSE = [
    (algo, task, model)
    for algo in ALGOS
    for task, models in NETWORKS.items()
    for model in models
    if not {(algo, task), (algo, f"{model} model")} & NOT
    and (task not in LIKE_DATASET or algo in ("maml", "protonet", "r2d2", "joint"))
    and (task not in LIKE_IMAGES or algo == "protonet")
]
ROWS = [row for i, row in enumerate(SENSE) if row[0] == "maml" or row[:2] not in {other[:2] for other in SENSE[:i]}]
OPTIMIZERS = ("sgd", "adam", "adamw", "nadam", "rmsprop")
DEVICES = {"cpu": 1, "auto": 1, "ddp": 2, "gpu": 1, "mps": 1}  # processes
EXPERIMENTS = {
    "gp_cnp": ["algo.width=8", "task.queries=5"],
    "gp_acnp": ["algo.width=8", "task.queries=5"],
    "arrays_finetune": ["task.files={files}"],
    "joint_sine": [],
    "linear_reptile": [],
    "maml_mlp784_adamw": ["task.root={root}", "task.verify=false"],
    "maml_sine": [],
    "maml_sine_lr0001": [],
    "omniglot_fomaml": ["task.root={root}", "task.verify=false"],
    "omniglot_maml": ["task.root={root}", "task.verify=false"],
    "omniglot_protonet": ["task.root={root}", "task.verify=false", "task.split=random1200", "model.filters=2"],
    "omniglot_r2d2": ["task.root={root}", "task.verify=false", "task.split=random1200", "model.filters=2"],
    "omniglot_reptile": ["task.root={root}", "task.verify=false"],
    "reptile_sine": [],
}
SMALL = ["meta_batch=2", "compile=false", "device=cpu", "device.threads=1"]

OWN_DATA = '''
import torch

class Pictures:
    """20 classes of 6 pictures, 1 x 20 x 20."""
    def __len__(self):
        return 120
    def __getitem__(self, i):
        return torch.randn(1, 20, 20, generator=torch.Generator().manual_seed(i)) + i // 6, i // 6
'''


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Fake data, and a folder with a user's own groups: (settings, places)."""
    folder = tmp_path_factory.mktemp("world")
    write_packed(folder / "omniglot")
    write_runs(folder / "omniglot")
    draw = np.random.default_rng(0)
    for name, rows in (("base", 200), ("new", 120)):
        x = draw.normal(size=(rows, 3))
        np.savez(folder / f"{name}.npz", x=x, y=x.sum(1))
    (folder / "contract_pictures.py").write_text(OWN_DATA)
    (folder / "conf" / "experiment").mkdir(parents=True)
    own = "# @package _global_\ntask: {dataset: {_target_: contract_pictures.Pictures}}\n"
    (folder / "conf" / "experiment" / "my_pictures.yaml").write_text(own)
    rows = [{"text": f"{word} number {i}", "label": word} for word in map(str, range(12)) for i in range(5)]
    (folder / "texts.json").write_text(json.dumps(rows))
    for i in range(60):
        (folder / "pictures" / str(i % 12)).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (20 * (i % 12), i, 90)).save(folder / "pictures" / str(i % 12) / f"{i}.png")
    labels = np.arange(20).reshape(20, 1) % 2
    parts = ("train", "val", "test")
    pixels = {f"{part}_images": draw.integers(0, 256, (20, 28, 28), dtype=np.uint8) for part in parts}
    np.savez(folder / "pneumoniamnist.npz", **pixels, **{f"{part}_labels": labels for part in parts})
    rows = [f"{i % 12},{i * 37 % 11},{'red' if i % 3 else 'blue'},{i * 61 % 17 - i % 12}" for i in range(144)]
    (folder / "table.csv").write_text("\n".join(["shop,size,colour,sales", *rows]))
    places = {
        "table": str(folder / "table.csv"),
        "texts": str(folder / "texts.json"),
        "pictures": str(folder / "pictures"),
        "medmnist": str(folder),
        **write_sets(folder / "sets"),
        "root": str(folder / "omniglot"),
        "files": f"[{folder}/base.npz,{folder}/new.npz]",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield Settings([], str(folder / "conf")), places


def made(world, *overrides: str) -> Experiment:
    settings, places = world
    threads = torch.get_num_threads()
    try:
        return Experiment(settings.load([*SMALL, *(line.format(**places) for line in overrides)]))
    finally:
        torch.set_num_threads(threads)


def two_steps(parts: Experiment) -> None:
    """Two steps change the parameters, everything stays finite, and validation tasks can be scored."""
    learner = parts.learner
    before = parameters(learner)
    if learner.trains:
        assert parts.training.run(Span(0, 2)) == 2
        assert int(learner.meta_step) == 2
        sums = parts.training.sums()
        assert sums["loss"].isfinite()
        assert sums["norm"].isfinite()
        after = parameters(learner)
        assert all(p.isfinite().all() for p in after.values())
        assert any(not torch.equal(after[name], before[name]) for name in after)
    scores = evaluate(learner, "val", 2, ["queries", "single", "support"])
    for values in scores.arrays.values():
        assert values.shape == (2, learner.test_steps + 1)
        assert np.isfinite(values).all()


# Every method on one family of functions and one of classes, MAML on all; all others in the tier of long tests.
OFTEN = [row for row in ROWS if row[0] == "maml" or row[1] in ("sine", "clusters", *LIKE_DATASET)]
OFTEN = [row for row in OFTEN if row[1] not in SETS]


@pytest.mark.parametrize("row", long(ROWS, set(ROWS) - set(OFTEN)), ids=["-".join(row) for row in ROWS])
def test_a_row_takes_two_outer_steps(world, row):
    algo, task, model = row
    choice = [f"algo={algo}", f"task={task}", f"model={model}"]
    parts = made(world, *choice, *ALGOS[algo], *TASKS[task], *MODELS[model])
    assert parts.config["choices"] | {"algo": algo, "task": task, "model": model} == parts.config["choices"]
    two_steps(parts)


def test_every_other_triple_is_refused(world):
    settings, places = world
    vectors = ("sine", "linear", "arrays", "sine_line", "mixture", "quadratic", "dynamics", "clusters", "gp", "text")
    others = {("maml", task, "cnn4") for task in vectors}
    assert not others & set(ROWS)
    for algo, task, model in others:
        lines = [f"algo={algo}", f"task={task}", f"model={model}", *TASKS[task]]
        with pytest.raises(ConfigError, match="model=cnn4 needs input image"):
            settings.load([line.format(**places) for line in lines])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_takes_two_outer_steps(world, optimizer):
    two_steps(made(world, f"optimizer={optimizer}", *REGRESSION, "model=linear"))


@pytest.mark.parametrize(("device", "processes"), DEVICES.items())
def test_a_device_is_made_or_refused(world, device, processes):
    there = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    lines = [f"device={device}", "device.threads=1", *REGRESSION, "model=linear"]
    if not there.get(device, True):
        with pytest.raises(ConfigError, match=f"device.accelerator={device}: there is none here"):
            made(world, *lines)
        return
    parts = made(world, *lines)
    assert parts.training.world == processes
    if processes == 1:
        two_steps(parts)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_takes_two_outer_steps(world, experiment):
    parts = made(world, f"experiment={experiment}", *EXPERIMENTS[experiment], "meta_batch=1")
    assert parts.config["choices"]["experiment"] == experiment
    assert parts.config["steps"] > 100
    learner = parts.learner
    before = parameters(learner)
    for step in range(2):
        result = parts.training.step(step)
        assert result.loss.isfinite()
        assert result.norm.isfinite()
    after = parameters(learner)
    assert any(not torch.equal(after[name], before[name]) for name in after)


def test_every_file_in_conf_has_a_row():
    def files(group: str) -> set[str]:
        return {path.stem for path in Path(config_dir(), group).glob("*.yaml")}

    assert set(ALGOS) == {row[0] for row in ROWS}
    assert set(TASKS) == {row[1] for row in ROWS}
    assert files("algo") == set(ALGOS) | set(ACTORS)
    assert files("task") == set(TASKS) | set(WORLDS)
    assert files("model") == set(MODELS) == {row[2] for row in ROWS}
    assert files("optimizer") == set(OPTIMIZERS)
    assert files("device") == set(DEVICES)
    assert files("experiment") == set(EXPERIMENTS)


# --- contracts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", long(TASKS, SETS))
def test_family(world, task):
    check_family(made(world, f"task={task}", "algo=scratch", "model=linear", *TASKS[task]).family)


@pytest.mark.parametrize("model", MODELS)
def test_model(world, model):
    pictures = model in ("cnn4", "resnet12")
    task = "dataset" if pictures else "sine"
    overrides = [f"task={task}", f"model={model}", "algo=scratch", *TASKS[task], *MODELS[model]]
    if pictures:
        overrides.append("model.norm=layer")  # a batch norm removes the gradient of the biases before it
    parts = made(world, *overrides)
    check_model(lambda x_shape, out: parts.learner.model, parts.family.x_shape, parts.family.y_dim)
