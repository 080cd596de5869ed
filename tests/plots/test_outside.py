"""Marks for what lies outside of a picture's axes, read back."""

import numpy as np
from drawn import line, pixels
from matplotlib.figure import Figure

from metaexp.plots.outside import mark_outside, note_outside
from metaexp.plots.style import limit, new_panels


def axes_of(values: np.ndarray, also: np.ndarray | None = None):
    figure, (axes,) = new_panels(1, "")
    axes.plot([-1, 1], [0, 0])
    limit(axes, values, also=also)
    return figure, axes


def test_a_prediction_within_once_the_range_is_shown_whole_and_one_beyond_is_not():
    values = np.array([0.0, 2.0])
    for also, expected in (([3.9], (-0.585, 4.485)), ([4.1], (-0.3, 2.3)), ([-1.5, 9.0, np.nan], (-2.025, 2.525))):
        _, axes = axes_of(values, np.array(also))
        np.testing.assert_allclose(axes.get_ylim(), expected)


def test_every_stretch_outside_has_a_mark_and_the_farthest_value_is_written():
    figure, axes = axes_of(np.array([0.0, 1.0]))
    x = np.linspace(-1, 1, 9)
    y = np.array([5.0, 7.0, 0.5, 3.0, 0.5, -2.0, 0.5, np.nan, 0.5])
    mark_outside(axes, x, y, "red")
    marks = [one for one in axes.get_lines() if one.get_marker() in ("^", "v")]
    low, high = axes.get_ylim()
    found = [(one.get_marker(), one.get_xdata()[0], one.get_ydata()[0]) for one in marks]
    assert found == [("^", -0.75, high), ("^", -0.25, high), ("v", 0.25, low)]
    assert [text.get_text() for text in axes.texts] == ["7", "-2", "not finite for 1 of 9 inputs"]
    assert pixels(figure).std() > 10
    assert isinstance(figure, Figure)


def test_nothing_outside_nothing_marked():
    _, axes = axes_of(np.array([0.0, 1.0]))
    mark_outside(axes, np.linspace(-1, 1, 5), np.linspace(0, 1, 5), "red")
    note_outside(axes, np.linspace(0, 1, 5), "red")
    assert len(axes.get_lines()) == 1
    assert len(axes.texts) == 0
    assert line(axes, "_child0") is not None


def test_points_outside_are_counted():
    _, axes = axes_of(np.array([0.0, 1.0]))
    note_outside(axes, np.array([[0.5, 9.0], [-30.0, np.inf]]), "red")
    note_outside(axes, np.array([np.nan]), "blue", 1)
    assert [text.get_text() for text in axes.texts] == ["3 of 4 outside, as far as -30", "1 of 1 outside, not finite"]
