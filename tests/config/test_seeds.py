"""`seeds=[0,1]`: the sweep that it stands for, and what is refused."""

import os

import pytest

from metaexp.config.command_line import CommandLine
from metaexp.config.seeds import with_seeds
from metaexp.config.settings import Settings
from metaexp.errors import ConfigError
from metaexp.run.sweep_jobs import find_jobs


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("seeds=0,1", "seeds=0,1: a list, seeds=[0,1,2]"),
        ("seeds=4", "seeds=4: a list, seeds=[0,1,2]"),
        ("seeds=[]", "seeds=[]: must be whole numbers of at least 0"),
        ("seeds=[0,-1]", "seeds=[0,-1]: must be whole numbers of at least 0"),
        ("seeds=[0,true]", "seeds=[0,true]: must be whole numbers of at least 0"),
        ("seeds=[0,0]", "seeds=[0,0]: a seed twice would be the same run twice"),
        ("seeds=[0,1] seed=3", "seed=3 beside seeds=[0,1]: type one of them"),
        ("seeds=[0,1] resume=outputs/x", "resume=outputs/x beside seeds=[0,1]: a folder is one run"),
    ],
)
def test_refused(typed: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        with_seeds(CommandLine.parse(typed.split()))
    assert str(refused.value).startswith(said)


def test_they_are_a_sweep_over_seed() -> None:
    line = with_seeds(CommandLine.parse(["algo=maml,reptile", "seeds=[3,1]", "jobs=2"]))
    assert (line.action, line.overrides.words) == ("sweep", ["algo=maml,reptile", "jobs=2", "seed=3,1"])
    _, jobs, faults = find_jobs(Settings(line.overrides), line.overrides)
    assert faults == []
    assert [(job.config["choices"]["algo"], job.config["seed"]) for job in jobs] == [
        ("maml", 3), ("maml", 1), ("reptile", 3), ("reptile", 1),
    ]  # fmt: skip
    assert {job.config["seeds"] for job in jobs} == {None}  # a run keeps its own seed alone


def test_as_many_at_a_time_as_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    for seeds, jobs in (("[0,1]", 2), ("[0,1,2,3]", 3)):
        words = with_seeds(CommandLine.parse([f"seeds={seeds}", "resume=auto"])).overrides.words
        assert words == ["resume=auto", f"seed={seeds[1:-1]}", f"jobs={jobs}"]
    launched = with_seeds(CommandLine.parse(["seeds=[0,1]", "hydra/launcher=joblib"]))
    assert "jobs" not in " ".join(launched.overrides.words)  # that launcher has a number of its own


def test_without_them_nothing_changes() -> None:
    for words in (["seed=1"], ["-m", "seed=1,2"], ["seeds=null"]):
        line = CommandLine.parse(words)
        assert with_seeds(line) == line
    with pytest.raises(ConfigError, match=r"^seeds=\[0, 1\]: typed after python -m metaexp.train alone"):
        Settings().load(["seeds=[0,1]"])  # metaexp.start makes one run
