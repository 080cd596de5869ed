"""`python -m metaexp.evaluate`: the same numbers as the run's, what may be changed, what is refused."""

import csv
import gc
import json
import os
import re
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT, Command
from small_runs import TINY, contents, own_package, train
from undrawn import undraw

from metaexp.config.command_line import exit_code
from metaexp.config.settings import load
from metaexp.errors import CheckpointError, ConfigError, DataError, TimeLimitError
from metaexp.evaluate import allowed, evaluate, read
from metaexp.evaluation.scores import evaluate as scores_of
from metaexp.run.restore import open_config, restore
from metaexp.run.single import run
from metaexp.training.build import Experiment

SHIPPED = ROOT / "scripts/runs/sine_r2d2"


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws no pictures, which take most of the time; the command tested at the end draws them."""
    undraw(monkeypatch.setattr)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def maml(runs: Path) -> Path:
    return train(runs, "algo=maml", "task=sine", "algo.test_steps=3")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A user's package and a run of protonet on its data."""
    folder = tmp_path_factory.mktemp("own")
    package, groups = own_package(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        made = train(folder, "algo=protonet", "task=vectors", "algo.embedding=4", extra=groups)
    for name in [name for name in sys.modules if name.startswith(package)]:
        del sys.modules[name]
    return package, made


def result(folder: Path, number: int | None = None) -> dict:
    place = folder if number is None else folder / "evaluations" / str(number)
    return json.loads((place / "result.json").read_text())


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "test_scores.npz") as file:
        return dict(file)


def newest(folder: Path) -> Path:
    return max((folder / "evaluations").iterdir(), key=lambda path: int(path.name))


def test_predictions_are_written_on_request(maml: Path) -> None:
    assert evaluate([f"run={maml}", "test.predictions=true"]) == 0
    found = newest(maml)
    with (found / "predictions.csv").open() as file:
        errors = [(float(y) - float(prediction)) ** 2 for _, _, y, prediction in list(csv.reader(file))[1:]]
    told = result(maml, int(found.name))
    assert len(errors) == told["test"]["mse"]["tasks"] * told["protocol"]["queries"]
    assert np.mean(errors) == pytest.approx(told["test"]["mse"]["mean"], rel=1e-5)


def test_nothing_changed_gives_the_same_bits_in_a_new_folder(maml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(maml)
    assert evaluate([f"run={maml}"]) == 0
    first = newest(maml)
    assert evaluate([str(maml)]) == 0
    assert int(newest(maml).name) == int(first.name) + 1
    assert contents(maml) == before
    old, new = arrays(maml), arrays(first)
    assert old.keys() == new.keys()
    assert all(np.array_equal(old[name], new[name]) for name in old)
    told, again = result(maml), result(maml, int(first.name))
    assert again.pop("evaluation")["changed"] == {}
    assert again.pop("command") == f"python -m metaexp.evaluate run={maml}"
    assert again == {key: value for key, value in told.items() if key != "command"}
    shown = capsys.readouterr().out
    assert "maml on sine, mlp, seed 0: 6 outer steps, best weights" in shown
    assert shown.count("the same numbers, to the bit") == 2
    assert yaml.safe_load((first / "config.yaml").read_text())["task"]["shots"] == 10


def test_other_sizes_are_those_of_a_family_made_so(maml: Path) -> None:
    assert evaluate([f"run={maml}", "task.shots=4", "test.tasks=30", "algo.test_steps=5", "task.eval_seed=3"]) == 0
    found, told = arrays(newest(maml)), result(newest(maml))
    restored = restore(maml, open_config(maml))
    learner = restored.parts.learner
    best = restored.checkpoints.best()
    assert best is not None
    learner.load_state_dict(best[0]["state_dict"])
    learner.family = Experiment(load([*TINY, "task=sine", "task.test.shots=4", "task.eval_seed=3"])).family
    learner.test_steps = 5
    expected = scores_of(learner, "test", 30, ["queries"])
    assert found["mse"].shape == (30, 6)
    assert np.array_equal(found["mse"], expected.arrays["mse"])
    assert told["protocol"]["query_sha256"] == expected.query_sha256 != result(maml)["protocol"]["query_sha256"]
    assert (told["protocol"]["shots"], told["protocol"]["eval_seed"], told["protocol"]["test_steps"]) == (4, 3, 5)
    changed = {"task.test.shots": 4, "test.tasks": 30, "algo.test_steps": 5, "task.eval_seed": 3}
    assert told["evaluation"]["changed"] == changed


def test_fewer_tasks_are_the_first_and_other_weights_are_others(maml: Path) -> None:
    assert evaluate([f"run={maml}", "test.tasks=7", "weights=last"]) == 0
    told = result(newest(maml))
    last = restore(maml, open_config(maml)).newest
    assert last is not None
    assert told["weights"] == {"kind": "last", "step": last["metaexp"]["step"]} == {"kind": "last", "step": 6}
    assert evaluate([f"run={maml}", "test.tasks=7"]) == 0
    assert np.allclose(arrays(newest(maml))["mse"], arrays(maml)["mse"][:7], rtol=1e-5)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("algo.inner_lr=0.1", "algo.inner_lr=0.1: cannot be changed"),
        ("algo.test_step=3", "did you mean algo.test_steps"),
        ("model.hidden=[8]", "model.hidden="),
        ("task.amplitude=wide", "task.amplitude=wide: must be"),
        (
            "task.amplitud=[1,2]",
            "task.amplitud=[1, 2]: cannot be changed in a trained run; did you mean task.amplitude",
        ),
        ("steps=9", "steps=9: cannot be changed"),
        ("task=linear", "task=linear"),
        ("test.tasks=many", "test.tasks=many: must be a whole number of at least 1"),
        ("test.tasks=0", "test.tasks=0: must be at least 1"),
        ("task.test.shots=half", "task.test.shots=half: must be a whole number"),
        ("task.test.shots=0", "test.shots=0: must be at least 1"),
        ("algo.test_steps=-1", "test_steps=-1: must be at least 0, or null"),
        ("test.weights=first", "must be best | last"),
        ("test.normalise=[all]", "test.normalise=[all]: each must be queries | single | support"),
        ("test.normalise=3", "must be a list"),
        ("test.tasks=1,2", "one value at a time"),
        ("--fast", "no such flag"),
        ("nothing", "cannot be read"),
    ],
)
def test_what_may_not_be_changed_is_one_line_and_leaves_nothing(maml: Path, typed: str, says: str) -> None:
    before = sorted((maml / "evaluations").glob("*"))
    with pytest.raises(ConfigError) as error:
        evaluate([f"run={maml}", typed])
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert sorted((maml / "evaluations").glob("*")) == before


def test_two_words_for_one_key_must_agree(maml: Path) -> None:
    typed = read([f"run={maml}", "task.shots=3", "task.test.shots=3", "device=cpu"])
    assert allowed(open_config(maml), typed.changes) == {"task.test.shots": 3, "device.accelerator": "cpu"}
    with pytest.raises(ConfigError, match="says otherwise"):
        evaluate([f"run={maml}", "task.shots=3", "task.test.shots=4"])


def test_an_unfinished_run_is_tested_with_the_weights_it_has(
    runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(TimeLimitError):
        run(load([*TINY, "algo=maml", "steps=100000", "val.every=100000", "time_limit=0.3", f"out={tmp_path}"]))
    (folder,) = (path.parent for path in tmp_path.glob("*/config.yaml"))
    step = json.loads((folder / "status.json").read_text())["step"]
    for kind, tested in (("best", 0), ("last", step)):
        assert evaluate([f"run={folder}", f"weights={kind}", "test.tasks=5"]) == 0
        told = result(newest(folder))
        assert told["weights"] == {"kind": kind, "step": tested}
        assert (told["steps"], told["evaluation"]["state"]) == (step, "interrupted")
        said = capsys.readouterr().err
        assert f"interrupted at step {step} of 100000: testing weights={kind}, of step {tested}" in said
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        evaluate([f"run={folder}"])


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: evaluate([f"run={tmp_path / 'nowhere'}"])) == 4
    assert exit_code(lambda: evaluate([str(tmp_path)])) == 4
    assert exit_code(lambda: evaluate(["test.tasks=3"])) == 2
    (tmp_path / "config.yaml").write_text("algo: 1\n")
    assert exit_code(lambda: evaluate([str(tmp_path)])) == 4
    assert len(capsys.readouterr().err.splitlines()) == 4


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [("device", 3, "no device"), ("choices", {"algo": "maml"}, "no choices.task"), ("clip", None, "no clip"),
     ("meta_batch", "25", "meta_batch=25: must be a whole number"), ("val", {"every": 10}, "no val.tasks"),
     ("test", {"tasks": [], "weights": "best", "normalise": []}, "test.tasks=[]: must be a whole number"),
     ("steps", None, "steps=null: must be a whole number"), ("time_limit", "cut", "no time_limit")],
)  # fmt: skip
def test_a_damaged_configuration_is_one_line(maml: Path, tmp_path: Path, key: str, value: Any, says: str) -> None:
    config = yaml.safe_load((maml / "config.yaml").read_text())
    config = {name: one for name, one in (config | {key: value}).items() if one != "cut"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(CheckpointError, match=r"config\.yaml: damaged, (it has )?" + re.escape(says)):
        evaluate([f"run={tmp_path}"])


def test_weights_of_another_network_are_refused(maml: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(maml, tmp_path / "copy")
    (copy / "config.yaml").write_text((copy / "config.yaml").read_text().replace("- 40\n", "- 41\n"))
    with pytest.raises(CheckpointError, match="not those of this configuration"):
        evaluate([f"run={copy}"])


@pytest.mark.parametrize(
    "target", ["os.system", "builtins.eval", "evil.parts.Algo", "metaexp.config.settings.os.system"]
)
def test_a_strangers_run_runs_no_code(maml: Path, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/parts.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    copy = shutil.copytree(maml, tmp_path / "copy")
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["algo"]["_target_"] = target
    for name in ("trusted", "trust"):
        config[name] = ["evil.parts", "os", "builtins"]
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=f"algo._target_={target}"):
        evaluate([f"run={copy}"])
    assert not (tmp_path / "ran").exists()


def test_no_chain_of_the_programs_own_functions_runs_code(maml: Path, tmp_path: Path) -> None:
    """Every link is a function of metaexp: one imports whatever is named, one packs a call, one makes it."""
    call = {
        "_target_": "metaexp.config.instantiate.locate",
        "path": "p",
        "target": "subprocess.call",
        "trusted": ["subprocess"],
    }
    pack = {"_target_": "metaexp.config.instantiate.Maker", "target": call, "group": "g", "settings": {}}
    copy = shutil.copytree(maml, tmp_path / "copy")
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["task"] |= {
        "_target_": "metaexp.training.build._located",
        "group": "g",
        "make": pack | {"args": [["touch", str(tmp_path / "ran")]]},
    }
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    for trust in ([], ["trust=[metaexp]"], ["trust=[subprocess]"]):
        with pytest.raises(ConfigError, match=r"_target_=metaexp\."):
            evaluate([f"run={copy}", *trust])
    assert not (tmp_path / "ran").exists()


def test_own_classes_need_trust_and_ways_may_differ_where_the_method_allows_it(
    own: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    package, folder = own
    monkeypatch.syspath_prepend(str(folder.parent))
    with pytest.raises(ConfigError, match=rf"trust=\[{package}\] allows it"):
        evaluate([f"run={folder}"])
    assert not any(name.startswith(package) for name in sys.modules)
    assert evaluate([f"run={folder}", f"trust=[{package}]"]) == 0
    assert np.array_equal(arrays(newest(folder))["accuracy"], arrays(folder)["accuracy"])
    assert evaluate([f"run={folder}", f"trust={package}", "task.test.ways=2"]) == 0
    assert result(newest(folder))["protocol"]["ways"] == 2
    with pytest.raises(ConfigError, match="trained on"):  # eval_seed divides the classes here
        evaluate([f"run={folder}", f"trust=[{package}]", "task.eval_seed=1"])


def test_ways_are_refused_where_the_method_has_an_output_per_class(
    own: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, protonet = own
    monkeypatch.syspath_prepend(str(protonet.parent))
    folder = train(tmp_path, "algo=anil", "task=vectors", extra=protonet.parent / "groups")
    with pytest.raises(ConfigError, match=r"^task\.test\.ways=2: ANIL has one output per class"):
        evaluate([f"run={folder}", f"trust=[{package}]", "task.test.ways=2"])
    assert not (folder / "evaluations").exists()


def test_a_changed_rate_is_used(tmp_path: Path) -> None:
    """The rate of `joint` is a buffer, which the checkpoint contains."""
    folder = train(tmp_path, "algo=joint", "task=sine", "algo.test_lr=0.01", "algo.test_epochs=2")
    assert evaluate([f"run={folder}", "algo.test_lr=0.0000001"]) == 0
    scores = arrays(newest(folder))["mse"]
    assert np.allclose(scores[:, 0], arrays(folder)["mse"][:, 0])
    assert np.allclose(scores[:, -1], scores[:, 0], rtol=1e-4)
    assert not np.allclose(arrays(folder)["mse"][:, -1], scores[:, 0], rtol=1e-2)


def test_a_run_leaves_nothing_frozen(tmp_path: Path) -> None:
    """Otherwise a sweep in one process would keep every job's learner and data."""
    gc.unfreeze()  # see conftest.py
    try:
        train(tmp_path, "algo=maml", "task=sine")
        assert gc.get_freeze_count() == 0
    finally:
        gc.freeze()


# --- the run that is shipped


def test_the_shipped_run_gives_its_numbers_from_the_command_line(train: Command, tmp_path: Path) -> None:
    before = contents(SHIPPED)
    done = train(f"run={SHIPPED}", f"out={tmp_path / 'to'}", module="metaexp.evaluate", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "r2d2 on sine, mlp, seed 0: 20000 outer steps, best weights (step 20000)" in done.stdout
    pictures = {path.name for path in (tmp_path / "to/1/figures").iterdir()}
    assert {"test_adaptation_mse.png", "test_episodes.png"} <= pictures
    told, again = result(SHIPPED), result(tmp_path / "to/1")
    for part, other in (
        (told["test"], again["test"]),
        *((told["floors"][f], again["floors"][f]) for f in told["floors"]),
    ):
        assert other["mse"]["mean"] == pytest.approx(part["mse"]["mean"], rel=0.02)  # elsewhere: rounding in float32
    assert told["test"]["mse"]["mean"] < 0.002
    assert again["protocol"] | {"query_sha256": ""} == told["protocol"] | {"query_sha256": ""}
    if "to the bit" in done.stdout:
        assert all(np.array_equal(v, arrays(tmp_path / "to/1")[name]) for name, v in arrays(SHIPPED).items())
    assert contents(SHIPPED) == before


def test_the_shipped_run_names_no_machine_and_is_small() -> None:
    files = contents(SHIPPED)
    assert sum(map(len, files.values())) < 300_000
    assert {"config.yaml", "result.json", "status.json", "test_scores.npz", "metrics.jsonl"} <= set(files)
    words = [b"/tmp", b"/home", b"/work", b"/root", b"/Users", b'"host"', b'"pid"', os.fsencode(ROOT)]
    words += [socket.gethostname().encode()] if len(socket.gethostname()) > 4 else []
    for name, data in files.items():
        assert not [word for word in words if word in data], name
    assert not (SHIPPED / "run.lock").exists()
    assert "scripts/runs/*/evaluations/" in (ROOT / ".gitignore").read_text().splitlines()


def test_data_that_have_changed_since_are_refused_by_test_and_resume(tmp_path: Path) -> None:
    """One more task redraws the splits, so that the test would contain training tasks."""
    file, draw = tmp_path / "a.npz", np.random.default_rng(0)
    x = draw.normal(size=(31 * 12, 1))
    np.savez(file, x=x[:-12], y=x[:-12], task=np.arange(30 * 12) // 12)
    folder = train(
        tmp_path / "out", "algo=maml", "task=arrays", f"task.files=['{file}']", "task.shots=3", "task.queries=3"
    )
    assert evaluate([f"run={folder}"]) == 0
    np.savez(file, x=x, y=x, task=np.arange(31 * 12) // 12)
    with pytest.raises(DataError, match="not those that this run was trained on"):
        evaluate([f"run={folder}"])
    assert [path.name for path in (folder / "evaluations").iterdir()] == ["1"]
    before = contents(folder / "checkpoints")
    (folder / "status.json").write_text(json.dumps({"state": "interrupted", "step": 6}))
    with pytest.raises(DataError, match="not those that this run was trained on"):
        run(load([f"resume={folder}", "steps=9"]))
    assert contents(folder / "checkpoints") == before
