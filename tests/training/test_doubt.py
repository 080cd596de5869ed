"""The line about a run whose validation is at chance or below a floor."""

from metaexp.training.doubt import doubt

MSE, ACCURACY = {"mse": False}, {"accuracy": True}


def rows(name="mse", mean=1.0, ci95=0.1, floors=(2.0, 3.0), losses=(1.0, 0.5), **more):
    found = {"mean": mean, "ci95": ci95, "median": mean, "diverged": 0, "per_step": [{"mean": mean}], **more}
    floor = {f: {"mse": v, "accuracy": v} for f, v in zip(("mean", "scratch"), floors, strict=True)}
    train = [{"kind": "train", "step": i, "outer_loss": loss} for i, loss in enumerate(losses)]
    return [*train, {"kind": "val", "step": 9, name: found, "floors": floor}]


def path(*means):
    return {"per_step": [{"mean": mean} for mean in means]}


def test_better_than_both_floors_beyond_the_interval_is_no_doubt():
    assert doubt(rows(), MSE, 9) is None
    assert doubt(rows("accuracy_transductive", mean=0.9, floors=(0.2, 0.3)), ACCURACY, 9) is None
    assert doubt(rows(mean=5.0), MSE, 0) is None  # nothing was trained
    assert doubt([], MSE, 9) is None


def test_the_floor_that_is_not_reached_is_named_with_its_value():
    at_chance = doubt(rows("accuracy", mean=0.21, ci95=0.02, floors=(0.2, 0.19)), ACCURACY, 9)
    assert at_chance.startswith("validation accuracy 0.21 is no better than predicting the mean of the support targets")
    assert "(0.2) and the untrained network (0.19): " in at_chance
    one = doubt(rows(mean=2.5), MSE, 9)
    assert one.startswith("validation mse 2.5 is no better than predicting the mean of the support targets")
    assert "(2): " in one
    assert "untrained" not in one


def test_a_likelihood_is_passed_over_for_what_the_floor_has_too():
    given = rows(mean=2.5)
    given[-1]["log_likelihood"] = given[-1]["mse"]
    line = doubt(given, {"log_likelihood": True, "coverage90": None, "mse": False}, 9)
    assert line.startswith("validation mse 2.5")


def test_the_likely_cause():
    run_away = doubt(rows(mean=26.6, floors=(19.97, 21.0), **path(21.0, 1.5, 26.6)), MSE, 9)
    assert "it is 1.5 after 1 of 2 inner steps, the others hurt; lower algo.inner_lr" in run_away
    few = doubt(rows(mean=26.6, floors=(19.97, 21.0), median=0.35), MSE, 9)
    assert few.endswith("a few tasks spoil the mean (median 0.35); lower optimizer.lr")  # it has no inner loop
    few = doubt(rows(mean=26.6, floors=(19.97, 21.0), median=0.35, **path(26.7, 26.6)), MSE, 9)
    assert few.endswith("(median 0.35); lower algo.inner_lr (or algo.test_lr), or take fewer algo.test_steps")
    assert "diverges on 3 tasks" in doubt(rows(mean=None, diverged=3), MSE, 9)
    still = doubt(rows(mean=2.5, losses=(1.61, 1.6)), MSE, 9)
    assert still.endswith("has not fallen (1.61 to 1.6); try another optimizer.lr, or more steps")
    still = doubt(rows(mean=2.5, losses=(1.61, 1.6), **path(2.6, 2.5)), MSE, 9)
    assert "try another algo.inner_lr, more algo.inner_steps, another optimizer.lr, or more steps" in still
    assert "has fallen (1.6 to 0.9)" in doubt(rows(mean=2.5, losses=(1.6, 0.9)), MSE, 9)
    assert "too few outer steps" in doubt(rows(mean=2.5, losses=(1.6,)), MSE, 9)


def begun(first, *later, **more):
    """Validations of accuracy from step 0 on; the first is the untrained network's."""
    made = [rows("accuracy", mean=mean, ci95=0.01, floors=(0.2, first), **more) for mean in (first, *later)]
    return [*made[0][:-1], *({**one[-1], "step": 5 * i} for i, one in enumerate(made))]


def test_weights_of_step_0_are_said_with_both_validations():
    line = doubt(begun(0.95, 0.94, 0.9), ACCURACY, 10, tested=0, judged="accuracy")
    assert line.startswith(
        "the tested weights are those of step 0, before any meta-training: no later validation was better "
        "(accuracy 0.95, then 0.94 at best); validation accuracy 0.9 is no better than the untrained network (0.95): "
    )
    assert "validation tasks got worse: training loses what the untrained network can do; lower optimizer.lr" in line
    assert "tested weights" not in doubt(begun(0.95, 0.94, 0.9), ACCURACY, 10, tested=10, judged="accuracy")
    assert doubt(begun(0.5, 0.94, 0.9), ACCURACY, 10, tested=5, judged="accuracy") is None
    assert doubt(begun(0.95), ACCURACY, 0, tested=0, judged="accuracy") is None  # no training was asked for
    lower = [row | {"mse": row["accuracy"]} if "accuracy" in row else row for row in begun(0.5, 0.7, 0.6)]
    assert "(mse 0.5, then 0.6 at best)" in doubt(lower, MSE, 10, tested=0, judged="mse")
    lost = begun(0.95, 0.96, 0.9)
    lost[-2]["accuracy"] = lost[-2]["accuracy"] | {"diverged": 1}  # was not judged, so it is not the best
    assert "(accuracy 0.95, then 0.9 at best)" in doubt(lost, ACCURACY, 10, tested=0, judged="accuracy")
