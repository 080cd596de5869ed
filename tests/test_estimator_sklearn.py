"""The estimators of `metaexp.load` in the hands of scikit-learn: clone, pickle, joblib, model selection, its checks."""

import copy
import importlib
import pickle
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from joblib import Parallel, delayed
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted
from small_runs import own_package, train

import metaexp
from metaexp.config.settings import load
from metaexp.errors import CheckpointError, ConfigError
from metaexp.estimator import Classifier, Regressor
from metaexp.run.source import Source
from metaexp.tasks.data.tables import numbers
from metaexp.tasks.placeholder import Absent
from metaexp.training.build import Experiment

SHIPPED = ROOT / "scripts/runs/sine_r2d2"


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


def waves(n: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points of a sine that no run has seen."""
    x = np.random.default_rng(seed).uniform(-5, 5, (n, 1))
    return x, 3 * np.sin(x[:, 0] - 1)


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


# --- pickle, copy, joblib


def test_a_pickle_needs_no_run_folder(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHIPPED, tmp_path / "run"))
    x, y = waves()
    made = metaexp.load(folder).fit(x, y)
    expected = made.predict(x)
    stored = pickle.dumps(made)
    assert len(stored) < 200_000
    shutil.rmtree(folder)
    back = pickle.loads(stored)
    assert np.array_equal(back.predict(x), expected)
    assert back.get_params() == made.get_params()
    assert np.array_equal(clone(back).fit(x, y).predict(x), expected)
    assert repr(back) == repr(made)
    with pytest.raises(CheckpointError, match="no such run folder"):
        clone(back).set_params(weights="last").fit(x, y)


def test_pickle_leaves_the_data_of_the_run_behind(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x, tasks = random.normal(50, 20, (20_000, 2)), np.repeat(np.arange(100), 200)
    file = tmp_path / "data.npz"
    np.savez(file, x=x, y=1000 + 30 * x[:, 0] * (1 + tasks), task=tasks)
    typed = [f"task.files=[{file}]", "task.standardise=xy", "task.shots=5", "task.queries=5", "test.tasks=4"]
    made = metaexp.load(train(tmp_path, "algo=maml", "task=arrays", *typed)).fit(x[:6], x[:6, 0])
    stored = pickle.dumps(made)
    assert len(stored) < x.nbytes / 3
    assert np.array_equal(pickle.loads(stored).predict(x[:9]), made.predict(x[:9]))


@pytest.mark.tier("long")
@pytest.mark.parametrize("task", ["sine", "clusters"])
def test_every_method_can_be_pickled_without_its_data(task: str) -> None:
    done = 0
    for file in sorted((ROOT / "conf/algo").glob("*.yaml")):
        try:
            config = load([f"algo={file.stem}", f"task={task}", "device=cpu", "compile=false"])
        except ConfigError:
            continue  # this pair makes no sense
        learner = Experiment(config).learner
        about = {"device": torch.device("cpu"), "precision": "32", "folder": ROOT, "step": 0, "choices": {}}
        back = pickle.loads(pickle.dumps(Source(learner, (), **about))).learner
        assert isinstance(back.family, Absent), file.stem
        for one, two in zip(learner.state_dict().items(), back.state_dict().items(), strict=True):
            assert one[0] == two[0]
            assert torch.equal(one[1], two[1])
        done += 1
    assert done >= 16


def test_what_cannot_be_pickled_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, groups = own_package(tmp_path)  # its learner has a lambda for a loss
    monkeypatch.syspath_prepend(str(tmp_path))
    made = metaexp.load(train(tmp_path, "algo=gauss", "task=sine", extra=groups), trust=[package])
    x, y = waves(5)
    back = pickle.loads(pickle.dumps(made.fit(x, y)))
    assert np.array_equal(back.predict(x), made.predict(x))
    for name in [name for name in sys.modules if name.startswith(package)]:
        del sys.modules[name]


def test_copies(sine: Regressor) -> None:
    x, y = waves()
    made = clone(sine).fit(x, y)
    expected = made.predict(x)
    for other in (copy.copy(made), copy.deepcopy(made)):
        assert np.array_equal(other.predict(x), expected)
        other.fit(x, -y)
        assert np.array_equal(made.predict(x), expected)


def _fold(estimator: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return estimator.fit(x, y).predict(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
def test_joblib(sine: Regressor, backend: str) -> None:
    sets = [waves(12, seed) for seed in range(6)]
    found = Parallel(n_jobs=2, backend=backend)(delayed(_fold)(clone(sine), x, y) for x, y in sets)
    for (x, y), predicted in zip(sets, found, strict=True):
        assert np.array_equal(predicted, clone(sine).fit(x, y).predict(x))


@pytest.mark.tier("long")
def test_joblib_in_fresh_processes(maml: Regressor) -> None:
    """Loky's workers import everything anew."""
    x, y = waves()
    search = GridSearchCV(maml, {"steps": [0, 1, 5]}, cv=3, n_jobs=2).fit(x, y)
    alone = GridSearchCV(maml, {"steps": [0, 1, 5]}, cv=3).fit(x, y)
    assert np.array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])


def test_scikit_learn_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises ImportError
    with pytest.raises(ImportError):
        importlib.import_module("sklearn")
    x = np.linspace(-4, 4, 12)[:, None]
    made = metaexp.load(SHIPPED)
    with pytest.raises(ValueError, match="predict before fit"):
        made.predict(x)
    made.fit(x, np.sin(x[:, 0]))
    assert made.score(x, np.sin(x[:, 0])) > 0.99
    assert np.array_equal(pickle.loads(pickle.dumps(made)).predict(x), made.predict(x))
    assert type(made)(**made.get_params()).set_params(weights="last").weights == "last"


# --- frames


class Frame:
    """What pandas and polars have in common: columns with names, and an array."""

    def __init__(self, values: np.ndarray, columns: list[Any]):
        self.values, self.columns, self.shape = values, columns, values.shape

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values if dtype is None else self.values.astype(dtype)

    def __len__(self) -> int:
        return len(self.values)


@pytest.fixture(scope="module")
def two_columns(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run with two inputs, fitted to a frame with columns a and b."""
    folder, random = tmp_path_factory.mktemp("two"), np.random.default_rng(0)
    x, tasks = random.normal(size=(200, 2)), np.repeat(np.arange(10), 20)
    np.savez(folder / "data.npz", x=x, y=x[:, 0] * (1 + tasks), task=tasks)
    typed = [f"task.files=[{folder}/data.npz]", "task.shots=5", "task.queries=5", "test.tasks=4"]
    return metaexp.load(train(folder, "algo=r2d2", "task=arrays", *typed)), x[:8], x[:8, 0]


@pytest.mark.parametrize("kind", ["plain", "pandas", "polars"])
def test_columns_with_other_names_are_refused(two_columns: Any, kind: str) -> None:
    made, x, y = two_columns
    frame = Frame if kind == "plain" else _frame(pytest.importorskip(kind))
    fitted = clone(made).fit(frame(x, ["a", "b"]), y)
    assert list(fitted.feature_names_in_) == ["a", "b"]
    assert fitted.n_features_in_ == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = fitted.predict(frame(x, ["a", "b"]))
        assert np.array_equal(expected, clone(made).fit(x, y).predict(x))
    for names, says in (
        (["a", "c"], "c not seen in fit; b missing"),
        (["b", "a"], "in fit they were a, b, in this order"),
    ):
        with pytest.raises(ValueError, match=f"The feature names should match.*: {says}$") as error:
            fitted.predict(frame(x, names))
        assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match="feature names"):
            fitted.score(frame(x, names), y)
    with pytest.warns(UserWarning, match="X does not have valid feature names, but Regressor was fitted with"):
        assert np.array_equal(fitted.predict(x), expected)
    fitted.fit(x, y)
    assert not hasattr(fitted, "feature_names_in_")
    with pytest.warns(UserWarning, match="X has feature names, but Regressor was fitted without"):
        fitted.predict(frame(x, ["a", "b"]))


def _frame(library: Any) -> Any:
    return lambda x, names: library.DataFrame({name: x[:, i] for i, name in enumerate(names)})


def test_names_that_are_no_words(two_columns: Any) -> None:
    made, x, y = two_columns
    numbered = clone(made).fit(Frame(x, [0, 1]), y)
    assert not hasattr(numbered, "feature_names_in_")
    with pytest.raises(TypeError, match="only supported if all input features have string names"):
        numbered.fit(Frame(x, [0, "b"]), y)
    assert np.array_equal(numbered.predict(x), clone(made).fit(x, y).predict(x))  # the fit before still counts


def test_objects_are_read_as_numbers_or_refused() -> None:
    assert numbers("x", np.array([[1, 2.5], [True, 3]], dtype=object)).tolist() == [[1, 2.5], [1, 3]]
    for value, error, says in (
        (np.array([[1, "2"]], dtype=object), ValueError, "x: holds object, must be numbers"),
        (np.array([[1, {}]], dtype=object), TypeError, "x: float"),
        (np.array([[1j]]), ValueError, "x: Complex data not supported"),
        (np.array([[1, None]], dtype=object), ValueError, "x: holds a value that is not finite"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), ValueError, "must be numbers"),
    ):
        with pytest.raises(error, match=says) as found:
            numbers("x", value)
        assert "\n" not in str(found.value)


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
