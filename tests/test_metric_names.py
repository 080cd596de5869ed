"""The grammar of score names, and metric directions as recorded in results."""

import pytest

from metaexp.metric_names import SUFFIXES, forms, metric_name, metric_of, near, recorded_direction, split_name


@pytest.mark.parametrize("metric", ["mse", "accuracy", "child_0_mse", "coverage50", "r2"])
def test_a_name_comes_apart_as_it_was_put_together(metric):
    names = [metric_name(metric, suffix) for suffix in SUFFIXES.values()]
    assert names == [f"{metric}_transductive", metric, f"{metric}_support"]
    assert [split_name(name) for name in names] == [(metric, suffix) for suffix in SUFFIXES.values()]


def test_a_suffix_alone_is_no_mode():
    assert split_name("_support") == ("_support", "")
    assert split_name("support") == ("support", "")


def test_forms_are_the_metric_in_any_mode_and_nothing_else():
    names = ["step", "mse_transductive", "mse", "child_0_mse", "mse_of_noise", "mse_support"]
    assert forms("mse", names) == ["mse_transductive", "mse", "mse_support"]
    assert forms("accuracy", names) == []


def test_a_baseline_has_the_metric_in_another_mode_or_not_at_all():
    assert near({"mse": 1, "accuracy": 2}, "accuracy_transductive") == 2
    assert near({"accuracy_transductive": 3}, "accuracy_support") == 3
    assert near({"mse": 1}, "log_likelihood") is None
    assert near({"coverage_50": 1}, "coverage_95") is None


def test_the_metric_that_a_score_measures():
    metrics = ["mse", "log_mse", "accuracy"]
    wanted = {"mse": "mse", "uniform_mse_support": "mse", "child_0_log_mse": "log_mse", "rmse": None, "loss": None}
    assert {name: metric_of(name, metrics) for name in wanted} == wanted


def test_recorded_directions():
    assert recorded_direction("r2", [{"larger_is_better": True}, {}]) == (True, True)
    assert recorded_direction("mse_of_mine", [{"larger_is_better": None}]) == (True, None)
    assert recorded_direction("r2", [{"larger_is_better": True}, {"larger_is_better": False}]) == (False, None)
    assert recorded_direction("mse", [{"larger_is_better": True}, {"larger_is_better": False}]) == (False, None)
    older = {"accuracy_support": (True, True), "uniform_mse": (True, False), "coverage90": (True, None)}
    older |= {"log_likelihood": (True, True), "likelihood_ratio": (False, None), "accuracy_loss": (False, None)}
    assert {name: recorded_direction(name, [{"mean": 1.0}]) for name in older} == older
