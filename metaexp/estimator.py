"""A trained run as an object that learns a new task: `metaexp.load(folder).fit(x, y).predict(x)`, NumPy in and out."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaexp.algos.base import MODES
from metaexp.evaluation.scores import validator
from metaexp.random import task_keys
from metaexp.run.restore import load_weights, open_config, restore
from metaexp.training.trainer import quiet
from metaexp.types import Examples

CHUNK, SINGLE = 1000, 100  # inputs predicted at once, and the same if each comes with a copy of the support set


def load(
    run: str | Path,
    *,
    weights: str | None = None,
    device: str = "cpu",
    normalise: str = "single",
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
        trust: packages outside metaexp whose classes the run's settings may name.

    Raises:
        ValueError: an argument out of range.
        ConfigError, CheckpointError, DataError: see `metaexp.errors`.
    """
    for name, value, words in (("weights", weights, (None, "best", "last")), ("normalise", normalise, MODES)):
        if value not in words:
            raise ValueError(f"{name}={value}: must be one of {', '.join(map(str, words))}")
    quiet()
    folder = Path(run).expanduser()
    config = open_config(folder, [trust] if isinstance(trust, str) else trust)
    config["device"] = config["device"] | {"accelerator": device}
    threads = torch.get_num_threads()
    try:
        restored = restore(folder, config, without_data=True)
    finally:
        torch.set_num_threads(threads)  # keep the thread count of the caller's process, which restoring a run changes
    learner, step = restored.parts.learner, load_weights(restored, weights or config["test"]["weights"])
    make = Classifier if restored.parts.family.classification else Regressor
    made = make(learner, restored.parts.device, str(config["device"]["precision"]), normalise)
    made.folder, made.step, made.choices = folder, step, dict(config["choices"])
    with made._computing():
        learner.finish(validator(learner))  # as before the test: a fine-tuning rate is chosen on validation tasks
    return made


class Estimator(ABC):
    """Base of both estimators: `fit` adapts the learner to one task, as at test; a second `fit` replaces the first.

    Attributes:
        x_shape: shape of one input; folder, step, choices: where the estimator comes from.
    """

    def __init__(self, learner: Any, device: torch.device, precision: str = "32", normalise: str = "single"):
        self.learner, self.device, self.precision = learner.eval(), device, precision
        modes = learner.modes([normalise])
        self._mode = next(iter(modes.values()))
        self.x_shape: tuple[int, ...] = tuple(learner.family.x_shape)
        self.folder: Path | None = None
        self.step: int | None = None
        self.choices: dict[str, Any] = {}
        self._fitted: tuple[Any, Examples] | None = None

    def __repr__(self) -> str:
        names = "".join(f"{key}={self.choices[key]}, " for key in ("algo", "task") if key in self.choices)
        return f"{type(self).__name__}({names}x_shape={self.x_shape}, step={self.step})"

    @abstractmethod
    def _targets(self, y: Any, n: int) -> tuple[Tensor, dict[str, Any]]:
        """The user's y -> targets, float64 [n, y_dim], and the attributes that a fit to them sets."""

    def fit(self, x: Any, y: Any) -> "Estimator":
        """Learn a task from its examples x [n, *x_shape], y [n] (or [n, y_dim]); returns self. A fit that fails changes
        nothing.

        Raises ValueError for invalid shapes, numbers of classes or values.
        """
        inputs = self._inputs(x)
        if len(inputs) == 0:
            raise ValueError("x: no examples; fit needs at least one")
        targets, told = self._targets(y, len(inputs))
        support = Examples(inputs, targets.to(self.device, self.learner.family.dtype))
        key = task_keys(0, "test", torch.zeros(1, dtype=torch.int64, device=self.device))[0]
        with self._computing():
            adapted = self.learner.path(support, key, self.learner.steps_at_test(len(inputs)))[-1]
        self._fitted = adapted, support
        for name, value in told.items():
            setattr(self, name, value)
        return self

    def _predict(self, x: Any) -> np.ndarray:
        """[m, *x_shape] -> the learner's predictions, float64 [m, out]."""
        if self._fitted is None:
            raise ValueError("predict before fit: call fit(x, y) with the examples of the task first")
        adapted, support = self._fitted
        inputs = self._inputs(x)
        size = {"queries": max(len(inputs), 1), "single": SINGLE}.get(self._mode, CHUNK)
        pieces = inputs.split(size)
        with self._computing():
            made = torch.cat([self.learner.predict_as(self._mode, adapted, support, piece) for piece in pieces])
        return made.double().cpu().numpy()

    def _inputs(self, x: Any) -> Tensor:
        """An array as inputs on the device, scaled like the family's own."""
        array = _numbers("x", x)
        if array.shape[1:] != self.x_shape or array.ndim == 0:
            wanted = ", ".join(["n", *map(str, self.x_shape)])
            reshape = f"x.reshape({', '.join(['-1', *map(str, self.x_shape)])})"
            fits = array.ndim > 0 and array.size == array.shape[0] * int(np.prod(self.x_shape))
            hint = f"; {reshape} makes it so" if fits else ""
            raise ValueError(f"x has shape {list(array.shape)}: must be [{wanted}]{hint}")
        family = self.learner.family
        values = torch.from_numpy(array.astype(np.float64))
        white = family.white or 255 * family.bytes  # the run's own inputs are pictures of whole numbers, too
        if white and array.dtype == np.uint8:
            values = values / 255
        elif white and array.dtype == np.uint16 and (white != 255 or array.max(initial=0) > 255):
            values = values / 65535
        elif white and array.dtype.kind in "iu" and array.max(initial=0) > 1:
            values = values / white
        if hasattr(family, "x_mean"):
            values = (values - family.x_mean) / family.x_std
        return values.to(self.device, family.dtype)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.no_grad(), _precision(self.precision, self.device):
            yield


class Regressor(Estimator):
    """See `load`. `predict` returns [m] if `fit` got y [n], otherwise [m, y_dim]."""

    _flat: bool

    def _targets(self, y: Any, n: int) -> tuple[Tensor, dict[str, Any]]:
        array, y_dim = _numbers("y", y).astype(np.float64), self.learner.family.y_dim
        if array.shape != (n, y_dim) and not (array.shape == (n,) and y_dim == 1):
            wanted = f"[{n}] or [{n}, 1]" if y_dim == 1 else f"[{n}, {y_dim}]"
            raise ValueError(f"y has shape {list(array.shape)}: must be {wanted}, one row for each of x")
        values, family = torch.from_numpy(array.reshape(n, y_dim)), self.learner.family
        values = (values - family.y_mean) / family.y_std if hasattr(family, "y_mean") else values
        return values, {"_flat": array.ndim == 1}

    def predict(self, x: Any, return_std: bool = False) -> Any:
        """Predicted values for inputs x [m, *x_shape]; with `return_std`, (values, standard deviations).

        Raises ValueError for a wrong shape, before `fit`, or if the run predicts no standard deviation.
        """
        made, y_dim = self._predict(x), self.learner.family.y_dim
        gaussian = made.shape[1] == 2 * y_dim  # means, then standard deviations
        if return_std and not gaussian:
            raise ValueError("return_std=True: this run predicts no standard deviation")
        mean, std = made[:, :y_dim], made[:, y_dim:]
        family = self.learner.family
        if hasattr(family, "y_mean"):
            scale = family.y_std.cpu().numpy()
            mean, std = mean * scale + family.y_mean.cpu().numpy(), std * scale if gaussian else std
        mean, std = (mean[:, 0], std[:, 0] if gaussian else std) if self._flat else (mean, std)
        return (mean, std) if return_std else mean

    def score(self, x: Any, y: Any) -> float:
        """R squared: 1 - the squared error divided by that of the mean of y, averaged over the targets."""
        predicted, true = self.predict(x), _numbers("y", y).astype(np.float64)
        if true.size != predicted.size or len(true) != len(predicted):
            raise ValueError(f"y has shape {list(true.shape)}: must be {list(predicted.shape)}, as predict gives")
        predicted, true = (part.reshape(len(part), -1) for part in (predicted, true))
        error, spread = ((true - predicted) ** 2).sum(0), ((true - true.mean(0)) ** 2).sum(0)
        constant = np.where(error == 0, 1.0, 0.0)  # targets that do not vary: 1 if exact, else 0
        return float(np.mean(np.where(spread > 0, 1 - error / np.where(spread > 0, spread, 1.0), constant)))


class Classifier(Estimator):
    """See `load`. Labels may be any sortable values; `classes_` are those of `fit`, in order."""

    classes_: np.ndarray

    def _targets(self, y: Any, n: int) -> tuple[Tensor, dict[str, Any]]:
        labels = np.asarray(y)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.shape != (n,):
            raise ValueError(f"y has shape {list(np.shape(y))}: must be [{n}], one label for each row of x")
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise ValueError("y: holds a value that is not finite")
        try:
            classes, places = np.unique(labels, return_inverse=True)
        except TypeError as error:
            raise ValueError(f"y: labels must be of one kind, to be sorted ({error})") from error
        self._check_ways(len(classes))
        one_hot = torch.eye(len(classes), dtype=torch.float64)[torch.from_numpy(places.reshape(-1))]
        return one_hot, {"classes_": classes}

    def _check_ways(self, ways: int) -> None:
        learner, sizes = self.learner, self.learner.family.sizes
        if ways < 2:
            raise ValueError(f"y: holds {ways} class; there must be at least 2")
        # A method that trains nothing has a network with as many outputs as its test has classes.
        wanted = sizes["train"]["ways"] if not learner.any_ways else None if learner.trains else sizes["test"]["ways"]
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

    def score(self, x: Any, y: Any) -> float:
        """The share of inputs whose label is predicted correctly."""
        predicted, labels = self.predict(x), np.asarray(y).reshape(-1)
        if labels.shape != predicted.shape:
            raise ValueError(
                f"y has shape {list(np.shape(y))}: must be [{len(predicted)}], one label for each row of x"
            )
        return float(np.mean(predicted == labels))


def _numbers(name: str, value: Any) -> np.ndarray:
    """An array of finite numbers; tensors and lists are accepted too."""
    value = value.detach().cpu() if isinstance(value, Tensor) else value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: not an array, its rows differ in length") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: holds {array.dtype}, must be numbers")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name}: holds a value that is not finite")
    return array


def _precision(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The precision context that Lightning's trainer uses for the test of a run."""
    from lightning.pytorch.plugins.precision import DoublePrecision, MixedPrecision

    if precision == "64-true":
        return DoublePrecision().forward_context()
    if precision == "bf16-mixed":
        return MixedPrecision("bf16-mixed", device=device.type).forward_context()
    return nullcontext()
