"""Curves against inner steps, outer steps and support examples: what is drawn is read back."""

import math

import numpy as np
import pytest
from conftest import ROOT
from drawn import line, pixels
from matplotlib.text import Text

from metaexp.evaluation.intervals import band
from metaexp.plots.curves import adaptation_curve, training_curve
from metaexp.plots.shots import shots_picture
from metaexp.plots.style import METHODS, method_look, resize


def named(axes, start):
    (found,) = [one for one in axes.get_lines() if str(one.get_label()).startswith(start)]
    return found


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_adaptation_curve_band_is_1_96_s_over_root_n(rng):
    scores = rng.uniform(0.5, 1.5, size=(50, 4))
    figure = adaptation_curve("mse", scores, {"scratch": np.array([2.0, 1.9, 1.8, 1.7]), "mean": 2.5})
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
    (axes,) = adaptation_curve("mse", scores).axes
    np.testing.assert_allclose(line(axes, "mean of 18 tasks, 95 % band").get_ydata(), good.mean(0), rtol=1e-12)
    assert "2 of 20 tasks not finite: left out" in [text.get_text() for text in axes.texts]
    assert band(scores)[2] == 2
    everything = adaptation_curve("mse", np.full((5, 3), np.nan))
    assert "5 of 5 tasks not finite: left out" in [text.get_text() for text in everything.axes[0].texts]
    pixels(everything)


@pytest.mark.parametrize(("last", "scale"), [(0.01, "log"), (0.5, "linear"), (-0.01, "linear"), (0.0, "linear")])
def test_adaptation_curve_is_logarithmic_where_positive_values_span_decades(last, scale):
    (axes,) = adaptation_curve("mse", np.array([[4.0, last], [4.0, last]])).axes
    assert axes.get_yscale() == scale


def test_a_method_without_inner_steps_is_a_dot_with_its_interval():
    scores = np.array([[0.5], [0.7], [np.nan]])
    (axes,) = adaptation_curve("accuracy", scores, {"mean": 0.2, "oracle": 0.9}, "", True, "protonet").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["oracle", "protonet", "mean"]  # best on top
    (spot,) = [one for one in axes.containers if one.get_label() == "protonet"]
    (ends,) = spot.lines[2][0].get_segments()
    half = 1.96 * np.std([0.5, 0.7], ddof=1) / math.sqrt(2)
    np.testing.assert_allclose(ends[:, 0], [0.6 - half, 0.6 + half])
    assert spot.lines[0].get_color() == METHODS["protonet"][0]
    assert axes.get_xscale() == "linear"
    assert "1 of 3 tasks not finite: left out" in [text.get_text() for text in axes.texts]


def test_an_accuracy_is_never_on_a_logarithmic_axis():
    scores = np.array([[0.01, 0.9], [0.02, 0.8]])
    (axes,) = adaptation_curve("accuracy", scores, {"mean": 0.005}, larger_is_better=True).axes
    assert axes.get_yscale() == "linear"
    (axes,) = adaptation_curve("mse", scores, {"mean": 0.005}, larger_is_better=False).axes
    assert axes.get_yscale() == "log"
    assert shots_picture("accuracy", [1, 5], scores, larger_is_better=True).axes[0].get_yscale() == "linear"


def test_training_curve_reads_the_rows_of_metrics_jsonl():
    rows = [{"kind": "train", "step": step, "outer_loss": 2.0 - step / 100} for step in range(0, 100, 10)]
    for step, after in ((0, 3.0), (90, "NaN")):
        curve = [{"mean": 4.0, "ci95": 0.1}, {"mean": after, "ci95": 0.1}]
        floors = {"mean": {"mse": 5.0}, "scratch": {"mse": 3.0}}
        rows.append({"kind": "val", "step": step, "mse": {"per_step": curve}, "floors": floors})
    figure = training_curve(rows, "mse")
    left, right = figure.axes
    np.testing.assert_allclose(line(left, "as logged").get_ydata(), 2.0 - np.arange(0, 1, 0.1))
    np.testing.assert_array_equal(line(right, "before adaptation").get_ydata(), [4.0, 4.0])
    np.testing.assert_array_equal(line(right, "after adaptation").get_ydata(), [3.0, np.nan])
    assert set(line(right, "mean: 5").get_ydata()) == {5.0}
    assert set(line(right, "scratch: 3").get_ydata()) == {3.0}
    pixels(training_curve([], "mse"))  # a run that ended before its first row


def test_training_curve_finds_the_metric_under_its_other_names():
    """Validation has accuracy_transductive alone, the baseline of the mean predictor plain accuracy."""
    found = {"per_step": [{"mean": 0.2}, {"mean": 0.9}]}
    floors = {"mean": {"accuracy": 0.25}, "scratch": {"accuracy_transductive": 0.5}}
    rows = [{"kind": "val", "step": 0, "accuracy_transductive": found, "floors": floors}]
    for metric in ("accuracy", "accuracy_transductive"):
        right = training_curve(rows, metric).axes[1]
        np.testing.assert_array_equal(line(right, "after adaptation").get_ydata(), [0.9])
        assert set(line(right, "mean: 0.25").get_ydata()) == {0.25}
        assert set(line(right, "scratch: 0.5").get_ydata()) == {0.5}


def test_an_oracle_without_error_leaves_the_axis_logarithmic():
    (axes,) = adaptation_curve("mse", np.array([[4.0, 0.02], [4.0, 0.02]]), {"mean": 4.5, "oracle": 0.0}).axes
    assert axes.get_yscale() == "log"
    assert len(named(axes, "oracle: 0").get_ydata()) == 0
    assert set(named(axes, "mean: 4.5").get_ydata()) == {4.5}
    (axes,) = adaptation_curve("mse", np.array([[4.0, 1.0]]), {"oracle": 0.0, "scratch": np.array([4.0, np.nan])}).axes
    assert axes.get_yscale() == "linear"
    assert set(named(axes, "oracle: 0").get_ydata()) == {0.0}
    assert named(axes, "scratch: not finite")


def test_an_oracle_of_a_rounding_error_does_not_flatten_the_curve():
    (axes,) = adaptation_curve("mse", np.array([[4.0, 0.02]]), {"mean": 4.5, "oracle": 6e-10}).axes
    assert len(named(axes, "oracle: 6e-10").get_ydata()) == 0
    assert axes.get_ylim()[0] > 0.002
    (axes,) = adaptation_curve("mse", np.array([[4.0, 0.02]]), {"oracle": 3e-5}).axes
    assert set(named(axes, "oracle: 3e-05").get_ydata()) == {3e-5}


def test_the_curve_against_shots_shows_median_quartiles_and_baselines():
    draw_ = np.random.default_rng(0)
    scores, floor = draw_.uniform(0.5, 1.5, (50, 3)), draw_.uniform(0.5, 2.5, (50, 3))
    scores[3, 1] = np.nan
    figure = shots_picture("mse", [1, 5, 10], scores, {"mean": floor}, larger_is_better=False)
    (axes,) = figure.axes
    curve = line(axes, "median")
    np.testing.assert_allclose(curve.get_ydata(), np.nanmedian(scores, 0), rtol=1e-12)
    assert curve.get_xdata().tolist() == [1, 5, 10]
    np.testing.assert_allclose(line(axes, "mean").get_ydata(), np.nanmean(scores, 0), rtol=1e-12)
    np.testing.assert_allclose(named(axes, "mean: ").get_ydata(), np.median(floor, 0), rtol=1e-12)
    corners = axes.collections[0].get_paths()[0].vertices
    at = corners[corners[:, 0] == 5][:, 1]
    np.testing.assert_allclose([at.min(), at.max()], np.nanquantile(scores[:, 1], [0.25, 0.75]))
    worse = ((scores > floor) | np.isnan(scores)).sum(0)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels[0] == f"1\n{worse[0]} of 50"
    assert labels[1:] == [f"5\n{worse[1]} of 50\n1 not finite", f"10\n{worse[2]} of 50"]
    pixels(figure)
    pixels(shots_picture("mse", [0, 5], scores[:, :2]))
    pixels(shots_picture("mse", [1, 5], np.full((4, 2), np.nan), {"mean": floor[:4, :2]}, larger_is_better=False))


def test_tasks_that_diverge_leave_the_curve_against_shots_readable():
    scores = np.random.default_rng(0).uniform(0.5, 1.5, (200, 2))
    scores[0, 0] = 1e31  # the mean of 200 tasks is then 5e28
    (axes,) = shots_picture("mse", [1, 5], scores, {"mean": scores + 1}, larger_is_better=False).axes
    low, high = axes.get_ylim()
    assert 0 < low < 0.75
    assert 2 < high < 4
    np.testing.assert_allclose(line(axes, "mean").get_xdata(), [5])  # that of one shot is beyond the axis
    assert "mean beyond the axis at 1 of 2: compare medians" in [t.get_text() for t in axes.texts]


def test_methods_keep_their_colour_and_marker():
    assert len(set(METHODS.values())) == len(METHODS) >= 21
    assert method_look("maml") == METHODS["maml"]
    assert method_look("mine") == method_look("mine") not in METHODS.values()
    assert {path.stem for path in (ROOT / "conf/algo").glob("*.yaml")} <= set(METHODS)


@pytest.mark.parametrize("width", [3.3, 7.0])
def test_a_figure_for_print_has_its_width_and_a_legend_that_fits(rng, width):
    figure = adaptation_curve("mse", rng.uniform(0.5, 1.5, (50, 4)), {"mean": 2.5, "scratch": 2.0, "oracle": 0.1})
    resize(figure, width)
    assert pixels(figure).shape[1] == round(width * figure.dpi)
    (box,) = [legend.get_window_extent() for legend in figure.legends]
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 6.5
