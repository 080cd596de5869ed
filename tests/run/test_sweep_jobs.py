"""The jobs of a sweep."""

from pathlib import Path
from typing import Any

import pytest

from metaexp.config.overrides import parse
from metaexp.config.settings import Settings
from metaexp.run import sweep
from metaexp.run.sweep_jobs import Job, find_jobs, is_grid, job_name, launcher_of


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ("algo.inner_lr=1e+30,seed=1", "3_algo.inner_lr=1e+30,seed=1"),  # not 1e-30
        ("algo.inner_lr=1e-30", "3_algo.inner_lr=1e-30"),
        ("++algo.inner={a:1},seed=2", "3_algo.inner=-a-1-,seed=2"),
        ("name=a+b", "3_name=a-b"),
        ("", "3"),
    ],
)
def test_a_job_is_named_by_its_values(values: str, name: str) -> None:
    assert job_name(3, values) == name


def test_the_configuration_for_slurm_is_shipped() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    typed = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=4", "hydra.launcher.partition=gpu", "seed=0,1"]
    node, jobs, faults = find_jobs(Settings(), parse(typed))
    assert (is_grid(node), launcher_of(node), len(jobs), faults) == (True, "slurm", 2, [])
    found = {key: node.launcher[key] for key in ("cpus_per_task", "partition", "array_parallelism", "max_num_timeout")}
    assert found == {"cpus_per_task": 4, "partition": "gpu", "array_parallelism": 32, "max_num_timeout": 3}
    assert launcher_of(find_jobs(Settings(), parse(["seed=0,1"]))[0]) == "basic"


def test_a_signal_between_two_jobs_that_the_launcher_left_starts_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def start(config: dict[str, Any], folder: Path, name: str, grid: bool) -> Any:
        started.append(name)
        return lambda: (folder / "run.lock").write_text("{}\n15\n")

    monkeypatch.setattr(sweep, "start", start)
    sweep._run_the_rest(tmp_path, [Job("0", {}), Job("1", {})])
    assert started == ["0"]
