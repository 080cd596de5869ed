"""Tab completion: the candidates, and real shells in which somebody presses Tab."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from shells import Shell

from metaexp.commands.completion import SHELLS, candidates


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a", ["adapt ", "audit "]),
        ("train algo=m", ["algo=maml ", "algo=maml_pg ", "algo=mean ", "algo=metasgd ", "algo=mother "]),
        ("train algo=maml,rep", ["algo=maml,reptile "]),  # in a sweep
        ("train algo=maml algo.test_", ["algo.test_lr=", "algo.test_steps="]),
        ("train algo=maml a", ["accumulate=", "algo.", "algo="]),
        ("train algo=maml algo.ada", ["algo.adapt="]),  # a list is one value
        ("train -m optimizer=sgd seed=0,1 optimizer.nes", ["optimizer.nesterov="]),
        (
            "train stepz=1 =x algo= test.weights=",
            ["test.weights=best ", "test.weights=last "],
        ),  # wrong ones are left out
        ("train algo=maml algo.first_order=", ["algo.first_order=false ", "algo.first_order=true "]),
        ("train meta_batch=", ["meta_batch=25 "]),
        ("train out=", []),  # the shell completes folders
        ("train --cfg ", ["all ", "hydra ", "job "]),
        ("audit model=c", ["model=cnn4 "]),
        ("evaluate ru", ["run="]),
        ("evaluate run=scripts/runs/sine_r2d2 test.weights=b", ["test.weights=best "]),
        ("evaluate run=scripts/runs/sine_r2d2 algo.", []),  # this method has no setting that begins with test_
        ("report --m", ["--markdown ", "--metric "]),
        ("completion z", ["zsh "]),
        ("nonsense x", []),
    ],
)
def test_what_may_follow(line: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert candidates(line.split(" ")) == expected


def test_groups_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "algo").mkdir()
    (tmp_path / "algo/mine.yaml").write_text("_target_: metaexp.algos.maml.MAML\n_partial_: true\nown_rate: 1.0\n")
    assert candidates(["train", "--config-dir", str(tmp_path), "algo=mi"]) == ["algo=mine "]
    assert candidates(["train", "--config-dir", str(tmp_path), "algo=mine", "algo.own"]) == ["algo.own_rate="]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_pressing_tab(shell: str, tmp_path: Path) -> None:
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "metaexp"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m metaexp.commands.console "$@"\n')
    script.chmod(0o755)
    (tmp_path / "runs").mkdir()
    options = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"]}[shell]
    start = ["bindkey -e"] if shell == "zsh" else []
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    made = Shell(
        [program, *options],
        [*start, f'eval "$(metaexp completion {shell})"'],
        tmp_path,
        environment | {"HOME": str(tmp_path)},
    )
    try:
        assert made.tab("metaexp train algo=maml algo.test_s") == "metaexp train algo=maml algo.test_steps="
        assert made.tab(f"{script} train algo=maml,rep") == f"{script} train algo=maml,reptile"
        assert made.tab("metaexp rep") == "metaexp report"
        assert made.tab("metaexp train resume=ru").rstrip("/") == "metaexp train resume=runs"
    finally:
        made.close()


def test_it_imports_no_torch_and_never_prints_an_error() -> None:
    code = (
        "import sys; from metaexp.commands.console import console\n"
        "codes = [console(['completion', 'words', *line.split()]) for line in sys.argv[1:]]\n"
        "print(codes, 'torch' in sys.modules)"
    )
    lines = ["train algo=rep", "evaluate run=nowhere task.", "train --config-dir nowhere al", "train ''"]
    done = subprocess.run([sys.executable, "-c", code, *lines], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["algo=reptile ", "[0, 0, 0, 0] False"]
    assert done.stderr == ""


def test_scripts_are_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from metaexp.commands.completion import completion

    for name, text in SHELLS.items():
        assert completion([name]) == 0
        assert capsys.readouterr().out == text
    assert completion(["fish"]) == 2
    assert "choose one of bash, zsh" in capsys.readouterr().err
