"""The estimators of `metaexp.load` in the hands of scikit-learn: clone, model selection, pipelines, its own checks."""

import warnings
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted
from small_runs import SHIPPED, train, waves

import metaexp
from metaexp.errors import CheckpointError
from metaexp.estimator import Classifier, Regressor
from metaexp.tasks.data.tables import numbers


@pytest.fixture(scope="module")
def sine() -> Regressor:
    made = metaexp.load(SHIPPED)
    assert isinstance(made, Regressor)
    return made


@pytest.fixture(scope="module")
def maml(tmp_path_factory: pytest.TempPathFactory) -> Regressor:
    made = metaexp.load(train(tmp_path_factory.mktemp("maml"), "algo=maml", "task=sine", "algo.test_steps=3"))
    assert isinstance(made, Regressor)
    return made


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    run = train(tmp_path_factory.mktemp("classes"), "algo=protonet", "task=clusters")
    made = metaexp.load(run)
    assert isinstance(made, Classifier)
    return made


# --- what scikit-learn's tools do with it


def test_three_folds_of_a_sine(sine: Regressor) -> None:
    x, y = waves()
    folds = KFold(3, shuffle=True, random_state=0)
    scores = cross_val_score(sine, x, y, cv=folds)
    by_hand = []
    for learn, ask in folds.split(x):
        predicted = sine.fit(x[learn], y[learn]).predict(x[ask])
        by_hand.append(1 - ((predicted - y[ask]) ** 2).sum() / ((y[ask] - y[ask].mean()) ** 2).sum())
    assert scores == pytest.approx(by_hand, abs=1e-12)
    assert min(scores) > 0.9
    assert len(cross_val_predict(sine, x, y, cv=folds)) == 30
    assert np.array_equal(cross_val_score(sine, x, y, cv=folds, scoring="r2"), scores)


def test_its_kind_is_known(sine: Regressor, classes: Classifier) -> None:
    assert (is_regressor(sine), is_classifier(sine)) == (True, False)
    assert (is_regressor(classes), is_classifier(classes)) == (False, True)
    with pytest.raises(NotFittedError):
        check_is_fitted(clone(sine))
    check_is_fitted(clone(sine).fit(*waves()))
    with pytest.raises(NotFittedError, match="predict before fit"):
        clone(classes).predict(np.zeros((2, *classes.x_shape)))


def test_parameters_are_the_arguments_of_load(sine: Regressor) -> None:
    made = metaexp.load(SHIPPED, weights="last", trust=["numpy"])
    params = {"run": SHIPPED, "weights": "last", "device": "cpu", "normalise": "single", "steps": None}
    assert made.get_params() == params | {"trust": ["numpy"]}
    again = Regressor(SHIPPED).set_params(weights="last")
    x, y = waves()
    assert np.array_equal(again.fit(x, y).predict(x), made.fit(x, y).predict(x))
    with pytest.raises(ValueError, match="weight: no parameter of Regressor; there are run, weights, device"):
        made.set_params(weight="best")
    for name, value, says in (
        ("weights", "newest", "weights=newest: must be one of None, best, last"),
        ("normalise", "all", "normalise=all: must be one of queries, single, support"),
        ("steps", -1, "steps=-1: must be a whole number of at least 0, or None"),
        ("steps", 2.5, "steps=2.5: must be"),
        ("steps", 4, "steps=4: R2D2 takes no inner steps"),
    ):
        with pytest.raises(ValueError, match=says):
            clone(sine).set_params(**{name: value}).fit(x, y)
    with pytest.raises(ValueError, match="no run for a Classifier"):
        Classifier(SHIPPED).fit(x, y)


def test_settings_count_from_the_next_fit(maml: Regressor) -> None:
    x, y = waves()
    made = clone(maml).fit(x, y)
    three = made.predict(x)
    made.set_params(steps=1, weights="last", run="nowhere")
    assert np.array_equal(made.predict(x), three)
    with pytest.raises(CheckpointError, match="nowhere"):
        made.fit(x, y)
    made.set_params(run=maml.run, weights=None).fit(x, y)
    assert not np.allclose(made.predict(x), three)
    made.set_params(steps=3).fit(x, y)
    assert np.array_equal(made.predict(x), three)


def test_a_clone_is_not_fitted_and_shares_the_run(sine: Regressor) -> None:
    x, y = waves()
    fitted = clone(sine).fit(x, y)
    made = clone(fitted)
    assert made.get_params() == fitted.get_params()
    assert made.source is fitted.source
    assert not hasattr(made, "n_features_in_")
    assert np.array_equal(made.fit(x, y).predict(x), fitted.predict(x))
    assert clone(Regressor(SHIPPED))._source is None  # what has not been read is not read by cloning


def test_grid_search_over_its_parameters(maml: Regressor) -> None:
    x, y = waves()
    folds = KFold(3)
    search = GridSearchCV(maml, {"steps": [0, 1, 5], "normalise": ["single"]}, cv=folds).fit(x, y)
    for steps, found in zip((0, 1, 5), search.cv_results_["mean_test_score"], strict=True):
        assert found == pytest.approx(cross_val_score(clone(maml).set_params(steps=steps), x, y, cv=folds).mean())
    assert len(set(search.cv_results_["mean_test_score"])) == 3
    assert search.best_params_["steps"] == (0, 1, 5)[int(np.argmax(search.cv_results_["mean_test_score"]))]


def test_in_a_pipeline(sine: Regressor, classes: Classifier) -> None:
    x, y = waves()
    line = make_pipeline(StandardScaler(), sine).fit(x, y)
    scaler = StandardScaler().fit(x)
    expected = clone(sine).fit(scaler.transform(x), y).predict(scaler.transform(x))
    assert np.array_equal(line.predict(x), expected)
    assert line.score(x, y) == r2_score(y, expected)
    points, labels = groups(classes)
    line = make_pipeline(StandardScaler(), clone(classes)).fit(points, labels)
    assert list(line.classes_) == sorted(set(labels))
    assert line.predict_proba(points).sum(1) == pytest.approx(1)
    assert line.score(points, labels) == accuracy_score(labels, line.predict(points))
    assert line.set_params(classifier__normalise="queries").fit(points, labels)[-1].normalise == "queries"


def groups(classes: Classifier) -> tuple[np.ndarray, np.ndarray]:
    """As many classes as the run has, far apart, with words for labels."""
    ways, random = classes.learner.family.sizes["test"]["ways"], np.random.default_rng(0)
    centres = random.normal(0, 3, (ways, *classes.x_shape))
    labels = np.repeat([f"kind {i}" for i in range(ways)], 6)
    return np.repeat(centres, 6, 0) + random.normal(0, 0.1, (6 * ways, *classes.x_shape)), labels


def test_classification_in_folds(classes: Classifier) -> None:
    x, labels = groups(classes)
    scores = cross_val_score(classes, x, labels, cv=3)
    assert min(scores) > 0.8
    fitted = clone(classes).fit(x, labels)
    assert fitted.n_features_in_ == int(np.prod(classes.x_shape))
    weights = np.random.default_rng(1).uniform(size=len(x))
    predicted = fitted.predict(x)
    assert fitted.score(x, labels, sample_weight=weights) == pytest.approx(
        accuracy_score(labels, predicted, sample_weight=weights)
    )


def test_weighted_r2_is_that_of_scikit_learn(sine: Regressor) -> None:
    x, y = waves()
    made, weights = clone(sine).fit(x[:5], y[:5]), np.random.default_rng(1).uniform(size=30)
    assert made.score(x, y) == pytest.approx(r2_score(y, made.predict(x)), abs=1e-12)
    expected = r2_score(y, made.predict(x), sample_weight=weights)
    assert made.score(x, y, sample_weight=weights) == pytest.approx(expected, abs=1e-12)


# --- scikit-learn's own checks

# What does not apply, and why: docs/trained_runs.md shows this list. The checks make data of 1 to 20 columns, which no
# run takes; they are therefore run on a subclass that folds the columns into those of the run. On the estimator itself
# every further check that fails must fail because of the number of columns (next test).
WORDS = "the refusal is the same, in other words"
DO_NOT_APPLY = {
    "check_estimators_empty_data_messages": WORDS,
    "check_fit2d_predict1d": WORDS,
    "check_supervised_y_2d": "a column y [n, 1] is taken without a warning; a regressor predicts a column then",
    "check_methods_subset_invariance": "single precision: a sum in another order may differ in the seventh digit",
    "check_classifiers_regression_target": "labels may be any values that can be sorted, fractions too",
}


def folded(x: Any, width: int) -> np.ndarray:
    """The first columns of x [n, k], over and over until there are `width`."""
    array = numbers("x", x)
    return array if array.ndim != 2 or 0 in array.shape else array[:, np.arange(width) % array.shape[1]]


class AnyWidth:
    """Takes the number of columns that `fit` saw, as estimators without a run do."""

    def fit(self, x: Any, y: Any) -> Any:
        super().fit(x, y)  # type: ignore[misc]
        self.n_features_in_ = numbers("x", x).shape[1]
        return self

    def _predict(self, x: Any) -> Any:
        shape = getattr(x, "shape", (0,))
        if hasattr(self, "n_features_in_") and len(shape) == 2 and shape[1] != self.n_features_in_:
            expecting = f"{type(self).__name__} is expecting {self.n_features_in_} features as input"
            raise ValueError(f"X has {shape[1]} features, but {expecting}")
        return super()._predict(x)  # type: ignore[misc]

    def _inputs(self, x: Any, source: Any) -> Any:
        return super()._inputs(folded(x, *source.learner.family.x_shape), source)  # type: ignore[misc]


class AnyWidthRegressor(AnyWidth, Regressor):
    pass


class AnyWidthClassifier(AnyWidth, Classifier):
    pass


def checked(estimator: Any) -> dict[str, list[dict[str, Any]]]:
    """Results of scikit-learn's checks by status."""
    found: dict[str, list[dict[str, Any]]] = {"passed": [], "failed": [], "skipped": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in check_estimator(estimator, on_skip=None, on_fail=None):
            found[one["status"]].append(one)
    return found


def test_scikit_learns_own_checks(sine: Regressor, classes: Classifier) -> None:
    failed: dict[str, str] = {}
    for kind, made in (("regressor", AnyWidthRegressor(sine.run)), ("classifier", AnyWidthClassifier(classes.run))):
        found = checked(made)
        failed |= {one["check_name"]: str(one["exception"]) for one in found["failed"]}
        assert len(found["passed"]) >= 40
        skipped = {one["check_name"] for one in found["skipped"]}  # without pandas, and without Array API
        assert skipped <= {"check_array_api_input", f"check_{kind}_data_not_an_array"}
    assert not set(failed) - set(DO_NOT_APPLY), failed
    passed = set(DO_NOT_APPLY) - set(failed)
    assert passed <= {"check_methods_subset_invariance"}  # a machine with another order of sums may be lucky


def test_on_a_run_as_it_is_the_other_checks_fail_for_the_number_of_columns(sine: Regressor) -> None:
    found = checked(sine)
    others = [one for one in found["failed"] if one["check_name"] not in DO_NOT_APPLY]
    for one in others:
        causes = (one["exception"], one["exception"].__cause__, one["exception"].__context__)
        assert any("must be [n, 1]" in str(cause) for cause in causes), one
    assert len(found["passed"]) >= 15


def test_the_page_shows_what_does_not_apply() -> None:
    page = (ROOT / "docs/trained_runs.md").read_text()
    for check, reason in DO_NOT_APPLY.items():
        (line,) = (line for line in page.splitlines() if f"`{check}`" in line)
        assert reason in line
