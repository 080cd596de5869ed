"""TensorBoard: what is written is read back in the way TensorBoard reads it."""

import errno
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from result_example import RESULT
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from tensorboard.summary.writer.record_writer import RecordWriter

from metaexp.algos.views import Heatmap
from metaexp.config.settings import load
from metaexp.errors import SpaceError
from metaexp.loggers.board_tags import shown_tag
from metaexp.loggers.result_table import markdown
from metaexp.loggers.tensorboard import TensorBoard, _drawn, validation_scalars
from metaexp.plots.curves import adaptation_curve
from metaexp.plots.shots import shots_picture
from metaexp.plots.style import on_a_board, resize
from metaexp.plots.views import heatmap
from metaexp.training.result import told_settings


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    return events.Reload()


def points(events, tag):
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_scalars_come_back_with_their_steps(tmp_path):
    board = TensorBoard(tmp_path / "run 1")
    board.scalars({"train/outer_loss": 0.5, "speed/meta_steps_per_s": 812}, 100)
    board.scalars({"train/outer_loss": torch.tensor(0.25)}, 200)
    board.flush()
    events = read(tmp_path / "run 1")  # readable before the end
    assert points(events, "train/outer_loss") == [(100, 0.5), (200, 0.25)]
    assert points(events, "train/outer_steps_per_s") == [(100, 812.0)]
    board.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run 1"]


def test_a_resumed_run_replaces_what_stood_after_its_checkpoint(tmp_path):
    first = TensorBoard(tmp_path / "run")
    for step in (100, 200, 300, 400):
        first.scalars({"train/outer_loss": float(step)}, step)
    first.flush()  # and killed
    second = TensorBoard(tmp_path / "run", resumed_at=200)
    second.scalars({"train/outer_loss": -300.0}, 300)
    second.close()
    assert points(read(tmp_path / "run"), "train/outer_loss") == [(100, 100.0), (200, 200.0), (300, -300.0)]
    first.close()


def test_validation_scalars_name_every_inner_step():
    values = validation_scalars("mse", [{"mean": 4.0, "ci95": 0.5}, {"mean": 1.0, "ci95": 0.25}])
    assert values == {
        "val/mse/before": 4.0,
        "val/mse/after": 1.0,
        "val/mse/after_low": 0.75,
        "val/mse/after_high": 1.25,
        "val/mse/step_00": 4.0,
        "val/mse/step_01": 1.0,
    }
    assert sorted(validation_scalars("accuracy", [{"mean": 0.5, "ci95": 0.1}])) == [
        "val/accuracy/after",
        "val/accuracy/after_high",
        "val/accuracy/after_low",
    ]


def test_a_figure_is_one_png_on_disk_and_in_tensorboard(tmp_path):
    board = TensorBoard(tmp_path / "run")
    for step in (10, 20):
        board.figure("val/adaptation mse", adaptation_curve("mse", np.array([[4.0, step], [3.0, step]])), step)
    board.close()
    (png,) = (tmp_path / "run" / "figures").iterdir()
    assert png.name == "val_adaptation_mse.png"
    events = read(tmp_path / "run").Images("val/adaptation mse")
    assert [event.step for event in events] == [10, 20]
    assert events[1].encoded_image_string == png.read_bytes() != events[0].encoded_image_string
    image = np.asarray(Image.open(png).convert("RGB"))
    assert image.shape == (events[1].height, events[1].width, 3)
    assert (image == 255).mean() > 0.5  # a white page
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 50  # with something on it


def test_the_layout_groups_the_tags(tmp_path):
    board = TensorBoard(tmp_path / "run")
    board.layout(["mse", "acc+"])
    board.close()
    (event,) = read(tmp_path / "run").Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == ["validation: mse", "validation: acc+", "training"]
    lines, margin, steps = layout.category[0].chart
    floors = ("mean", "neighbour", "last", "drift", "scratch", "oracle")
    given = [*(f"floor/{floor}/mse" for floor in floors), "val/mse/before", "val/mse_uniform/after"]
    given += [*validation_scalars("mse", [{"mean": 1.0, "ci95": 0.1}] * 101), "val/inner_gradient_norm"]
    tags = [shown_tag(tag) for tag in given]
    assert _matched(lines, tags) == {
        "val/mse/after",
        "val/mse/before",
        "val/mse/upper_bound_oracle",
        *(f"val/mse/baseline_{floor}" for floor in floors[:-1]),
    }
    assert _matched(steps, tags) == {
        "val/mse/after",
        *(f"val_steps/mse/step_{step:02d}" for step in (0, 1, 2, 5, 10, 20, 50)),
    }
    assert len(_matched(lines, tags)) == len(_matched(steps, tags)) == 8
    (series,) = margin.margin.series
    assert (series.value, series.lower, series.upper) == ("val/mse/after", "val_steps/mse/low", "val_steps/mse/high")
    assert {series.value, series.lower, series.upper} <= set(tags)
    assert layout.category[1].chart[0].multiline.tag[0] == r"val/acc\+/(after|before)$"
    assert shown_tag("speed/meta_steps_per_s") == "train/outer_steps_per_s"
    assert all(re.match(chart.multiline.tag[0], "train/outer_loss") is None for chart in layout.category[2].chart[1:])


def _matched(chart, tags):
    return {tag for tag in tags if any(re.match(pattern, tag) for pattern in chart.multiline.tag)}


def test_a_distribution_of_scores_comes_back_without_what_is_not_finite(tmp_path):
    board = TensorBoard(tmp_path / "run")
    board.histogram("val/mse_per_task", np.array([1.0, 2.0, np.inf, np.nan, 4.0]), 10)
    board.histogram("val/mse_per_task", np.array([np.nan]), 20)
    board.close()
    (event,) = (
        EventAccumulator(str(tmp_path / "run"), size_guidance={"histograms": 0}).Reload().Histograms("val/mse_per_task")
    )
    found = event.histogram_value
    assert (event.step, found.num, found.min, found.max, found.sum) == (10, 3, 1.0, 4.0, 7.0)


def test_hparams_of_a_tree_hold_every_runs_settings_and_final_test_metrics(tmp_path):
    for name, config, metrics in (
        (
            "maml_sine",
            {
                "choices.algo": "maml",
                "algo._target_": "a.B",
                "typed.x": 1,
                "algo.inner_lr": 0.01,
                "clip.norm": None,
                "compile": True,
            },
            {"mse": 0.5},
        ),
        ("sweep/0_reptile", {"choices.algo": "reptile", "optimizer.lr": 1.0, "widths": [40, 40]}, {"accuracy": 0.75}),
    ):
        board = TensorBoard(tmp_path / name)
        board.scalars({"train/outer_loss": 9.0}, 10)
        board.hparams(config, metrics, step=10)
        board.close()
    assert points(read(tmp_path / "maml_sine" / "test"), "test/mse") == [(10, 0.5)]

    # The table as built by TensorBoard's own back end.
    tree = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    context = backend_context.Context(
        base_plugin.TBContext(data_provider=MultiplexerDataProvider(tree, str(tmp_path)), logdir=str(tmp_path))
    )
    request = RequestContext()
    runs = context.hparams_metadata(request, "")
    table = context.experiment_from_metadata(
        request, "", True, runs, context.hparams_from_data_provider(request, "", None)
    )
    assert sorted(runs) == ["maml_sine/test", "sweep/0_reptile/test"]
    columns = {info.name for info in table.hparam_infos}
    assert columns == {"algo", "algo.inner_lr", "compile", "optimizer.lr", "widths"}  # without what is null everywhere
    assert {info.name.tag for info in table.metric_infos} == {"test/mse", "test/accuracy"}  # and no training curve


def test_rows_of_a_sweep_over_methods_have_short_names_and_the_same_metrics(tmp_path):
    """Parallel coordinates leave out a row that lacks one of the metrics; the table shows 15 letters of a name."""
    sweep, shared = tmp_path / "2026-11-29_10-45-50_sweep_8f38", ["mse"]
    for folder, algo, metrics in (
        (sweep / "0_algo=maml,seed=1", "maml", {"mse": 0.5}),
        (sweep / "1_algo=cnp,seed=1", "cnp", {"log_likelihood": -1.0, "mse": 0.25, "coverage50": 0.4}),
        (tmp_path / "2026-11-28_23-33-25_mine_15cd", "acnp", {"log_likelihood": -2.0, "mse": 0.75}),
        (tmp_path / "moved", "cnp", {"mse": 1.0}),
        (tmp_path / "2026-11-28_23-33-26_mine_15ce", "acnp", {"log_likelihood": -3.0}),  # none that is shared
    ):
        board = TensorBoard(folder)
        board.hparams({"choices.algo": algo, "choices.task": "sine", "seed": 1}, metrics, 7, shared)
        board.close()
    tree = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    context = backend_context.Context(
        base_plugin.TBContext(data_provider=MultiplexerDataProvider(tree, str(tmp_path)), logdir=str(tmp_path))
    )
    request = api_pb2.ListSessionGroupsRequest(allowed_statuses=[api_pb2.STATUS_SUCCESS], slice_size=9)
    groups = list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups
    rows = {group.name: {value.name.tag: value.value for value in group.metric_values} for group in groups}
    assert rows == {
        "maml 8f38.0 seed=1 11-29 10:45 sine": {"test/mse": 0.5},
        "cnp 8f38.1 seed=1 11-29 10:45 sine": {"test/mse": 0.25},
        "acnp 15cd 11-28 23:33 mine": {"test/mse": 0.75},
        "moved/test": {"test/mse": 1.0},
        "acnp 15ce 11-28 23:33 mine": {"test/log_likelihood": -3.0},
    }
    assert points(read(sweep / "1_algo=cnp,seed=1"), "test/log_likelihood") == [(7, -1.0)]
    assert points(read(sweep / "1_algo=cnp,seed=1"), "test/coverage50") == [(7, pytest.approx(0.4))]


def test_a_column_of_numbers_and_nulls_stays_numeric(tmp_path):
    for name, norm, metric in (("a", None, None), ("b", 10.0, "mse"), ("c", 2, None)):
        board = TensorBoard(tmp_path / name)
        board.hparams({"clip.norm": norm, "stop.metric": metric, "seed": 1}, {"mse": 0.5})
        board.close()
    tree = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    provider = MultiplexerDataProvider(tree, str(tmp_path))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider, logdir=str(tmp_path)))
    request = RequestContext()
    runs = context.hparams_metadata(request, "")
    found = context.hparams_from_data_provider(request, "", None)
    table = context.experiment_from_metadata(request, "", True, runs, found)
    kinds = {info.name: api_pb2.DataType.Name(info.type) for info in table.hparam_infos}
    assert kinds == {
        "clip.norm": "DATA_TYPE_FLOAT64",
        "seed": "DATA_TYPE_FLOAT64",
        "stop.metric": "DATA_TYPE_STRING",
    }
    (norms,) = (info for info in table.hparam_infos if info.name == "clip.norm")
    assert sorted(value.number_value for value in norms.domain_discrete.values) in ([2.0, 10.0], [])


def test_only_rank_0_writes(tmp_path):
    board = TensorBoard(tmp_path / "run", rank=1)
    board.scalars({"train/outer_loss": 0.5}, 1)
    board.figure("x", adaptation_curve("mse", np.ones((2, 2))), 1)
    board.layout(["mse"])
    board.hparams({"a": 1}, {"mse": 1.0})
    board.flush()
    board.close()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_error_line(tmp_path, monkeypatch, capfd):
    board = TensorBoard(tmp_path / "run")
    board.scalars({"train/outer_loss": 0.5}, 1)
    board.flush()

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", full)
    board.scalars({"train/outer_loss": 0.5}, 2)  # the writer's thread finds the disk full
    with pytest.raises(SpaceError, match=r"cannot write .*run.*: no space") as caught:
        board.close()
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err  # the writer's thread stays silent

    (tmp_path / "file").write_text("")
    with pytest.raises(SpaceError):
        TensorBoard(tmp_path / "file" / "run").scalars({"a": 1.0}, 1)


def test_pictures_are_kept_in_every_format_at_the_width_for_print(tmp_path):
    for name in ("one", "two"):
        board = TensorBoard(tmp_path / name, rank=0, formats=("png", "pdf", "svg"), shape=lambda f: resize(f, 3.3))
        board.figure("test/adaptation_mse", adaptation_curve("mse", np.array([[4.0, 1.0], [3.0, 2.0]])), 1)
        board.close()
    one, two = ({p.suffix: p.read_bytes() for p in (tmp_path / n / "figures").iterdir()} for n in ("one", "two"))
    assert one == two  # equal runs, equal bytes
    assert one[".pdf"].startswith(b"%PDF")
    assert b"<svg" in one[".svg"]
    with Image.open(io.BytesIO(one[".png"])) as image:
        assert image.width == round(3.3 * 300)


def test_text_is_shown_as_text(tmp_path):
    found = RESULT | {"algo": "<b>|x", "doubt": "a|b <script>"}
    board = TensorBoard(tmp_path / "run", rank=0)
    board.text("run/result", markdown(found), 3)
    board.close()
    (event,) = read(tmp_path / "run").Tensors("run/result/text_summary")
    (raw,) = event.tensor_proto.string_val
    shown = raw.decode()
    assert event.step == 3
    assert "| mse | 0.4123 +- 0.031 | 4.02 | 0.7 | 0.4123 | 1000 |" in shown
    assert "<" not in shown
    assert all(line.count("|") == 7 for line in shown.splitlines() if line.startswith("|"))


def test_a_run_is_told_by_what_was_chosen_and_typed():
    config = load(["algo=maml", "task=sine", "algo.inner_lr=0.02", "seed=3", "optimizer=sgd"])
    found = told_settings(config)
    assert found == {
        "choices.algo": "maml",
        "choices.task": "sine",
        "choices.model": "mlp",
        "seed": 3,
        "steps": config["steps"],
        "algo.inner_lr": 0.02,
        "choices.optimizer": "sgd",
    }


def _kinds_of_figures():
    draws = np.random.default_rng(0)
    wide = np.exp(draws.normal(size=(20, 6)))
    yield adaptation_curve("mse", wide, {"mean": 3.0, "scratch": wide.mean(0) + 1}, "maml on sine", False, "maml")
    yield shots_picture("mse", [1, 2, 5, 10, 20, 50], wide, {"mean": wide + 1, "neighbour": wide * 2}, "a title", False)
    yield heatmap(
        Heatmap(torch.arange(20.0).view(5, 4), "query", "support", list("abcde"), list("wxyz"), "attention", "weight")
    )


def test_a_png_has_the_bytes_of_savefig(tmp_path):
    for ours, theirs in zip(_kinds_of_figures(), _kinds_of_figures(), strict=True):
        with on_a_board(ours):
            small = _drawn(ours, "png")
        with on_a_board(theirs):
            theirs.savefig(tmp_path / "small.png", dpi=theirs.dpi, metadata={"Software": None})
        assert small == (tmp_path / "small.png").read_bytes()
        for dpi in (None, 200):
            theirs.savefig(tmp_path / "large.png", dpi=dpi or theirs.dpi, metadata={"Software": None})
            assert _drawn(ours, "png", dpi) == (tmp_path / "large.png").read_bytes()
        assert type(ours.get_layout_engine()) is type(theirs.get_layout_engine())
        assert (ours.dpi, type(ours.canvas)) == (theirs.dpi, type(theirs.canvas))
