"""`metaexp.start`: a run from Python equals the command's, and two runs in one process equal two processes."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from undrawn import undraw

import metaexp
from metaexp.errors import ConfigError

TINY = "algo=maml task=sine steps=6 meta_batch=4 val.every=3 val.tasks=5 test.tasks=10 compile=false device=cpu".split()
TINY += ["device.threads=1", "log.every=3"]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the run that all tests of this file share has pictures."""
    undraw(monkeypatch.setattr)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> "metaexp.Run":
    return metaexp.start(*TINY, f"out={tmp_path_factory.mktemp('runs')}")


def scores(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "test_scores.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_a_run_has_its_result_its_folder_its_figures_and_its_learner(made):
    assert made.result["steps"] == 6
    assert made.result["test"]["mse"]["tasks"] == 10
    assert (made.folder / "result.json").is_file()
    assert made.figures["test_adaptation_mse"].read_bytes().startswith(b"\x89PNG")
    assert {"test_episodes", "val_episodes", "train_curve"} <= set(made.figures)
    x = np.linspace(-5, 5, 10)[:, None]
    assert made.load().fit(x, np.sin(x[:, 0])).predict(x).shape == (10,)
    assert str(made.folder) in repr(made)
    assert "mse" in repr(made)


def test_twice_in_one_process_is_as_good_as_two_processes(made, train, tmp_path):
    """The same bits whatever ran before, in this process or a new one; nothing is left behind in the environment."""
    before, threads, kind = dict(os.environ), torch.get_num_threads(), torch.get_default_dtype()
    metaexp.start(*TINY, "algo=reptile", "seed=5", "device.precision=64-true", f"out={tmp_path / 'other'}")
    again = metaexp.start(*TINY, f"out={tmp_path / 'again'}")
    assert dict(os.environ) == before
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, kind)
    done = train(*TINY, f"out={tmp_path / 'apart'}")
    assert done.returncode == 0, done.stderr
    (apart,) = (tmp_path / "apart").glob("*/test_scores.npz")
    first = scores(made.folder)
    for other in (again.folder, apart.parent):
        found = scores(other)
        assert found.keys() == first.keys()
        assert all(
            np.array_equal(found[name], values, equal_nan=values.dtype == float) for name, values in first.items()
        )


def test_a_finished_run_is_returned_again(made):
    again = metaexp.start(f"resume={made.folder}")
    assert again.folder == made.folder
    assert again.result == made.result


def test_progress_is_shown(tmp_path, capsys):
    metaexp.start(*TINY, f"out={tmp_path}")
    shown = capsys.readouterr()
    assert "step 6/6" in shown.err
    assert "maml on sine" in shown.out


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["algo.iner_lr=1"], "algo.iner_lr=1: no such setting; did you mean algo.inner_lr?"),
        (["seed=0,1"], "seed=0,1: several values need -m"),
        (["-m", "seed=0,1"], "-m: start takes settings as key=value"),
        ([3], "3: start takes settings as key=value"),
        (["device=ddp"], "device.strategy=ddp: several processes are started by the command"),
        (["steps=-1"], "steps=-1: must be at least 0"),
    ],
)
def test_a_mistake_is_an_error_of_one_line_and_leaves_nothing(tmp_path, typed, message):
    with pytest.raises(ConfigError) as caught:
        metaexp.start(*typed, f"out={tmp_path / 'out'}")
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "out").exists()


def test_group_files_of_your_own(tmp_path):
    (tmp_path / "algo").mkdir()
    (tmp_path / "algo" / "fast.yaml").write_text("# MAML with a larger rate\ndefaults:\n  - maml\ninner_lr: 0.02\n")
    run = metaexp.start(*TINY, "algo=fast", f"out={tmp_path / 'out'}", config_dir=tmp_path)
    assert run.result["algo"] == "fast"
    assert "inner_lr: 0.02" in (run.folder / "config.yaml").read_text()
