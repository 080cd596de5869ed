"""The command line as real processes: exit codes, one line on stderr, nothing left behind."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from conftest import ROOT, Command

from metaexp.storage.lock import RunLock

# Replaces metaexp.run.single, so that only the sweep is tested, not the training, and torch is not imported. The seed
# determines how a run ends.
FAKE_RUN = """
import json, os, signal, sys, time, types
from pathlib import Path

module = types.ModuleType("metaexp.run.single")

class Experiment:
    def __init__(self, config):
        from metaexp.errors import ConfigError
        if config["steps"] < 1:
            raise ConfigError(f"steps={config['steps']}: must be at least 1")

def run(config, folder=None):
    from metaexp import errors
    place = folder or Path(config["sweep"]["folder"]) / config["sweep"]["job"]
    seed = config["seed"]
    if seed == 10:
        raise errors.DataError("data.npz: missing")  # before there is a folder
    place.mkdir(exist_ok=folder is not None)
    def end(state, code, **extra):
        (place / "status.json").write_text(json.dumps({"state": state, "exit_code": code, **extra}))
    if seed == 11:
        end("failed", 5, error="non-finite outer loss at step 3")
        raise errors.NonFiniteError("non-finite outer loss at step 3")
    if seed == 12:
        sys.exit(3)
    if seed == 13:
        end("failed", 1, error="ZeroDivisionError")
        1 / 0
    if seed == 14:
        end("interrupted", 143)
        raise errors.Terminated("stopped at step 3")
    if seed == 15:
        end("interrupted", 124, error="time_limit=1 s reached")
        raise errors.TimeLimitError("time_limit=1 s reached")
    if seed == 16:  # the sweep gets SIGTERM; its job is told, and ends
        def told(*_):
            end("interrupted", 143)
            raise errors.Terminated("stopped at step 3")
        signal.signal(signal.SIGTERM, told)
        os.kill(json.loads((place.parent / "run.lock").read_text().splitlines()[0])["pid"], signal.SIGTERM)
        time.sleep(20)
    if seed == 18:  # kills the launcher's worker, whose server is the parent
        os.kill(int(open(f"/proc/{os.getppid()}/stat").read().rpartition(")")[2].split()[1]), signal.SIGKILL)
        time.sleep(1)
    if seed == 17:
        end("running", None, step=3)
        os.kill(os.getpid(), signal.SIGKILL)
    (place / "config.json").write_text(json.dumps(config))
    (place / "result.json").write_text(json.dumps({"test": {"mse": {"mean": 0.5, "ci95": 0.1}}}))
    end("finished", 0)
    return types.SimpleNamespace(folder=place, result={"val": {"best": 0.25}})

module.run, module.Experiment, module.preload = run, Experiment, lambda: None
sys.modules["metaexp.run.single"] = sys.modules["metaexp.training.build"] = module
"""


@pytest.fixture
def fake(train: Command) -> Callable[..., CompletedProcess[str]]:
    folder = train.folder / "fake"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(FAKE_RUN)
    work = train.folder / "work"
    work.mkdir()

    def call(*args: str, **env: str) -> CompletedProcess[str]:
        return train(*args, cwd=work, timeout=60, PYTHONPATH=f"{folder}:{ROOT}", **env)

    train.folder = work
    return call


def one_line(result: CompletedProcess[str], code: int, *says: str) -> None:
    lines = result.stderr.splitlines()
    assert result.returncode == code, result.stderr
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("metaexp: ")
    for text in says:
        assert text in lines[0]


def sweep_folder(work: Path) -> Path:
    (folder,) = (work / "outputs").iterdir()
    assert "_sweep_" in folder.name
    return folder


def states(folder: Path) -> dict[str, tuple[str, int]]:
    found = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/status.json")}
    return {name: (status["state"], status["exit_code"]) for name, status in found.items()}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["algo.iner_lr=1"], ["algo.iner_lr=1: no such setting; did you mean algo.inner_lr?"]),
        (["+algo.iner_lr=1"], ["algo.iner_lr=1: no such setting; did you mean algo.inner_lr?"]),
        (["algo.inner_steps=2.5"], ["algo.inner_steps=2.5", "a whole number"]),
        (["time_limit=abc"], ["time_limit=abc: must be a number of seconds (90, 90s, 15m, 2h), above 0 or null"]),
        (["algo.inner_steps=0"], ["algo.inner_steps=0: must be at least 1"]),
        (["task=sine", "model=cnn4"], ["model=cnn4 needs input image, task=sine gives vector"]),
        (["algo._target_=logging.os.system"], ["algo._target_=logging.os.system: must be a class of metaexp.*"]),
        (["--multrun", "seed=1,2"], ["--multrun", "did you mean --multirun?"]),
        (["-m", "--cfg", "job"], ["only one of"]),
        (["--experimental-rerun", "x.pickle"], ["--experimental-rerun"]),
        (["-m", "algo.inner_lr=0.1,abc"], ["algo.inner_lr=abc: must be a number"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_bad_input_exits_2_and_leaves_nothing(train: Command, args: list[str], says: list[str]) -> None:
    start = time.perf_counter()
    result = train(*args, timeout=30)
    seconds = time.perf_counter() - start
    one_line(result, 2, *says)
    assert list(train.folder.iterdir()) == []
    assert seconds < 5  # about 0.5 on an idle machine; torch alone would take longer than that


def test_a_refused_line_imports_no_torch(train: Command) -> None:
    """This keeps the answer under a second."""
    probe = """
import sys
from metaexp import train

for typed in ("stepz=1", "algo.inner_steps=0"):
    sys.argv[1:] = [typed]
    try:
        train.main()
    except SystemExit as stop:
        print(stop.code, "torch" in sys.modules, "lightning" in sys.modules)
"""
    (train.folder / "probe.py").write_text(probe)
    assert train(module="probe").stdout == "2 False False\n" * 2


def test_full_errors_on_demand(train: Command) -> None:
    result = train("stepz=1", HYDRA_FULL_ERROR="1")
    assert result.returncode == 2
    assert "Traceback" in result.stderr


@pytest.fixture
def own(train: Command) -> Path:
    own = train.folder / "own"
    (own / "algo").mkdir(parents=True)
    (own / "algo" / "mine.yaml").write_text("# My own method\n_target_: mine.Mine\nrate: 0.5   # of forgetting\n")
    (own / "experiment").mkdir()
    (own / "experiment" / "row.yaml").write_text("# @package _global_\n# A row of a table\nsteps: 3\n")
    return own


def test_help_is_short_and_names_every_choice(train: Command, own: Path) -> None:
    result = train("--help", "--config-dir", str(own))
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 80
    words = set(re.split(r"[\s,=]+", result.stdout))
    for file in (ROOT / "conf").glob("*/*.yaml"):
        if file.parent.name != "kind":  # the task chooses it
            assert file.stem in words
    assert {"mine", "row", "steps", "task.shots", "--config-dir", "--multirun"} <= words
    assert {path.name for path in train.folder.iterdir()} == {"own"}


def test_help_of_choices_explains_every_setting(train: Command, own: Path) -> None:
    result = train("--help", "algo=maml", "task=omniglot")
    assert result.returncode == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    text = " ".join(result.stdout.split())
    assert "algo=maml: MAML, second order (Finn, Abbeel, Levine 2017)" in text
    assert "algo.inner_lr=2.0 a number above 0" in text  # with the pair's value
    assert "algo.test_lr=null a number above 0 or null; inner learning rate at test; null: inner_lr" in text
    assert "task.split=random1200 random1200 | vinyals | lake; random1200: 1100/100/423 classes" in text
    assert "With these: encoder=none, model=cnn4, device=auto, optimizer=adam, kind=pictures" in text
    mine = train("--help", "algo=mine", "--config-dir", str(own))
    assert "algo=mine: My own method" in mine.stdout
    assert "algo.rate=0.5 a number; of forgetting" in " ".join(mine.stdout.split())
    one_line(train("--help", "algo=mam"), 2, "algo=mam: no such choice; did you mean maml?")


def test_cfg_job_shows_checked_settings(train: Command) -> None:
    result = train("steps=3", "--cfg", "job", "+seed=4")  # flags may appear anywhere
    assert result.returncode == 0
    assert "\nsteps: 3\n" in f"\n{result.stdout}"
    assert "seed: 4\n" in result.stdout
    one_line(train("--cfg", "job", "stepz=3"), 2, "did you mean steps?")
    assert list(train.folder.iterdir()) == []


# --- sweeps


def test_sweep_with_one_bad_job_starts_none(fake: Callable[..., Any], train: Command) -> None:
    result = fake("-m", "seed=0,1", "steps=5,0")  # refused by a constructor
    one_line(result, 2, "steps=0: must be at least 1")
    result = fake("-m", "algo=maml,reptlie", "seed=0,1")
    one_line(result, 2, "algo=reptlie: no such choice; did you mean reptile?")
    result = fake("-m", "model=mlp,cnn4")
    one_line(result, 2, "model=cnn4 needs input image")
    result = fake("-m", "stepz=1,2", "algo._target_=os.system")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert list(train.folder.iterdir()) == []


def test_sweep_of_good_jobs(fake: Callable[..., Any], train: Command) -> None:
    result = fake("-m", "seed=0,1", "algo=maml,reptile", "steps=7", "algo.inner_lr=0.5", "out=outputs")
    assert result.returncode == 0, result.stderr
    folder = sweep_folder(train.folder)
    names = ["0_seed=0,algo=maml", "1_seed=0,algo=reptile", "2_seed=1,algo=maml", "3_seed=1,algo=reptile"]
    assert states(folder) == dict.fromkeys(names, ("finished", 0))
    # Of Hydra's files only the record of the sweep: no run folders, no logs.
    ours = {"command.txt", "report.html"}
    events = {path.name for path in folder.glob("events.out.tfevents.*")}
    assert {path.name for path in folder.iterdir()} == {*names, "multirun.yaml", *ours, *events}
    assert len(events) == 1
    config = json.loads((folder / names[3] / "config.json").read_text())
    assert (config["seed"], config["steps"], config["choices"]["algo"]) == (1, 7, "reptile")
    assert config["sweep"] == {"folder": str(folder), "job": names[3]}
    assert config["algo"]["inner_lr"] == 0.5
    assert config["choices"]["optimizer"] == "sgd"
    for name in names:
        assert f"{name}" in result.stdout
        assert "mse 0.5 +- 0.1" in result.stdout
    assert {path.name for path in train.folder.iterdir()} == {"outputs"}


def test_failing_jobs_take_none_with_them(fake: Callable[..., Any], train: Command) -> None:
    result = fake("-m", "seed=10,11,12,13,1", "hydra.sweeper.max_batch_size=2")
    assert result.returncode == 1
    assert states(sweep_folder(train.folder)) == {
        "0_seed=10": ("failed", 3),
        "1_seed=11": ("failed", 5),
        "2_seed=12": ("failed", 1),
        "3_seed=13": ("failed", 1),
        "4_seed=1": ("finished", 0),
    }
    rows = result.stdout.splitlines()[-5:]
    assert rows[0].split() == ["0_seed=10", "failed", "3", "data.npz:", "missing"]
    assert rows[4].split() == ["4_seed=1", "finished", "0", "mse", "0.5", "+-", "0.1"]
    assert "non-finite outer loss at step 3" in result.stderr
    assert "ZeroDivisionError" in result.stderr  # a bug keeps its traceback


LAUNCHERS = {"basic": [], "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"]}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_signal_to_the_sweep_ends_its_jobs(fake: Callable[..., Any], train: Command, launcher: str) -> None:
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    result = fake("-m", "seed=1,16,2", *LAUNCHERS[launcher])
    assert result.returncode == 143, result.stderr
    folder = sweep_folder(train.folder)
    assert states(folder) == {"0_seed=1": ("finished", 0), "1_seed=16": ("interrupted", 143)}
    assert result.stdout.splitlines()[-1].split() == ["2_seed=2", "not", "started", "-"]
    assert (folder / "run.lock").read_text().splitlines()[1:] == ["15"]  # for jobs that still wait in a queue


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_killed_job_takes_only_itself(fake: Callable[..., Any], train: Command, launcher: str) -> None:
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    result = fake("-m", "seed=17,14,2", *LAUNCHERS[launcher])
    assert result.returncode == 1, result.stderr
    folder = sweep_folder(train.folder)
    ended = {"0_seed=17": ("running", 137), "1_seed=14": ("interrupted", 143), "2_seed=2": ("finished", 0)}
    assert states(folder) == ended  # "running" without a lock is killed
    assert json.loads((folder / "0_seed=17/status.json").read_text())["step"] == 3
    rows = [line.split() for line in result.stdout.splitlines()[-3:]]
    assert rows[0] == "0_seed=17 killed 137 killed by SIGKILL (kill -9, or out of memory)".split()
    assert [row[:3] for row in rows[1:]] == [["1_seed=14", "interrupted", "143"], ["2_seed=2", "finished", "0"]]
    assert "0_seed=17: killed by SIGKILL" in result.stderr


@pytest.mark.tier("launchers")
def test_a_killed_worker_takes_no_job(fake: Callable[..., Any], train: Command) -> None:
    """Joblib ends all workers then; their jobs go on, and what has not been started runs in the sweep."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    result = fake("-m", "seed=18,1,2,3,4", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert result.returncode == 0, result.stderr
    assert states(sweep_folder(train.folder)) == {
        f"{i}_seed={seed}": ("finished", 0) for i, seed in enumerate((18, 1, 2, 3, 4))
    }


def test_jobs_side_by_side(fake: Callable[..., Any], train: Command) -> None:
    result = fake("-m", "seed=17,11,1,2", "jobs=2")
    assert result.returncode == 1, result.stderr
    assert states(sweep_folder(train.folder)) == {
        "0_seed=17": ("running", 137), "1_seed=11": ("failed", 5), "2_seed=1": ("finished", 0),
        "3_seed=2": ("finished", 0),
    }  # fmt: skip
    assert "1_seed=11: metaexp: 1_seed=11: non-finite outer loss at step 3" in result.stderr.splitlines()
    one_line(fake("-m", "seed=1,2", "jobs=1,2"), 2, "jobs=1,2: one number for the whole sweep")
    one_line(fake("-m", "seed=1,2", "jobs=2", *LAUNCHERS["joblib"]), 2, "use hydra.launcher.n_jobs")
    one_line(fake("seed=1", "jobs=2"), 2, "jobs=2: only a sweep has several jobs; add -m")
    assert len(list((train.folder / "outputs").iterdir())) == 1


def test_a_time_limit_ends_one_job_alone(fake: Callable[..., Any], train: Command) -> None:
    result = fake("-m", "seed=15,2")
    assert result.returncode == 1
    assert states(sweep_folder(train.folder)) == {"0_seed=15": ("interrupted", 124), "1_seed=2": ("finished", 0)}
    assert "not started" not in result.stdout


def test_sweep_in_other_processes(fake: Callable[..., Any], train: Command) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    result = fake("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=11,1", 'out="öut put\'s"')
    assert result.returncode == 1, result.stderr
    (folder,) = (train.folder / "öut put's").iterdir()
    assert states(folder) == {"0_seed=11": ("failed", 5), "1_seed=1": ("finished", 0)}


def test_sweep_with_own_folder_and_experiment_grid(fake: Callable[..., Any], train: Command) -> None:
    own = train.folder / "own" / "experiment"
    own.mkdir(parents=True)
    grid = "# @package _global_\n# Two seeds\nsteps: 9\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}\n"
    (own / "grid.yaml").write_text(grid)
    result = fake("--config-dir", "own", "experiment=grid")
    assert result.returncode == 0, result.stderr
    folder = sweep_folder(train.folder)
    assert states(folder) == {"0_seed=1": ("finished", 0), "1_seed=2": ("finished", 0)}
    assert json.loads((folder / "1_seed=2" / "config.json").read_text())["steps"] == 9


def test_sweeps_of_one_second_get_two_folders(fake: Callable[..., Any], train: Command) -> None:
    from metaexp.run.sweep import _claim

    folders = {_claim(str(train.folder / "out")) for _ in range(20)}
    assert len(folders) == 20
    (train.folder / "file").write_text("")
    one_line(fake("-m", "seed=1", "out=file"), 2, "out=file")


def test_further_processes_of_a_distributed_run_join(fake: Callable[..., Any], train: Command) -> None:
    folder = train.folder / "claimed"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 1\nsteps: 3\n")
    variables = {"LOCAL_RANK": "1", "METAEXP_RUN_DIR": str(folder)}
    one_line(fake("-m", "seed=1,2", "nonsense", **variables), 2, "nonsense")  # left behind: nobody holds the lock
    lock = RunLock(folder, new=True)
    try:
        result = fake("-m", "seed=1,2", "nonsense", **variables)
    finally:
        lock.release()
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "config.json").read_text()) == {"seed": 1, "steps": 3}


@pytest.mark.parametrize(("seed", "code"), [(10, 3), (11, 5), (12, 3), (13, 1), (14, 143)])
def test_exit_codes_of_a_run(fake: Callable[..., Any], train: Command, seed: int, code: int) -> None:
    folder = train.folder / "claimed"
    folder.mkdir()
    (folder / "config.yaml").write_text(f"seed: {seed}\n")
    lock = RunLock(folder, new=True)
    try:
        result = fake(LOCAL_RANK="1", METAEXP_RUN_DIR=str(folder))
    finally:
        lock.release()
    assert result.returncode == code
    assert ("Traceback" in result.stderr) == (seed == 13)
