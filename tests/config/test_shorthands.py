"""debug=fast, named schedules, durations, from=RUN, and the forms of a sweep."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT

from metaexp.config.overrides import Overrides, parse
from metaexp.config.settings import Settings
from metaexp.config.shorthands import FAST, SCHEDULES
from metaexp.constraints import Misfit, Seconds, WholeSeconds, fitted
from metaexp.errors import ConfigError
from metaexp.nested import at, leaves
from metaexp.run.sweep_jobs import find_jobs, names_by_difference
from metaexp.training.build import Experiment

RUN = ROOT / "scripts/runs/sine_r2d2"


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings()


# --- durations


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [(90, 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), ("1.5h", 5400), ("0.5s", 0.5)],
)
def test_durations(typed: Any, seconds: float) -> None:
    assert fitted(typed, Seconds | None) == seconds
    if seconds >= 1:
        assert fitted(typed, WholeSeconds) == seconds


@pytest.mark.parametrize("typed", ["", "s", "2 h", "30m1h", "-5s", "2w", "1e3s", True, "0s"])
def test_what_is_no_duration(typed: Any) -> None:
    with pytest.raises(Misfit, match="must be"):
        fitted(typed, Seconds | None)


def test_durations_on_the_command_line(settings: Settings) -> None:
    typed = [
        "time_limit=2h",
        "watchdog=90s",
        "log.seconds=1m",
        "checkpoint.seconds=2m",
        "device=ddp",
        "device.timeout=1h",
    ]
    config = settings.load(typed)
    found = [at(config, one.partition("=")[0]) for one in typed if one != "device=ddp"]
    assert found == [7200.0, 90.0, 60, 120, 3600.0]
    assert [type(one) for one in found] == [float, float, int, int, float]
    with pytest.raises(ConfigError, match=r"^time_limit=2x: must be a number of seconds \(90, 90s, 15m, 2h\), above 0"):
        settings.load(["time_limit=2x"])


# --- schedules


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("cosine", lambda t: 0.05 * (1 + math.cos(math.pi * t))),
        ("linear", lambda t: 0.1 * (1 - t)),
    ],
)
def test_a_named_schedule_is_as_long_as_the_run(name: str, rate: Any, settings: Settings) -> None:
    config = settings.load(["optimizer=sgd", f"optimizer.schedule={name}", "steps=8", "device=cpu"])
    made = Experiment(config)
    for step in range(9):
        assert made.schedule.get_last_lr()[0] == pytest.approx(rate(step / 8), abs=1e-12)
        made.optimizer.step()
        made.schedule.step()
    assert config["optimizer"]["schedule"]["_target_"].endswith(made.schedule.__class__.__name__)


def test_every_schedule_names_a_class_of_torch_and_its_arguments(settings: Settings) -> None:
    for name, node in SCHEDULES.items():
        assert hasattr(torch.optim.lr_scheduler, node["_target_"].rpartition(".")[2])
        assert settings.load([f"optimizer.schedule={name}"])["typed"]["optimizer.schedule"].keys() == node.keys()
    with pytest.raises(ConfigError, match="did you mean cosine"):
        settings.load(["optimizer.schedule=cosin"])


# --- debug


def test_debug_cuts_what_is_not_typed(settings: Settings) -> None:
    config = settings.load(["debug=fast", "experiment=omniglot_maml", "test.tasks=500"])
    assert {key: at(config, key) for key in FAST if key != "test.tasks"} == {
        key: min(value, at(config, key)) for key, value in FAST.items() if key != "test.tasks"
    }
    assert (config["test"]["tasks"], config["compile"], config["test"]["curve_shots"]) == (500, False, [])
    varying = settings.load(["debug=fast", "task=gp"])
    assert varying["task"]["bucket"] % varying["meta_batch"] == 0
    assert settings.load(["debug=null"])["meta_batch"] == 25


# --- from=RUN


def test_from_a_run_are_its_settings(settings: Settings) -> None:
    saved = yaml.safe_load((RUN / "config.yaml").read_text())
    config = settings.load([f"from={RUN}"])
    left = ("out", "name", "trusted")
    assert not {k: v for k, v in leaves(saved) if k not in left and at(config, k, "absent") != v}
    assert (config["out"], config["name"]) == ("outputs", None)


def test_what_is_typed_counts_more(settings: Settings) -> None:
    config = settings.load([f"from={RUN}", "seed=7", "model.hidden=[8]", "device=auto"])
    assert (config["seed"], config["task"]["seed"], config["model"]["hidden"]) == (7, 7, [8])  # task.seed follows seed
    assert (config["steps"], config["device"]["accelerator"]) == (20000, "auto")
    other = settings.load([f"from={RUN}", "algo=maml"])
    assert (other["choices"]["algo"], other["compile"], "strength" in other["algo"]) == ("maml", False, False)


def test_a_class_and_a_named_schedule_of_a_run(settings: Settings, tmp_path: Path) -> None:
    typed = ["algo.inner={_target_:metaexp.inner.Adam}", "optimizer.schedule=cosine", "steps=300"]
    first = settings.load(["algo=maml", *typed])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in first.items() if k != "typed"}))
    again = settings.load([f"from={tmp_path}", "steps=500"])
    assert again["algo"] == first["algo"]
    assert (first["optimizer"]["schedule"]["T_max"], again["optimizer"]["schedule"]["T_max"]) == (300, 500)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("from={} resume=auto", "a resumed run keeps its own settings; leave out from= or resume=auto"),
        ("from={} experiment=maml_sine", "its settings would replace those of experiment=maml_sine; choose one"),
        ("from=nowhere", "from=nowhere: no such run folder"),
        ("from={}/checkpoints", "has no config.yaml, so it is no run folder"),
        ("from={} stepz=1", "stepz=1: no such setting; did you mean steps?"),
    ],
)
def test_from_is_refused(typed: str, says: str, settings: Settings) -> None:
    with pytest.raises(ConfigError) as caught:
        settings.load(typed.format(RUN).split())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_of_debug_is_no_base(settings: Settings, tmp_path: Path) -> None:
    saved = yaml.safe_load((RUN / "config.yaml").read_text()) | {"debug": "fast"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    with pytest.raises(ConfigError, match="made with debug=fast"):
        settings.load([f"from={tmp_path}"])


# --- sweeps


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("experiment=glob(*_sine)", ["joint_sine", "maml_sine", "reptile_sine"]),
        ("experiment=glob([maml*,joint*],exclude=*mlp*)", ["joint_sine", "maml_sine", "maml_sine_lr0001"]),
        ("seed=range(1,4)", ["1", "2", "3"]),
        ("seed=choice(4,2)", ["4", "2"]),
        ("seed=sort(3,1,2)", ["1", "2", "3"]),
    ],
)
def test_forms_of_a_sweep(typed: str, values: list[str], settings: Settings) -> None:
    _, jobs, faults = find_jobs(settings, settings.prepare(parse([typed])))
    assert not faults
    assert [job.words for job in jobs] == [f"{typed.partition('=')[0]}={value}" for value in values]


def test_a_shuffled_list_is_drawn_once(settings: Settings) -> None:
    prepared = settings.prepare(parse(["seed=shuffle(range(0,4))"]))
    orders = {tuple(job.words for job in find_jobs(settings, prepared)[1]) for _ in range(2)}
    assert len(orders) == 1
    assert sorted(orders.pop()) == sorted(f"seed={n}" for n in range(4))


def test_jobs_from_a_run_are_named_by_their_difference(settings: Settings) -> None:
    """As Hydra names them when it starts them: otherwise the sweep would run them twice."""
    typed = parse([f"from={RUN}", "seed=1,2", "algo=maml,r2d2"])
    prepared = settings.prepare(Overrides((*typed.parsed, *parse([names_by_difference(typed)]).parsed)))
    names = [job.name for job in find_jobs(settings, prepared)[1]]
    assert names == ["0_seed=1,algo=maml", "1_seed=1,algo=r2d2", "2_seed=2,algo=maml", "3_seed=2,algo=r2d2"]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("seed=interval(0,1)", "seed=interval(0,1): an interval needs a sweeper that chooses values"),
        ("task.shots=glob(*)", "task.shots=glob(*): only a group has choices that glob can list"),
        ("algo=glob(x*)", "algo=glob(x*): matches none of acnp, "),
        ("from=a,b", "from=a,b: no such run folder"),  # a folder's name may have a comma
    ],
)
def test_forms_that_are_refused(typed: str, says: str, settings: Settings) -> None:
    try:
        (said, *_) = find_jobs(settings, settings.prepare(parse([typed])))[2]
    except ConfigError as error:
        said = str(error)
    assert said.startswith(says)
