"""Frames and arrays of objects given to the estimators of `metaexp.load`: columns by name, as scikit-learn does."""

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from small_runs import train

import metaexp
from metaexp.tasks.data.tables import numbers


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
