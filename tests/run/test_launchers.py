"""Each launcher and the Optuna sweeper from end to end: good jobs, one that raises, one that is killed, the report.

They need packages of their own: `scripts/test.sh --tier launchers` makes an environment for them.
"""

import json
import os
import re
import stat
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Command

from metaexp.storage.lock import state_of

pytestmark = [pytest.mark.tier("launchers"), pytest.mark.timeout(600)]

FATE = '''
import json, os, signal
from pathlib import Path
import torch
from metaexp.tasks.sine import Sine

class Fate(Sine):
    """Sinusoids whose seed 1 raises and whose seed 2 kills its process, until the file `healed` exists."""

    def __init__(self, *args, place="", **kwargs):
        super().__init__(*args, **kwargs)
        self.place, self.number = Path(place), kwargs["seed"]

    def sample(self, *args, **kwargs):
        threads = {"threads": torch.get_num_threads(), "pid": os.getpid()}
        (self.place / f"seed{self.number}.json").write_text(json.dumps(threads))
        if self.number in (1, 2) and not (self.place / "healed").exists():
            if self.number == 1:
                raise ZeroDivisionError("on purpose")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(*args, **kwargs)
'''
SMALL = "algo=maml mapping=loop steps=4 val.every=2 val.tasks=5 test.tasks=10 test.curve_shots=[] compile=false"
LAUNCHERS = {
    "basic": ["jobs=2"],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local"],
    "slurm": ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1"],
    "ray_local": ["hydra/launcher=ray_local"],
}
# A cluster of one machine: runs the tasks of a submitted array one after the other.
SBATCH = """#!{python}
import os, re, subprocess, sys
script = open(sys.argv[-1]).read()
last = int(re.search(r"--array=0-(\\d+)", script)[1])
print("Submitted batch job 77", flush=True)
if os.fork():
    sys.exit()
os.setsid()
log = open(os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "log"), "a")
for descriptor in (1, 2):
    os.dup2(log.fileno(), descriptor)  # whoever reads the answer of sbatch waits for its end
for task in range(last + 1):
    more = dict(SLURM_JOB_ID="77", SLURM_ARRAY_JOB_ID="77", SLURM_ARRAY_TASK_ID=str(task), SLURM_NTASKS="1",
                SLURM_JOB_NUM_NODES="1", SLURM_NODEID="0", SLURM_PROCID="0", SLURM_LOCALID="0")
    subprocess.run(["bash", sys.argv[-1]], env=os.environ | more, stdin=subprocess.DEVNULL)
"""
SRUN = (
    '#!/bin/bash\nwhile [ "${1#-}" != "$1" ]; do case "$1" in --output|--error) shift;; esac; shift; done\nexec "$@"\n'
)
SACCT = '#!/bin/bash\necho "JobID|State|NodeList"; for i in 0 1 2 3; do echo "77_$i|RUNNING|here"; done\n'


@pytest.fixture
def sweep(train: Command, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a sweep in which seeds 0 and 3 are good."""
    folder = train.folder
    (folder / "fate/task").mkdir(parents=True)
    (folder / "fate/__init__.py").touch()
    (folder / "fate/fate.py").write_text(FATE)
    (folder / "fate/task/fate.yaml").write_text(
        f'# good and bad\ndefaults: [sine]\n_target_: fate.fate.Fate\nplace: "{folder / "fate"}"\n'
    )
    cluster = folder / "cluster"
    cluster.mkdir()
    for name, text in (("sbatch", SBATCH.replace("{python}", sys.executable)), ("srun", SRUN), ("sacct", SACCT)):
        (cluster / name).write_text(text)
        (cluster / name).chmod(stat.S_IRWXU)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)  # as on a user's machine
    monkeypatch.setenv("PATH", f"{cluster}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(folder))  # Ray writes there
    return ["-m", "--config-dir", "fate", "task=fate", *SMALL.split(), "seed=0,1,2,3"]


def newest(folder: Path) -> Path:
    return max((folder / "outputs").glob("*_sweep_*"), key=lambda path: path.stat().st_mtime_ns)


def states(folder: Path) -> dict[str, str]:
    return {path.parent.name.partition("=")[2]: state_of(path.parent) for path in folder.glob("*/status.json")}


def report(train: Command) -> str:
    found = train("outputs", module="metaexp.report")
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_good_raising_and_killed_jobs(train: Command, sweep: list[str], launcher: str) -> None:
    first = train(*sweep, *LAUNCHERS[launcher], timeout=400)
    assert first.returncode == 1, (first.stdout, first.stderr)
    folder = newest(train.folder)
    assert states(folder) == {"0": "finished", "1": "failed", "2": "killed", "3": "finished"}
    rows = [line.split() for line in first.stdout.splitlines() if re.match(r"\d_seed=\d +\w", line)]
    assert [row[1:3] for row in rows] == [["finished", "0"], ["failed", "1"], ["killed", "137"], ["finished", "0"]]
    assert json.loads((folder / "1_seed=1/status.json").read_text())["error"] == "ZeroDivisionError: on purpose"
    shown = report(train)
    assert "not finished (2 runs):" in shown
    assert "killed by SIGKILL" in shown
    # Two jobs at a time on a machine of N cores: N / 2 threads each; jobs of a queue have the cores they asked for.
    cores = len(os.sched_getaffinity(0))
    made = {seed: json.loads((train.folder / f"fate/seed{seed}.json").read_text()) for seed in range(4)}
    most = max(1, cores // 2) if launcher in ("basic", "joblib") else 1
    assert {one["threads"] for one in made.values()} == {most}
    assert len({one["pid"] for one in made.values()}) == 4

    (train.folder / "fate/healed").touch()
    again = train(*sweep, "resume=auto", *LAUNCHERS[launcher], timeout=400)
    assert again.returncode == 0, (again.stdout, again.stderr)
    assert "2 finished before and are linked, 2 to run" in again.stdout
    assert states(newest(train.folder)) == dict.fromkeys("0123", "finished")
    assert "not finished" not in report(train).replace("not finished (2 runs)", "")
    assert len(list((train.folder / "outputs").glob("*_sweep_*/*/result.json"))) == 6  # two of them by links


def test_optuna(train: Command, sweep: list[str]) -> None:
    grid = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=4"]
    ended = train(*sweep[:-1], *grid, "seed=choice(0,1,2,3)", "jobs=2", timeout=400)
    assert ended.returncode == 1, (ended.stdout, ended.stderr)
    folder = newest(train.folder)
    assert sorted(states(folder).values()) == ["failed", "finished", "finished", "killed"]
    best = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    results = [json.loads(path.read_text()) for path in folder.glob("*/result.json")]
    found = {result["seed"]: result["val"]["best"] for result in results}
    assert set(found) == {0, 3}
    assert best["best_value"] == min(found.values())
    assert list(best["best_params"].values()) == [min(found, key=lambda seed: found[seed])]
    assert "not finished (2 runs):" in report(train)


def test_every_extra_is_in_this_environment() -> None:
    """One command resolves them together: `pip install -e '.[all]'`."""
    import tomllib
    from importlib.metadata import version

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = set(re.findall(r"[\w-]+", extras["all"][0])) - {"metaexp"}
    assert wanted == set(extras) - {"all", "dev"}
    for extra in sorted(wanted):
        for need in extras[extra]:
            assert version(re.match(r"[\w-]+", need)[0])  # type: ignore[index]
