"""Pictures, TensorBoard and progress: what is drawn, written and printed is read back and compared."""

import errno
import io
import logging
import math
import re
import warnings

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import backend_context
from tensorboard.summary.writer.record_writer import RecordWriter

from metaexp.errors import SpaceError
from metaexp.loggers.progress import Progress, print_result, quiet
from metaexp.loggers.tensorboard import TensorBoard, validation_scalars
from metaexp.plots import episodes as pictures
from metaexp.types import Episode, Examples


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def pixels(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))


def line(axes, label):
    (found,) = [one for one in axes.get_lines() if one.get_label() == label]
    return found


# ---------------------------------------------------------------- pictures


def test_adaptation_curve_band_is_1_96_s_over_root_n(rng):
    scores = rng.uniform(0.5, 1.5, size=(50, 4))
    figure = pictures.adaptation_curve("mse", scores, {"scratch": np.array([2.0, 1.9, 1.8, 1.7]), "mean": 2.5})
    (axes,) = figure.axes
    mean, half = scores.mean(0), 1.96 * scores.std(0, ddof=1) / math.sqrt(50)
    np.testing.assert_allclose(line(axes, "mean of 50 tasks, 95 % band").get_ydata(), mean, rtol=1e-12)
    (fill,) = axes.collections
    corners = fill.get_paths()[0].vertices
    for step in range(4):
        at = corners[corners[:, 0] == step][:, 1]
        np.testing.assert_allclose([at.min(), at.max()], [mean[step] - half[step], mean[step] + half[step]], rtol=1e-12)
    np.testing.assert_array_equal(line(axes, "scratch: 1.7").get_ydata(), [2.0, 1.9, 1.8, 1.7])
    assert set(line(axes, "mean: 2.5").get_ydata()) == {2.5}
    assert axes.get_yscale() == "linear"
    assert pixels(figure).shape == (round(4.8 * 130), 1170, 3)


def test_adaptation_curve_leaves_tasks_that_diverged_out_and_says_so(rng):
    scores = rng.uniform(0.5, 1.5, size=(20, 3))
    scores[3, 2], scores[7, 1] = np.nan, np.inf
    good = np.delete(scores, [3, 7], axis=0)
    (axes,) = pictures.adaptation_curve("mse", scores).axes
    np.testing.assert_allclose(line(axes, "mean of 18 tasks, 95 % band").get_ydata(), good.mean(0), rtol=1e-12)
    assert "2 of 20 tasks not finite: left out" in [text.get_text() for text in axes.texts]
    assert pictures.band(scores)[2] == 2
    everything = pictures.adaptation_curve("mse", np.full((5, 3), np.nan))
    assert "5 of 5 tasks not finite: left out" in [text.get_text() for text in everything.axes[0].texts]
    pixels(everything)


@pytest.mark.parametrize(("last", "scale"), [(0.01, "log"), (0.5, "linear"), (-0.01, "linear"), (0.0, "linear")])
def test_adaptation_curve_is_logarithmic_where_positive_values_span_decades(last, scale):
    (axes,) = pictures.adaptation_curve("mse", np.array([[4.0, last], [4.0, last]])).axes
    assert axes.get_yscale() == scale


def test_adaptation_curve_of_a_method_without_inner_steps():
    (axes,) = pictures.adaptation_curve("accuracy", np.array([[0.5], [0.7]])).axes
    np.testing.assert_allclose(line(axes, "mean of 2 tasks, 95 % band").get_ydata(), [0.6])


def regression(tasks, n, shape=(1,), y_dim=1):
    make = torch.Generator().manual_seed(0)

    def part():
        x = torch.randn(tasks, n, *shape, generator=make)
        return Examples(x, x.flatten(2).sum(-1, keepdim=True).repeat(1, 1, y_dim))

    return Episode(part(), part(), torch.arange(tasks), {})


def test_curves_draws_truth_support_and_prediction_of_every_step_shown():
    episode = regression(8, 5)
    slopes = torch.tensor([0.0, 0.5, 0.9]).view(1, 3, 1, 1)
    figure = pictures.curves(episode, lambda x: x[:, None] * slopes, [0, 1, 10], truth=lambda x: x)
    assert len(figure.axes) == 6  # a page, not all of 200 validation tasks
    axes = figure.axes[2]
    x = line(axes, "true function").get_xdata()
    every = torch.cat([episode.support.x, episode.query.x])
    np.testing.assert_allclose([x[0], x[-1]], [every.min(), every.max()], rtol=1e-6)
    np.testing.assert_allclose(line(axes, "true function").get_ydata(), x, rtol=1e-6)
    np.testing.assert_allclose(line(axes, "before adaptation").get_ydata(), 0 * x)
    np.testing.assert_allclose(line(axes, "after 1 step").get_ydata(), 0.5 * x, rtol=1e-5)
    np.testing.assert_allclose(line(axes, "after 10 steps").get_ydata(), 0.9 * x, rtol=1e-5)
    np.testing.assert_array_equal(line(axes, "support").get_xdata().ravel(), episode.support.x[2].ravel())
    assert pixels(figure).std() > 10


def test_curves_without_the_truth_shows_the_queries_and_a_diverged_prediction_does_not_hide_them():
    episode = regression(1, 5)
    figure = pictures.curves(episode, lambda x: torch.stack([x, x * torch.inf, x * 1e9], 1), [0, 1, 2])
    (axes,) = figure.axes
    np.testing.assert_array_equal(line(axes, "query").get_ydata().ravel(), episode.query.y.ravel())
    seen = torch.cat([episode.support.y, episode.query.y])
    assert axes.get_ylim()[1] - axes.get_ylim()[0] < 1.5 * (seen.max() - seen.min())
    pixels(figure)


def test_scatter_compares_first_and_last_step():
    episode = regression(4, 5, (2,), 3)
    figure = pictures.scatter(episode, lambda x: torch.stack([episode.query.y + 2, episode.query.y], 1), [0, 5])
    assert [axes.get_title() for axes in figure.axes] == ["before adaptation: mse 4", "after 5 steps: mse 0"]
    np.testing.assert_allclose(
        line(figure.axes[0], "target 2").get_ydata(), line(figure.axes[0], "target 2").get_xdata() + 2, rtol=1e-6
    )


def classification(tasks, ways, shots, queries, shape):
    make = torch.Generator().manual_seed(0)

    def part(n):
        y = torch.eye(ways).repeat_interleave(n, 0).expand(tasks, -1, -1)
        return Examples(torch.rand(tasks, ways * n, *shape, generator=make), y)

    return Episode(part(shots), part(queries), torch.arange(tasks), {})


@pytest.mark.parametrize(("ways", "shots", "channels"), [(5, 1, 1), (20, 1, 1), (2, 5, 3)])
def test_grid_marks_right_and_wrong(ways, shots, channels):
    episode = classification(2, ways, shots, 1, (channels, 6, 6))
    logits = 3.0 * episode.query.y.clone()
    logits[0, 1] = 3.0 * torch.eye(ways)[0]  # the second query of the first episode, of class 2, is taken for class 1
    figure = pictures.grid(episode, lambda x: torch.stack([0 * logits, logits], 1), [0, 3])
    texts = [text.get_text() for text in figure.axes[0].texts]
    drawn = min(ways, 5 if ways <= 5 else 7)
    assert f"support, {ways}-way {shots}-shot" in texts
    assert f"queries after 3 steps: {1 - 1 / (2 * ways):.1%} of {2 * ways} right" in texts
    assert [text for text in texts if "\u2717" in text] == ["\u2717 1\ntrue 2"]
    assert sum("\u2713" in text for text in texts) == 2 * drawn - 1
    sure = math.exp(3) / (math.exp(3) + ways - 1)
    assert f"\u2713 1\n{sure:.0%}" in texts
    assert pixels(figure).std() > 10


def test_probabilities_frame_the_true_class():
    episode = classification(2, 3, 1, 2, (4,))
    figure = pictures.probabilities(episode, lambda x: (2.0 * episode.query.y)[:, None], [5])
    assert [axes.get_title() for axes in figure.axes[:2]] == ["100% right", "100% right"]
    (image,) = figure.axes[0].images
    np.testing.assert_allclose(image.get_array()[0], torch.softmax(torch.tensor([2.0, 0, 0]), 0), rtol=1e-6)
    frames = [patch.get_xy() for patch in figure.axes[0].patches]
    assert frames == [(c - 0.5, row - 0.5) for row, c in enumerate([0, 0, 1, 1, 2, 2])]


def test_the_default_picture_follows_the_shapes():
    assert pictures.picture_for((1,), False) is pictures.curves
    assert pictures.picture_for((10,), False) is pictures.scatter
    assert pictures.picture_for((1, 28, 28), False) is pictures.scatter
    assert pictures.picture_for((1, 28, 28), True) is pictures.grid
    assert pictures.picture_for((768,), True) is pictures.probabilities


def test_training_curve_reads_the_rows_of_metrics_jsonl():
    rows = [{"kind": "train", "step": step, "outer_loss": 2.0 - step / 100} for step in range(0, 100, 10)]
    for step, after in ((0, 3.0), (90, "NaN")):
        curve = [{"mean": 4.0, "ci95": 0.1}, {"mean": after, "ci95": 0.1}]
        floors = {"mean": {"mse": 5.0}, "scratch": {"mse": 3.0}}
        rows.append({"kind": "val", "step": step, "mse": {"per_step": curve}, "floors": floors})
    figure = pictures.training_curve(rows, "mse")
    left, right = figure.axes
    np.testing.assert_allclose(line(left, "as logged").get_ydata(), 2.0 - np.arange(0, 1, 0.1))
    np.testing.assert_array_equal(line(right, "before adaptation").get_ydata(), [4.0, 4.0])
    np.testing.assert_array_equal(line(right, "after adaptation").get_ydata(), [3.0, np.nan])
    assert set(line(right, "mean: 5").get_ydata()) == {5.0}
    assert set(line(right, "scratch: 3").get_ydata()) == {3.0}
    pixels(pictures.training_curve([], "mse"))  # a run that ended before its first row


def test_training_curve_finds_the_metric_under_its_other_names():
    """Validation has accuracy_transductive alone, the floor of the mean predictor plain accuracy."""
    found = {"per_step": [{"mean": 0.2}, {"mean": 0.9}]}
    floors = {"mean": {"accuracy": 0.25}, "scratch": {"accuracy_transductive": 0.5}}
    rows = [{"kind": "val", "step": 0, "accuracy_transductive": found, "floors": floors}]
    for metric in ("accuracy", "accuracy_transductive"):
        right = pictures.training_curve(rows, metric).axes[1]
        np.testing.assert_array_equal(line(right, "after adaptation").get_ydata(), [0.9])
        assert set(line(right, "mean: 0.25").get_ydata()) == {0.25}
        assert set(line(right, "scratch: 0.5").get_ydata()) == {0.5}


# ---------------------------------------------------------------- TensorBoard


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
    assert points(events, "speed/meta_steps_per_s") == [(100, 812.0)]
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
        board.figure("val/adaptation mse", pictures.adaptation_curve("mse", np.array([[4.0, step], [3.0, step]])), step)
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
    lines, steps, margin = layout.category[0].chart
    assert list(lines.multiline.tag) == ["val/mse/before$", "val/mse/after$", "floor/[^/]+/mse$"]
    assert list(steps.multiline.tag) == [r"val/mse/step_(00|01|02|05|\d0)$", "val/mse/after$", "floor/[^/]+/mse$"]
    tags = [f"val/mse/step_{step:02d}" for step in range(33)]
    shown = [tag for tag in tags if re.fullmatch(steps.multiline.tag[0], tag)]
    assert [int(tag[-2:]) for tag in shown] == [0, 1, 2, 5, 10, 20, 30]
    (series,) = margin.margin.series
    assert (series.value, series.lower, series.upper) == ("val/mse/after", "val/mse/after_low", "val/mse/after_high")
    assert layout.category[1].chart[0].multiline.tag[0] == r"val/acc\+/before$"


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

    # The table as TensorBoard's own back end makes it.
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
    assert columns == {"algo", "algo.inner_lr", "clip.norm", "compile", "optimizer.lr", "widths"}
    assert {info.name.tag for info in table.metric_infos} == {"test/mse", "test/accuracy"}  # and no training curve


def test_only_rank_0_writes(tmp_path):
    board = TensorBoard(tmp_path / "run", rank=1)
    board.scalars({"train/outer_loss": 0.5}, 1)
    board.figure("x", pictures.adaptation_curve("mse", np.ones((2, 2))), 1)
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
    board.scalars({"train/outer_loss": 0.5}, 2)  # the writer's thread meets the full disk
    with pytest.raises(SpaceError, match=r"cannot write .*run.*: no space") as caught:
        board.close()
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err  # the writer's thread stays silent

    (tmp_path / "file").write_text("")
    with pytest.raises(SpaceError):
        TensorBoard(tmp_path / "file" / "run").scalars({"a": 1.0}, 1)


# ---------------------------------------------------------------- progress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_lines_where_there_is_no_terminal():
    clock, stream, reads = Clock(), io.StringIO(), []

    def loss():
        reads.append(clock.now)
        return 0.41234

    progress = Progress(20000, 0, stream, every=10.0, clock=clock)
    for step in range(1, 1201):
        clock.now = step / 100  # 100 meta-steps a second
        progress.update(step, loss)
    progress.validation(1200, {"mse": 0.51, "mae": 0.4})
    progress.note("checkpoint written")
    progress.close()
    assert stream.getvalue().splitlines() == [
        "step 1000/20000  outer loss 0.412  100 meta-steps/s  3:10 left",
        "step 1200/20000  outer loss 0.412  val mse 0.51  100 meta-steps/s  3:08 left",
        "checkpoint written",
    ]
    assert reads == [10.0]  # the loss was read where it was shown, and nowhere else


def test_the_rate_is_that_of_the_last_minute_of_this_process():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(100_000, 40_000, stream, every=10.0, clock=clock)
    clock.now = 300.0  # compiling
    progress.update(40_001)
    for _ in range(12):
        clock.now += 10.0
        progress.update(progress.step + 3000)
    rates = [text.split("  ")[-2:] for text in stream.getvalue().splitlines()]
    assert rates[0] == ["0.0033 meta-steps/s", "208d 7h left"]
    assert rates[-1] == ["300 meta-steps/s", "1:20 left"]


def test_a_closed_stream_does_not_stop_a_run():
    stream = io.StringIO()
    progress = Progress(10, 0, stream, every=0.0)
    stream.close()
    progress.update(1, lambda: 0.5)
    progress.validation(2, {"mse": 1.0})
    progress.close()


@pytest.mark.parametrize(("larger", "best"), [(False, "0.5"), (True, "0.75")])
def test_a_bar_on_a_terminal(larger, best):
    clock, stream = Clock(), io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, _environ={"TERM": "xterm"})
    with Progress(1000, 0, clock=clock, larger_is_better=larger, console=console) as progress:
        drawn = stream.getvalue()
        clock.now = 0.1
        progress.update(50, lambda: pytest.fail("read between two refreshes"))
        assert stream.getvalue() == drawn
        clock.now = 0.25
        progress.update(100, lambda: 0.125)
        assert "100/1000  0:02 left  400 meta-steps/s  outer loss 0.125" in stream.getvalue()
        for step, value in ((200, 0.5), (300, 0.75), (400, math.nan), (500, 0.625)):
            progress.validation(step, {"mse": value})
        progress.note("stopped: [stop.target] reached")
        assert "stopped: [stop.target] reached" in stream.getvalue()
    assert f"500/1000  0:00 left  2000 meta-steps/s  outer loss 0.125  val mse 0.625 (best {best})" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[?25h")  # the cursor is back
    drawn = stream.getvalue()
    progress.close()
    clock.now = 9.0
    progress.update(600)
    assert stream.getvalue() == drawn


RESULT = {
    "algo": "maml",
    "task": "sine",
    "model": "mlp",
    "seed": 3,
    "steps": 20000,
    "weights": {"kind": "best", "step": 18000},
    "test": {
        "mse": {
            "mean": 0.41234,
            "ci95": 0.0312,
            "tasks": 1000,
            "diverged": 2,
            "per_step": [{"mean": 4.02, "ci95": 0.1}, {"mean": 0.7, "ci95": 0.1}, {"mean": 0.41234, "ci95": 0.0312}],
        },
        "mae": {"mean": 0.5, "ci95": 0.01, "tasks": 1000, "per_step": []},
    },
    "floors": {"scratch": {"mse": {"mean": 2.41, "ci95": 0.1}}, "mean": {"mse": {"mean": 4.1, "ci95": 0.12}}},
    "speed": {"meta_steps_per_s": 900.12, "seconds": 3731.0},
}


def test_the_result_in_plain_columns():
    stream = io.StringIO()
    print_result(RESULT, "outputs/a b", "outputs/a b", stream)
    assert stream.getvalue() == (
        "maml on sine, mlp, seed 3: 20000 outer steps, best weights (step 18000)\n"
        "test                 mean             before  1 step  last step  tasks\n"
        "mse                  0.4123 +- 0.031  4.02    0.7     0.4123     1000\n"
        "mae                  0.5 +- 0.01                                 1000\n"
        "mse, floor: scratch  2.41 +- 0.1\n"
        "mse, floor: mean     4.1 +- 0.12\n"
        "time         1:02:11, 900.1 meta-steps/s\n"
        "not finite   mse of 2 of 1000 tasks: left out of the mean\n"
        "folder       outputs/a b\n"
        "to look at   tensorboard --logdir 'outputs/a b'\n"
    )


def test_the_result_where_every_task_diverged():
    nothing = {"mean": None, "ci95": None}
    mse = {**nothing, "tasks": 5, "diverged": 5, "per_step": [nothing, nothing]}
    stream = io.StringIO()
    print_result({**RESULT, "test": {"mse": mse}, "floors": {}}, "outputs/x", "outputs", stream)
    assert "mse   not finite" in stream.getvalue()
    assert "not finite   mse of 5 of 5 tasks: left out of the mean\n" in stream.getvalue()


def test_the_result_as_a_table_on_a_terminal():
    stream = io.StringIO()
    print_result(RESULT, "outputs/x", "outputs", console=Console(file=stream, force_terminal=True, width=100))
    text = stream.getvalue()
    for part in ("seed 3: 20000 outer steps", "0.4123 ± 0.031", "floor: scratch", "2.41 ± 0.1", "1000"):
        assert part in text
    assert "tensorboard --logdir outputs" in text


def test_quiet_drops_adverts_and_nothing_else():
    quiet()
    quiet()
    seen = []

    class Handler(logging.Handler):
        def emit(self, record):
            seen.append(record.getMessage())

    handler, logger = Handler(), logging.getLogger("lightning.pytorch.utilities.rank_zero")
    logger.addHandler(handler)
    try:
        L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
        rank_zero_info("`Trainer.fit` stopped")
    finally:
        logger.removeHandler(handler)
    assert seen == ["`Trainer.fit` stopped"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet()
        warnings.warn("The 'train_dataloader' does not have many workers which may be a bottleneck")
        warnings.warn("the outer loss is large")
    assert [str(one.message) for one in caught] == ["the outer loss is large"]
