"""A trained run as an object that learns a new task: `metaexp.load(folder).fit(x, y).predict(x)`, NumPy in and out.

The estimators keep the conventions of scikit-learn without needing it: `get_params`, `set_params` and `clone`, tags,
pickling, names of features, `score`. Parameters are what the constructor takes; a run is read when it is first needed.
"""

import copy
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaexp.algos.base import MODES
from metaexp.metrics import measure
from metaexp.run.source import Fitted, Source, one_of
from metaexp.system.cache import Progress
from metaexp.tasks.data.labels import in_kind, places_of
from metaexp.tasks.data.tables import check_names, column_names, numbers
from metaexp.types import Examples

CHUNK, SINGLE = 1000, 100  # inputs predicted at once, and the same if each comes with a copy of the support set


def load(
    run: str | Path,
    *,
    weights: str | None = None,
    device: str = "cpu",
    normalise: str = "single",
    steps: int | None = None,
    trust: Sequence[str] = (),
) -> "Classifier | Regressor":
    """The trained learner of a run folder, finished or not, as an estimator with the conventions of scikit-learn.

    Data that the task family reads (Omniglot, your arrays) need not be present: the checkpoint keeps their sizes and
    units. They are needed if a learner chooses its fine-tuning rate on validation tasks, or a family has its own loss.

    Args:
        run: the run's folder. Nothing in it is executed or changed.
        weights: "best" (on validation) or "last"; None: those that the run's own test uses.
        device: "cpu", "gpu", "mps" or "auto".
        normalise: where batch norms take their statistics when predicting: "single" (the support set and one input at
            a time), "support" (the support set) or "queries" (all inputs of a call). Other models ignore it.
        steps: inner steps of `fit`; None: as many as the run's own test takes.
        trust: packages outside metaexp whose classes the run's settings may name.

    Raises:
        ValueError: an argument out of range.
        ConfigError, CheckpointError, DataError: see `metaexp.errors`.
    """
    source = Source.read(run, weights, device, trust)
    kind = Classifier if source.learner.family.classification else Regressor
    made = kind(run, weights=weights, device=device, normalise=normalise, steps=steps, trust=trust)
    made._source = source
    made._checked()
    return made


class Estimator(ABC):
    """Base of both estimators: `fit` adapts the learner to one task, as at test; a second `fit` replaces the first.

    The arguments are those of `load`, which chooses the class, and are the parameters that `get_params` names.

    Attributes:
        n_features_in_: numbers in one input; feature_names_in_: the columns, if `fit` got a frame.
        learner, x_shape, folder, step, choices: the run, shape of one input, where the run comes from.
    """

    _source: Source | None = None
    _fitted: Fitted | None = None
    feature_names_in_: np.ndarray
    n_features_in_: int
    _estimator_type: str

    def __init__(
        self,
        run: str | Path,
        *,
        weights: str | None = None,
        device: str = "cpu",
        normalise: str = "single",
        steps: int | None = None,
        trust: Sequence[str] = (),
    ):
        self.run, self.weights, self.device, self.normalise = run, weights, device, normalise
        self.steps, self.trust = steps, trust

    # -- the run -----------------------------------------------------------------------------------------------------

    @property
    def source(self) -> Source:
        """The run, read again if the parameters name another one."""
        asked = (Path(self.run).expanduser().absolute(), self.weights, self.device, self.trust)
        if self._source is None or self._source.asked != asked:
            read = Source.read(self.run, self.weights, self.device, self.trust)
            if read.learner.family.classification != (self._estimator_type == "classifier"):
                raise ValueError(f"run={self.run}: no run for a {type(self).__name__}; metaexp.load chooses the class")
            self._source = read
        return self._source

    learner = property(lambda self: self.source.learner)
    x_shape = property(lambda self: tuple(self.source.learner.family.x_shape))
    folder = property(lambda self: self.source.folder)
    step = property(lambda self: self.source.step)
    choices = property(lambda self: self.source.choices)

    def __repr__(self) -> str:
        if self._source is None:
            return f"{type(self).__name__}(run={str(self.run)!r})"
        names = "".join(f"{key}={self.choices[key]}, " for key in ("algo", "task") if key in self.choices)
        return f"{type(self).__name__}({names}x_shape={self.x_shape}, step={self.step})"

    def _checked(self) -> str:
        """Check the parameters; returns the normalisation mode in use."""
        one_of("normalise", self.normalise, MODES)
        whole = isinstance(self.steps, Integral) and not isinstance(self.steps, bool) and self.steps >= 0
        if self.steps is not None and not whole:
            raise ValueError(f"steps={self.steps}: must be a whole number of at least 0, or None")
        return str(next(iter(self.learner.modes([self.normalise]).values())))

    # -- what scikit-learn asks for ----------------------------------------------------------------------------------

    @classmethod
    def _names(cls) -> list[str]:
        return list(inspect.signature(cls).parameters)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> "Estimator":
        """Change parameters; they count from the next `fit`. Raises ValueError for one that does not exist."""
        for name in params:
            if name not in self._names():
                raise ValueError(f"{name}: no parameter of {type(self).__name__}; there are {', '.join(self._names())}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __sklearn_clone__(self) -> "Estimator":
        """An estimator with the same parameters that is not fitted; it shares the run, as it was read."""
        made = type(self)(**copy.deepcopy(self.get_params(deep=False)))
        if self._source is not None:
            made._source = self._source
        return made

    def __sklearn_is_fitted__(self) -> bool:
        return self._fitted is not None

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags

        x_shape, y_dim = (self.x_shape, self.learner.family.y_dim) if self._source else ((1,), 1)
        regression = self._estimator_type == "regressor"
        several = regression and y_dim > 1
        return Tags(
            estimator_type=self._estimator_type,
            target_tags=TargetTags(required=True, multi_output=several, single_output=not several),
            # Tasks unlike those that the run was trained on cannot be learned.
            regressor_tags=RegressorTags(poor_score=True) if regression else None,
            classifier_tags=None if regression else ClassifierTags(poor_score=True),
            input_tags=InputTags(two_d_array=len(x_shape) == 1, three_d_array=len(x_shape) == 2),
        )

    # -- learning a task ---------------------------------------------------------------------------------------------

    @abstractmethod
    def _targets(self, y: Any, n: int) -> tuple[Tensor, dict[str, Any]]:
        """The user's y -> targets, float64 [n, y_dim], and the attributes that a fit to them sets."""

    def fit(self, x: Any, y: Any) -> "Estimator":
        """Learn a task from its examples x [n, *x_shape], y [n] (or [n, y_dim]); returns self. A fit that fails changes
        nothing.

        Raises ValueError for invalid shapes, numbers of classes or values.
        """
        source, mode = self.source, self._checked()
        names, inputs, learner = self._columns(x, source), self._inputs(x, source), source.learner
        if len(inputs) == 0:
            raise ValueError("x: no examples; fit needs at least one")
        if y is None:
            raise ValueError("fit requires y to be passed, but the target y is None")
        targets, told = self._targets(y, len(inputs))
        support = Examples(inputs, targets.to(source.device, learner.family.dtype))
        steps = learner.steps_at_test(len(inputs)) if self.steps is None else int(self.steps)
        path = (fitted := Fitted(source, None, support, mode, steps)).path()
        if self.steps is not None and len(path) != steps + 1:
            raise ValueError(f"steps={steps}: {type(learner).__name__} takes no inner steps; leave it out")
        self._fitted = fitted._replace(adapted=path[-1])
        self.__dict__.pop("feature_names_in_", None)
        told |= {} if names is None else {"feature_names_in_": names}
        features = int(np.prod(self.x_shape)) if names is None else len(names)
        for name, value in (told | {"n_features_in_": features}).items():
            setattr(self, name, value)
        return self

    def _predict(self, x: Any) -> np.ndarray:
        """[m, *x_shape] -> the learner's predictions, float64 [m, out]."""
        if self._fitted is None:
            raise _not_fitted("predict before fit: call fit(x, y) with the examples of the task first")
        now = self._columns(x, source := self._fitted.source)
        if said := check_names(getattr(self, "feature_names_in_", None), now, type(self).__name__):
            warnings.warn(said)
        return self._outputs(self._fitted, self._inputs(x, source)).double().cpu().numpy()

    def _outputs(self, fitted: Fitted, inputs: Tensor) -> Tensor:
        """Inputs [m, *x_shape] -> the learner's predictions [m, out], with progress."""
        source, adapted, support, mode, _ = fitted
        size = {"queries": max(len(inputs), 1), "single": SINGLE}.get(mode, CHUNK)
        progress, made = Progress(f"predicting {len(inputs):,} examples", len(inputs)), []
        with source.computing():
            for piece in inputs.split(size):
                made.append(source.learner.predict_as(mode, adapted, support, piece))
                progress.at(sum(map(len, made)))
        return torch.cat(made)

    def adaptation(self, x: Any, y: Any) -> dict[str, np.ndarray]:
        """The run's metrics on further examples of the task after 0, 1, ... steps of the last `fit`, [steps + 1] each,
        in the units of the run's own test.

        Raises ValueError as `fit` and `predict`, and for a label that `fit` has not seen.
        """
        if self._fitted is None:
            raise _not_fitted("adaptation before fit: call fit(x, y) with the examples of the task first")
        fitted, learner = self._fitted, self._fitted.source.learner
        inputs = self._inputs(x, fitted.source)
        true = self._known_targets(y, len(inputs)).to(fitted.source.device, learner.family.dtype)
        outputs = [self._outputs(fitted._replace(adapted=adapted), inputs) for adapted in fitted.path()]
        return {
            name: np.array([float(measure(metric, made, true, fitted.support.y)) for made in outputs])
            for name, metric in learner.metrics.items()
            if not getattr(metric, "reads_predictor", False)  # needs a task of the family itself
        }

    @abstractmethod
    def _known_targets(self, y: Any, n: int) -> Tensor:
        """The user's y for the task of the last `fit` -> targets, float64 [n, y_dim]."""

    def _inputs(self, x: Any, source: Source) -> Tensor:
        """Raw examples as inputs on the device, as those of training."""
        return source.inputs(x).to(source.device, source.learner.family.dtype)

    def _columns(self, x: Any, source: Source) -> np.ndarray | None:
        """The names of a frame's columns; where the run knows columns by name, those that it reads."""
        found, known = column_names(x), source.inputs.names
        return found if found is None or known is None else np.array(known, dtype=object)


class Regressor(Estimator):
    """See `load`. `predict` returns [m] if `fit` got y [n], otherwise [m, y_dim]."""

    _estimator_type = "regressor"
    _flat: bool

    def _targets(self, y: Any, n: int) -> tuple[Tensor, dict[str, Any]]:
        array, y_dim = numbers("y", y).astype(np.float64), self.learner.family.y_dim
        if array.shape != (n, y_dim) and not (array.shape == (n,) and y_dim == 1):
            wanted = f"[{n}] or [{n}, 1]" if y_dim == 1 else f"[{n}, {y_dim}]"
            raise ValueError(f"y has shape {list(array.shape)}: must be {wanted}, one row for each of x")
        values, family = torch.from_numpy(array.reshape(n, y_dim)), self.learner.family
        values = (values - family.y_mean) / family.y_std if hasattr(family, "y_mean") else values
        return values, {"_flat": array.ndim == 1}

    def _known_targets(self, y: Any, n: int) -> Tensor:
        return self._targets(y, n)[0]

    @property
    def gaussian(self) -> bool:
        """Whether the run predicts standard deviations too."""
        return hasattr(self.learner, "metrics") and "coverage90" in self.learner.metrics

    def predict(self, x: Any, return_std: bool = False) -> Any:
        """Predicted values for inputs x [m, *x_shape]; with `return_std`, (values, standard deviations).

        Raises ValueError for a wrong shape, before `fit`, or if the run predicts no standard deviation.
        """
        made = self._predict(x)
        family = self._fitted.source.learner.family  # type: ignore[union-attr]
        y_dim = family.y_dim
        gaussian = made.shape[1] == 2 * y_dim  # means, then standard deviations
        if return_std and not gaussian:
            raise ValueError("return_std=True: this run predicts no standard deviation")
        mean, std = made[:, :y_dim], made[:, y_dim:]
        if hasattr(family, "y_mean"):
            scale = family.y_std.cpu().numpy()
            mean, std = mean * scale + family.y_mean.cpu().numpy(), std * scale if gaussian else std
        mean, std = (mean[:, 0], std[:, 0] if gaussian else std) if self._flat else (mean, std)
        return (mean, std) if return_std else mean

    def score(self, x: Any, y: Any, sample_weight: Any = None) -> float:
        """R squared: 1 - the squared error divided by that of the mean of y, averaged over the targets."""
        predicted, true = self.predict(x), numbers("y", y).astype(np.float64)
        if true.size != predicted.size or len(true) != len(predicted):
            raise ValueError(f"y has shape {list(true.shape)}: must be {list(predicted.shape)}, as predict gives")
        predicted, true = (part.reshape(len(part), -1) for part in (predicted, true))
        weight = np.ones(len(true)) if sample_weight is None else numbers("sample_weight", sample_weight)
        centre = np.average(true, axis=0, weights=weight) if len(true) else 0.0
        error, spread = weight @ (true - predicted) ** 2, weight @ (true - centre) ** 2
        constant = np.where(error == 0, 1.0, 0.0)  # targets that do not vary: 1 if exact, else 0
        return float(np.mean(np.where(spread > 0, 1 - error / np.where(spread > 0, spread, 1.0), constant)))


class Classifier(Estimator):
    """See `load`. Labels may be any sortable values; `classes_` are those of `fit`, in order."""

    _estimator_type = "classifier"
    classes_: np.ndarray

    def _targets(self, y: Any, n: int) -> tuple[Tensor, dict[str, Any]]:
        labels = np.asarray(y)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.shape != (n,):
            raise ValueError(f"y has shape {list(np.shape(y))}: must be [{n}], one label for each row of x")
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise ValueError("y: holds a value that is not finite")
        if (known := self.source.inputs.classes) is not None:
            classes, places = in_kind(known, labels.dtype.kind), places_of(labels, known)
        else:
            try:
                classes, places = np.unique(labels, return_inverse=True)
            except TypeError as error:
                raise ValueError(f"y: labels must be of one kind, to be sorted ({error})") from error
            self._check_ways(len(classes))
        one_hot = torch.eye(len(classes), dtype=torch.float64)[torch.from_numpy(places.reshape(-1))]
        return one_hot, {"classes_": classes}

    def _known_targets(self, y: Any, n: int) -> Tensor:
        labels = np.asarray(y).reshape(-1)
        if len(labels) != n:
            raise ValueError(f"y has shape {list(np.shape(y))}: must be [{n}], one label for each row of x")
        places = places_of(labels, self.classes_.tolist(), "this task")
        return torch.eye(len(self.classes_), dtype=torch.float64)[torch.from_numpy(places)]

    def _check_ways(self, ways: int) -> None:
        learner, sizes = self.learner, self.learner.family.sizes
        if ways < 2:
            raise ValueError(f"y: holds {ways} class; there must be at least 2")
        # A network that is not trained has as many outputs as the test has classes, if it has an output per class.
        any_number = learner.any_ways and (learner.trains or learner.classes_alike)
        wanted = None if any_number else sizes["test" if learner.any_ways else "train"]["ways"]
        if wanted is not None and ways != wanted:
            raise ValueError(
                f"y: holds {ways} classes; {type(learner).__name__} has one output per class and was made for {wanted}"
                " (protonet and r2d2 take any number)"
            )

    def predict_proba(self, x: Any) -> np.ndarray:
        """Probabilities [m, classes] in the order of `classes_`: the softmax of the learner's output.

        Raises ValueError for a wrong shape or before `fit`.
        """
        logits = self._predict(x)
        powers = np.exp(logits - logits.max(1, keepdims=True))
        proba: np.ndarray = powers / powers.sum(1, keepdims=True)
        return proba

    def predict(self, x: Any) -> np.ndarray:
        """The most probable label of every input, [m]."""
        best: np.ndarray = self.classes_[self.predict_proba(x).argmax(1)] if self._fitted else self._predict(x)
        return best

    def score(self, x: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of inputs whose label is predicted correctly."""
        predicted, labels = self.predict(x), np.asarray(y).reshape(-1)
        if labels.shape != predicted.shape:
            raise ValueError(
                f"y has shape {list(np.shape(y))}: must be [{len(predicted)}], one label for each row of x"
            )
        weight = None if sample_weight is None else numbers("sample_weight", sample_weight)
        return float(np.average(predicted == labels, weights=weight))


def _not_fitted(text: str) -> ValueError:
    """scikit-learn's own error, which is a ValueError too, where it is installed."""
    try:
        from sklearn.exceptions import NotFittedError
    except ImportError:
        return ValueError(text)
    made: ValueError = NotFittedError(text)
    return made
