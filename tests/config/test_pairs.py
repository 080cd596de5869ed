"""Settings of a method on a kind of tasks, and of a method on one family; who wins."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from omegaconf import OmegaConf

from metaexp.config.compose import config_dir
from metaexp.config.settings import Settings, load
from metaexp.storage.saved_config import read_config

# README's recipe: a user's own data set, another file name, in --config-dir.
FLOWERS = """# My flowers
defaults: [dataset]
dataset: {_target_: torchvision.datasets.Flowers102, root: data}
"""


def at(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config[name]
    return config


def values(folder: Path, *typed: str, keys: str) -> list[Any]:
    config = load(list(typed), str(folder))
    return [at(config, key) for key in keys.split()]


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    (tmp_path / "task").mkdir()
    (tmp_path / "task/flowers.yaml").write_text(FLOWERS)
    return tmp_path


KEYS = "meta_batch task.queries algo.inner_lr algo.test_steps"


def test_a_users_task_inherits_its_kind_and_thereby_the_pair(flowers: Path) -> None:
    for algo in ("maml", "fomaml", "boil", "reptile", "joint", "protonet", "cavia", "metasgd"):
        own, built = load([f"algo={algo}", "task=flowers"], str(flowers)), load([f"algo={algo}", "task=dataset"])
        assert own["task"].pop("dataset")["root"] == "data"
        del built["task"]["dataset"]
        kept = [key for key in own if key not in ("choices", "trusted", "typed")]
        assert {key: own[key] for key in kept} == {key: built[key] for key in kept}
    assert values(flowers, "algo=maml", "task=flowers", keys=KEYS) == [32, 1, 0.4, 3]


def test_what_a_users_task_sets_wins_over_the_pair_and_what_is_typed_over_both(flowers: Path) -> None:
    with (flowers / "task/flowers.yaml").open("a") as file:
        file.write("queries: 7\ntest: {queries: 9}\nways: 3\n")
    maml = ["algo=maml", "task=flowers"]
    assert values(flowers, *maml, keys=f"{KEYS} task.test.queries task.ways") == [32, 7, 0.4, 3, 9, 3]
    assert values(flowers, *maml, "task.queries=2", keys="task.queries") == [2]
    assert values(flowers, *maml, "task={queries:4}", keys="task.queries task.ways") == [4, 3]
    assert values(flowers, "algo=reptile", "task=flowers", keys="task.queries task.shots task.test.queries") == [
        7,
        10,
        9,
    ]
    (flowers / "experiment").mkdir()
    row = "# @package _global_\n# A row\ndefaults:\n  - override /task: flowers\ntask: {queries: 8}\n"
    (flowers / "experiment/row.yaml").write_text(row)
    assert values(flowers, "experiment=row", keys="task.queries task.test.queries") == [8, 9]


def test_a_task_on_top_of_a_users_task(flowers: Path) -> None:
    (flowers / "task/few.yaml").write_text("# Few\ndefaults: [flowers]\nqueries: 3\n")
    with (flowers / "task/flowers.yaml").open("a") as file:
        file.write("queries: 7\nshots: 2\n")
    assert values(flowers, "algo=reptile", "task=few", keys="task.queries task.shots task.test.shots") == [3, 2, 1]


def test_own_pair_files_and_own_kinds(flowers: Path) -> None:
    for name, text in {
        "pair/flowers/maml.yaml": "algo: {inner_lr: 0.7}\n",
        "kind/sounds.yaml": "# Sounds\n",
        "task/birds.yaml": "# Birds\ndefaults:\n  - dataset\n  - override /kind@_global_.kind: sounds\n",
        "pair/sounds/maml.yaml": "meta_batch: 3\n",
    }.items():
        (flowers / name).parent.mkdir(parents=True, exist_ok=True)
        (flowers / name).write_text(f"# @package _global_\n{text}" if not name.startswith("task") else text)
    assert values(flowers, "algo=maml", "task=flowers", keys=KEYS) == [32, 1, 0.7, 3]
    assert values(flowers, "algo=maml", "task=birds", keys=KEYS) == [3, 15, 0.01, 10]


def test_a_kind_is_no_setting_of_a_run() -> None:
    """It may not change the hash of runs that were begun before there were kinds."""
    config = load(["algo=maml", "task=omniglot"])
    assert "kind" not in config
    assert set(config["choices"]) == {"algo", "task", "encoder", "model", "device", "optimizer", "experiment"}
    shipped = read_config(ROOT / "scripts/runs/sine_r2d2")  # of a time without kinds
    now = load(["algo=r2d2", "task=sine", "device=cpu"])
    assert now["choices"].pop("encoder") == "none"  # newer than the run
    assert {key: now[key] for key in shipped if key in ("algo", "task", "model", "optimizer", "choices")} == {
        key: shipped[key] for key in ("algo", "task", "model", "optimizer", "choices")
    }


def test_a_typed_kind_is_compared_on_resume() -> None:
    """It changes which pair file is read, so a run cannot go on with another one."""
    assert load(["algo=maml", "kind=vectors"])["typed"] == {"choices.algo": "maml", "choices.kind": "vectors"}
    assert load(["algo=maml", "kind=vectors"])["meta_batch"] == 16


def test_every_pair_file_says_something_that_is_not_said_elsewhere() -> None:
    settings = Settings([])
    folder = config_dir() / "pair"
    kinds, tasks = set(settings.composer.options("kind")), set(settings.composer.options("task"))
    contents: dict[str, Path] = {}
    for file in sorted(folder.glob("*/*.yaml")):
        assert file.parent.name in kinds | tasks
        assert file.stem in settings.composer.options("algo")
        content = yaml.safe_load(file.read_text())
        if "defaults" not in content:  # "defaults: [/pair/pictures/maml]" says where the settings are
            assert str(content) not in contents, f"{file} repeats {contents[str(content)]}"
            contents[str(content)] = file

    def chosen(task: str) -> bool:
        """Whether the file chooses its kind, itself or by the one that it extends."""
        found = OmegaConf.load(config_dir() / f"task/{task}.yaml").defaults
        own = any("/kind@_global_.kind" in str(entry) for entry in found)
        return own or any(isinstance(entry, str) and entry != task and chosen(entry) for entry in found)

    assert all(map(chosen, tasks))
