"""The table of results that a finished run prints."""

import io
from pathlib import Path

from result_example import RESULT
from rich.console import Console

from metaexp.loggers.result_table import print_result


def test_the_result_in_plain_columns():
    stream = io.StringIO()
    print_result(RESULT, "outputs/a b", "outputs/a b", stream)
    assert stream.getvalue() == (
        "maml on sine, mlp, seed 3: 20000 outer steps, best weights (step 18000)\n"
        "test                    mean             before  1 step  last step  tasks\n"
        "mse                     0.4123 +- 0.031  4.02    0.7     0.4123     1000\n"
        "mae                     0.5 +- 0.01                                 1000\n"
        "mse, baseline: scratch  2.41 +- 0.1\n"
        "mse, baseline: mean     4.1 +- 0.12\n"
        "time         1:02:11, 900 outer steps/s\n"
        "not finite   mse of 2 of 1000 tasks: left out of the mean\n"
        "folder       outputs/a b\n"
        "view with    tensorboard --logdir 'outputs/a b'\n"
    )


def test_the_result_where_every_task_diverged():
    nothing = {"mean": None, "ci95": None}
    mse = {**nothing, "tasks": 5, "diverged": 5, "per_step": [nothing, nothing]}
    stream = io.StringIO()
    print_result({**RESULT, "test": {"mse": mse}, "floors": {}}, "outputs/x", "outputs", stream)
    assert "mse   not finite" in stream.getvalue()
    assert "not finite   mse of 5 of 5 tasks: left out of the mean\n" in stream.getvalue()


def test_medians_and_what_the_mean_does_not_show():
    heavy = RESULT["test"]["mse"] | {"median": 0.1234, "median_ci": [0.1101, 0.1303], "made_worse": 14}
    heavy |= {"worst_share": 0.634, "heavy_tailed": True}
    light = RESULT["test"]["mae"] | {"median": 0.5, "median_ci": None, "made_worse": 0, "heavy_tailed": False}
    stream = io.StringIO()
    print_result({**RESULT, "test": {"mse": heavy, "mae": light}}, "outputs/x", "outputs", stream)
    assert stream.getvalue() == (
        "maml on sine, mlp, seed 3: 20000 outer steps, best weights (step 18000)\n"
        "test                    mean             median                 before  1 step  last step  tasks\n"
        "mse                     0.4123 +- 0.031  0.1234 (0.11 to 0.13)  4.02    0.7     0.4123     1000\n"
        "mae                     0.5 +- 0.01      0.5                                               1000\n"
        "mse, baseline: scratch  2.41 +- 0.1\n"
        "mse, baseline: mean     4.1 +- 0.12\n"
        "time         1:02:11, 900 outer steps/s\n"
        "made worse   14 of 1000 tasks by adaptation: mse after the last inner step is worse than before the first\n"
        "heavy tail   mse: the worst 1 % of tasks carry 63 % of the mean, which says little: compare medians\n"
        "not finite   mse of 2 of 1000 tasks: left out of the mean\n"
        "folder       outputs/x\n"
        "view with    tensorboard --logdir outputs\n"
    )


def test_the_result_as_a_table_on_a_terminal():
    stream = io.StringIO()
    print_result(RESULT, "outputs/x", "outputs", console=Console(file=stream, force_terminal=True, width=100))
    text = stream.getvalue()
    for part in ("seed 3: 20000 outer steps", "0.4123 ± 0.031", "baseline: scratch", "2.41 ± 0.1", "1000"):
        assert part in text
    assert "tensorboard --logdir outputs" in text


def test_a_finished_run_says_where_its_pictures_are_and_what_to_do_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path("outputs/x y")
    (run / "figures").mkdir(parents=True)
    for name in ("test_episodes", "test_adaptation_mse", "a"):
        (run / "figures" / f"{name}.png").touch()
    for name in ("report.html", "config.yaml"):
        (run / name).touch()
    stream = io.StringIO()
    found = RESULT | {"protocol": {"shots": 10}, "shots": {"shots": [1, 2, 5, 10, 20]}}
    print_result(found, str(run), "outputs", stream)
    told = dict(line.split(None, 1) for line in stream.getvalue().splitlines()[-5:])
    assert told["pictures"] == "outputs/x y/figures/test_episodes.png and 2 more beside it"
    assert told["page"] == "outputs/x y/report.html"
    assert told["next"] == "python -m metaexp.evaluate run='outputs/x y' task.shots=5"
    stream = io.StringIO()
    print_result(found | {"shots": {"shots": []}}, str(run), "outputs", stream)
    assert stream.getvalue().splitlines()[-1] == "next         python -m metaexp.report outputs"
