"""`metaexp board`: the view of runs that TensorBoard is given, read back in the way TensorBoard reads it."""

import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import backend_context

from metaexp.commands.board import pins
from metaexp.commands.board_table import varying, write_events
from metaexp.commands.board_view import BoardView
from metaexp.storage.saved_config import dump_yaml

SWEEP = "2026-11-29_01-44-51_sweep_f352"


def run(folder: Path, algo: str, mse: float | None, seed: int = 0, **algo_settings: Any) -> Path:
    """A run's folder as a finished run leaves it; without an error, one that is still training."""
    folder.mkdir(parents=True)
    choices = {"algo": algo, "task": "sine", "model": "mlp"}
    config = {"choices": choices, "algo": {"_target_": f"a.{algo}", **algo_settings}, "seed": seed, "steps": 300}
    config |= {"val": {"tasks": 50}, "name": None, "compile": False, "out": str(folder.parent)}
    (folder / "config.yaml").write_text(dump_yaml(config))
    write_events(folder, (), [("val/mse/after", 4.0, 0), ("val/mse/after", 2.0, 300)])
    if mse is not None:
        floors = {"mean": {"mse": {"mean": 4.5}}, "oracle": {"mse": {"mean": 0.0}}, "scratch": {"mse": {"mean": 4.0}}}
        test = {"mse": {"mean": mse}} | ({"log_likelihood": {"mean": -1.0}} if algo == "cnp" else {})
        result = {"task": "sine", "steps": 300, "test": test, "floors": floors, "protocol": {"query_sha256": "ab"}}
        result |= {"val_floors": {"mean": {"mse": 4.25}, "oracle": {"mse": 0.125}}}
        (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    out = tmp_path / "outputs"
    run(out / SWEEP / "0_algo=maml,seed=0", "maml", 2.5, inner_lr=0.01)
    run(out / SWEEP / "1_algo=maml,seed=1", "maml", 2.0, seed=1, inner_lr=0.01)
    run(out / SWEEP / "2_algo=cnp,seed=0", "cnp", 1.5)
    write_events(out / SWEEP, (), [("comparison/x", 1.0, 0)])
    alone = run(out / "2026-11-29_01-47-04_maml_sine_b689", "maml", 3.0, inner_lr=0.02)
    write_events(alone / "test", (), [("test/mse", 3.0, 300)])  # the run's own table
    (out / SWEEP / "3_algo=maml,seed=2").symlink_to(alone)  # finished before: linked into the sweep
    write_events(out / "mine", (), [("x", 1.0, 0)])
    return out


def named(view: BoardView) -> list[str]:
    return sorted(path.name for path in view.path.iterdir())


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in EventAccumulator(str(folder)).Reload().Scalars(tag)]


def table(view: BoardView) -> tuple[Any, dict[str, dict[str, Any]]]:
    """TensorBoard's own table: its description, and the settings of each row."""
    tree = EventMultiplexer().AddRunsFromDirectory(str(view.path)).Reload()
    provider = MultiplexerDataProvider(tree, str(view.path))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider, logdir=str(view.path)))
    request = RequestContext()
    found = context.hparams_metadata(request, "")
    about = context.experiment_from_metadata(
        request, "", True, found, context.hparams_from_data_provider(request, "", None)
    )
    rows = {}
    for name, tags in found.items():
        if "_hparams_/session_start_info" in tags:
            start = backend_context.metadata.parse_session_start_info_plugin_data(tags["_hparams_/session_start_info"])
            rows[name] = {key: value.number_value or value.string_value for key, value in start.hparams.items()}
    return about, rows


def test_a_run_is_one_row_named_by_method_task_and_settings(runs: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    view = BoardView(runs)
    view.update()
    assert named(view) == [
        "baseline mean, sine",
        "cnp sine seed=0 f352.2",
        "maml sine 11-29 01:47 b689",
        "maml sine seed=0 f352.0",
        "maml sine seed=1 f352.1",
        "mine",
        "sweep f352",
        "upper bound oracle, sine",
    ]
    row = view.path / "maml sine 11-29 01:47 b689"
    assert scalars(row, "val/mse/after") == [(0, 4.0), (300, 2.0)]
    assert scalars(row, "test/mse") == [(300, 3.0)]
    assert scalars(view.path / "baseline mean, sine", "test/mse") == [(0, 4.5), (300, 4.5)]
    assert scalars(view.path / "upper bound oracle, sine", "val/mse/after") == [(0, 0.125), (300, 0.125)]
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before
    view.remove()
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before
    assert not view.path.exists()


def test_the_table_has_what_differs_for_every_run_and_the_metrics_that_all_have(runs: Path) -> None:
    view = BoardView(runs)
    view.update()
    about, rows = table(view)
    assert {info.name for info in about.hparam_infos} == {"algo", "task", "algo.inner_lr", "seed"}
    assert [info.name.tag for info in about.metric_infos] == ["test/mse"]  # of cnp alone: log_likelihood
    assert rows == {
        "cnp sine seed=0 f352.2": {"algo": "cnp", "task": "sine", "algo.inner_lr": "-", "seed": ""},
        "maml sine 11-29 01:47 b689": {"algo": "maml", "task": "sine", "algo.inner_lr": "0.02", "seed": ""},
        "maml sine seed=0 f352.0": {"algo": "maml", "task": "sine", "algo.inner_lr": "0.01", "seed": ""},
        "maml sine seed=1 f352.1": {"algo": "maml", "task": "sine", "algo.inner_lr": "0.01", "seed": 1.0},
    }  # a 0 reads as nothing there
    assert pins(view.metrics) == (
        "?pinnedCards=%5B%7B%22plugin%22:%22scalars%22,%22tag%22:%22val/mse/after%22%7D,"
        "%7B%22plugin%22:%22scalars%22,%22tag%22:%22test/mse%22%7D%5D"
    )
    view.remove()


def test_runs_that_start_end_and_vanish_while_the_board_is_open(tmp_path: Path) -> None:
    view = BoardView(tmp_path)
    view.update()
    assert named(view) == []
    assert pins(view.metrics) == ""
    one = run(tmp_path / "one", "maml", None, inner_lr=0.01)
    view.update()
    assert named(view) == ["maml sine one"]
    assert table(view)[1] == {}
    assert next((view.path / "maml sine one").glob("events*")).resolve() == next(one.glob("events*"))
    done = json.dumps({"task": "sine", "steps": 300, "test": {"mse": {"mean": None}}})
    (one / "result.json").write_text(done)
    view.update()
    view.update()
    about, rows = table(view)
    assert rows["maml sine one"] == {"algo": "maml", "task": "sine", "seed": "", "steps": 300.0}
    assert len(about.hparam_infos) == 4
    assert str(scalars(view.path / "maml sine one", "test/mse")) == "[(300, nan)]"
    (one / "projector").mkdir()
    (one / "projector" / "a.tensors.tsv").write_text("1\t2\n")
    (one / "projector_config.pbtxt").write_text("embeddings {}\n")
    view.update()
    copy = view.path / "maml sine one" / "projector" / "a.tensors.tsv"
    assert copy.read_text() == "1\t2\n"
    assert not copy.is_symlink()  # TensorBoard refuses points outside
    one.rename(tmp_path.parent / "elsewhere")
    view.update()
    assert named(view) == []
    view.remove()


def test_what_follows_from_the_method_is_no_column() -> None:
    own = [{"algo": algo, "task": "sine", "optimizer.lr": lr} for algo, lr in (("maml", 0.001), ("reptile", 1.0))]
    assert varying(own) == ["algo", "task"]
    assert varying([*own, own[0] | {"optimizer.lr": 0.01}]) == ["algo", "task", "optimizer.lr"]
    same = [own[0] | {"seed": seed, "task.seed": seed} for seed in (0, 1)]
    assert varying(same) == ["algo", "task", "seed"]  # what is typed once is one column
