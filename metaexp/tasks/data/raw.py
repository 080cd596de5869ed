"""What a user hands over for one new task -> the inputs that the learner was trained on, without the training data.

`TaskFamily.raw_inputs()` returns a `RawInputs`. A run keeps its `settings()` in `inputs.json`; `restore` makes it anew.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from metaexp.config.instantiate import instantiate
from metaexp.errors import ConfigError
from metaexp.tasks.data.tables import numbers

FORMAT = 1  # version of inputs.json
ENCODER = "task.encoder"  # what `settings` says for the encoder: that of the run's configuration


class RawInputs(Protocol):
    """Raw examples -> inputs, as the training made them.

    Attributes:
        names: the columns of a frame that are read, by name; None: a frame is an array, its columns count by place.
        classes: the labels in the order of the learner's outputs, where all tasks have the same ones; None: each task
            has its own.

    Optional: `kind`, what the examples are besides rows of a frame: "arrays", "texts", "pictures".
    """

    names: list[str] | None
    classes: list[Any] | None

    def __call__(self, raw: Any) -> Tensor:
        """Raw examples, n of them -> [n, *x_shape], float, on the CPU, in the units of training.

        Raises:
            ValueError: wrong columns, sizes or kinds; one line that begins with `x`.
            TypeError: objects that are no examples.
            DataError: a file that cannot be read.
        """
        ...

    def targets(self, raw: Any) -> Tensor:
        """The targets in raw examples that hold them, e.g. a column of a frame: [n, y_dim], in the units of training.

        Raises ValueError if they hold none, or if targets are always given apart.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """What makes it again: JSON data with `_target_`, a class of metaexp.tasks.data (or of the user's package)."""
        ...


class ArrayInputs:
    """Arrays, tensors, lists and frames of numbers: [n, *x_shape], taken as they are.

    Args:
        x_shape: of one input.
        white: the whole number that means 1 in pictures; 0: the inputs are no pictures.
        mean, std: units of training, nested lists of shape x_shape: (x - mean) / std is what the learner sees.
    """

    kind = "arrays"
    names: list[str] | None = None
    classes: list[Any] | None = None

    def __init__(self, x_shape: Sequence[int], white: int = 0, mean: Any = None, std: Any = None):
        self.x_shape, self.white = tuple(x_shape), white
        self.mean, self.std = (
            None if values is None else torch.as_tensor(values, dtype=torch.float64) for values in (mean, std)
        )

    def __call__(self, raw: Any) -> Tensor:
        """See RawInputs: float64."""
        array, x_shape = numbers("x", raw), self.x_shape
        if array.shape[1:] != x_shape or array.ndim == 0:
            wanted = ", ".join(["n", *map(str, x_shape)])
            reshape = f"x.reshape({', '.join(['-1', *map(str, x_shape)])})"
            fits = array.ndim > 0 and array.size > 0 and array.size == array.shape[0] * int(np.prod(x_shape))
            hint = f"; {reshape} makes it so" if fits else ""
            raise ValueError(f"x has shape {list(array.shape)}: must be [{wanted}]{hint}")
        values, white = torch.from_numpy(array.astype(np.float64)), self.white
        if white and array.dtype == np.uint8:
            values = values / 255
        elif white and array.dtype == np.uint16 and (white != 255 or array.max(initial=0) > 255):
            values = values / 65535
        elif white and array.dtype.kind in "iu" and array.max(initial=0) > 1:
            values = values / white
        return values if self.mean is None or self.std is None else (values - self.mean) / self.std

    def targets(self, raw: Any) -> Tensor:
        """Raises ValueError: arrays of inputs hold no targets."""
        raise ValueError("x: holds no targets; they are given apart")

    def settings(self) -> dict[str, Any]:
        """See RawInputs."""
        units = {name: value.tolist() for name in ("mean", "std") if (value := getattr(self, name)) is not None}
        return {"_target_": target_of(self), "x_shape": list(self.x_shape), "white": self.white, **units}


class EncodedInputs:
    """Abstract: raw examples that a frozen encoder may turn into vectors, or arrays that are ready.

    Args:
        encoder: the encoder; None: there is none.
        arrays: takes arrays of numbers.
        encoded_by: what the encoder's `settings` were at training, compared at its first use.
    """

    names: list[str] | None = None
    classes: list[Any] | None = None

    def __init__(self, encoder: Any, arrays: ArrayInputs, encoded_by: Mapping[str, Any] | None = None):
        self.encoder, self.arrays, self.encoded_by = encoder, arrays, encoded_by
        self._checked = encoded_by is None

    def targets(self, raw: Any) -> Tensor:
        """Raises ValueError: they are given apart."""
        raise ValueError("x: holds no targets; they are given apart")

    def settings(self) -> dict[str, Any]:
        """See RawInputs."""
        told = {"_target_": target_of(self), "arrays": self.arrays.settings()}
        return told | ({"encoder": ENCODER, "encoded_by": self.encoder.settings()} if self.encoder else {})

    def encoded(self, examples: Any) -> Tensor:
        """The vectors of all examples (a `metaexp.encoders.base.Raw`), in units of training, with progress; nothing is
        kept in a cache.

        Raises DataError as `encode_all`, and if the encoder is not the one that the run was trained with.
        """
        from metaexp.encoders.base import encode_all, same_encoder
        from metaexp.system.cache import Cache

        if not self._checked:
            same_encoder(self.encoder, self.encoded_by or {})
            self._checked = True
        if len(examples) == 0:
            return torch.zeros(0, *self.arrays.x_shape, dtype=torch.float64)
        return self.arrays(encode_all(examples, self.encoder, Cache(None)))


def target_of(made: Any) -> str:
    """The dotted path of an object's class."""
    return f"{type(made).__module__}.{type(made).__qualname__}"


def restore(settings: Mapping[str, Any], task: Mapping[str, Any], trusted: Collection[str] = ()) -> RawInputs:
    """What `settings` describe.

    Args:
        settings: the content of inputs.json.
        task: the group `task` of the run's configuration, which describes the encoder.
        trusted: modules outside metaexp that may be named.

    Raises:
        ConfigError: a class that is refused, or wrong settings.
    """
    node = {key: value for key, value in settings.items() if key != "format"}
    if settings.get("format", FORMAT) != FORMAT:
        raise ConfigError(f"inputs.json: format {settings.get('format')}, and this version reads {FORMAT}")
    target = str(node.get("_target_"))
    if target.startswith("metaexp.") and not target.startswith("metaexp.tasks.data."):
        raise ConfigError(f"inputs.json: _target_={target} makes no raw inputs")
    if node.get("encoder") == ENCODER:
        node["encoder"] = task.get("encoder")
    made: RawInputs = instantiate(node, group="inputs", trusted=trusted)
    return made


def is_frame(raw: Any) -> bool:
    """Whether it has columns by name (pandas, polars, Arrow)."""
    return not isinstance(raw, np.ndarray | Tensor) and (hasattr(raw, "columns") or hasattr(raw, "column_names"))


def column(frame: Any, name: str) -> list[Any]:
    """The values of one column of a frame (pandas, polars, Arrow)."""
    values = frame[name]
    for method in ("tolist", "to_list", "to_pylist"):
        if hasattr(values, method):
            found: list[Any] = getattr(values, method)()
            return found
    return list(values)


def as_list(raw: Any, name: str | None) -> list[Any]:
    """Raw examples one by one: a list, a tuple, an array, a series; of a frame the column `name`.

    Raises:
        ValueError: a frame without that column, or something that has no length.
    """
    if is_frame(raw):
        found = list(getattr(raw, "column_names", None) or raw.columns)
        if name is None or name not in found:
            raise ValueError(f"x: has no column {name}; it has {', '.join(map(str, found[:20]))}")
        return column(raw, name)
    if isinstance(raw, str | bytes) or not hasattr(raw, "__len__"):
        raise ValueError(f"x: is one {type(raw).__name__}; it must be a list of examples, [x]")
    return list(raw)
