"""What a result says in words, against numbers worked out by hand."""

import pytest

from metaexp.loggers.in_words import in_words


def result(own: dict, larger: bool | None, **floors: dict) -> dict:
    name = "accuracy" if larger else "mse"
    test = {name: {"larger_is_better": larger, **own}}
    return {"test": test, "floors": {floor: {name: value} for floor, value in floors.items()}}


def value(mean: float | None, half: float | None, **more: object) -> dict:
    return {"mean": mean, "ci95": half, **more}


def test_an_error_is_compared_by_ratio():
    made = result(value(0.4, 0.04), False, neighbour=value(1.6, 0.1), scratch=value(60.0, 3.0), mean=value(4.0, 0.1))
    assert in_words(made) == "mse 4.0 times better than nearest neighbour, 150 times better than without meta-training"
    made = result(value(4.0, 0.1), False, neighbour=value(1.6, 0.1))
    assert in_words(made) == "mse 2.5 times WORSE than nearest neighbour"


def test_an_accuracy_is_compared_in_points():
    made = result(value(0.9, 0.01), True, neighbour=value(0.85, 0.01), scratch=value(0.95, 0.01))
    assert in_words(made) == "accuracy 5.0 points better than nearest neighbour, 5.0 points WORSE than without meta-training"  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(("half", "clear"), [(0.03, True), (0.04, False)])
def test_only_a_difference_beyond_both_intervals_is_one(half: float, clear: bool):
    """0.05 apart; sqrt(0.03^2 + 0.03^2) = 0.042, sqrt(0.04^2 + 0.04^2) = 0.057."""
    said = in_words(result(value(0.9, half), True, neighbour=value(0.85, half)))
    assert said == f"accuracy {'5.0 points better than' if clear else 'not clearly different from'} nearest neighbour"


def test_medians_are_compared_where_few_tasks_carry_a_mean():
    own = value(9e9, 9e9, heavy_tailed=True, median=0.5, median_ci=[0.45, 0.55])
    made = result(own, False, neighbour=value(1.6, 0.1, median=1.0, median_ci=[0.9, 1.1]))
    assert in_words(made) == "mse 2.0 times better than nearest neighbour by the median"


@pytest.mark.parametrize(
    "made",
    [
        result(value(0.4, 0.1), None, neighbour=value(1.6, 0.1)),  # no direction is better
        result(value(None, None), False, neighbour=value(1.6, 0.1)),  # every task diverged
        result(value(0.4, 0.1), False),
        {"test": {"mse": {"mean": 1.0, "ci95": 0.1}}},  # of an older version
    ],
)
def test_nothing_is_said_where_nothing_can_be_said(made: dict):
    assert in_words(made) == ""
