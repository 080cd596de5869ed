"""The adapted predictor of one task as a file for use without metaexp: torch.export, ONNX, or its weights alone."""

import copy
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_flatten_with_path, tree_unflatten

from metaexp.algos.trial import first_line
from metaexp.errors import ConfigError
from metaexp.estimator import Classifier
from metaexp.models.norms import depends_on_batch, single_at_once
from metaexp.system.files import replace_file
from metaexp.tasks.data.raw import ArrayInputs
from metaexp.types import Examples

NEEDS = {".pt2": (), ".onnx": ("onnx", "onnxscript", "onnxruntime"), ".safetensors": ("safetensors",)}
AGREE = 1e-5  # of the largest prediction: how far the exported predictor may be from the learner
FORMAT = 1  # version of the metadata


def need(path: Path) -> None:
    """Raises ConfigError, which names the extra, if a package for this kind of file is missing."""
    for package in NEEDS[path.suffix.lower()]:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"export={path}: needs the package {package}; pip install 'metaexp[export]' adds it")


def export(model: Any, path: Path, columns: Sequence[str] | None = None) -> str:
    """Write the predictor that an estimator has learned; returns what to say of it.

    A file of torch.export or ONNX takes x [rows, *x_shape], any number of rows, and gives `probabilities`
    [rows, classes], or `prediction` and, where the method has them, `std`, [rows, y_dim] each, in the units of the
    targets. Before it is written, it is compared with the learner on 1, 3 and 50 rows.

    Args:
        model: a fitted estimator.
        path: .pt2, .onnx or .safetensors.
        columns: names of the inputs, where they came from a table.

    Raises:
        ConfigError: predictions would depend on the other rows of a call, the method's predictor cannot be exported,
            or the exported one does not agree.
        SpaceError: the file cannot be written.
    """
    need(path)
    about = metadata(model, columns)
    if path.suffix.lower() == ".safetensors":
        replace_file(path, lambda file: file.write(_weights(model, about)))
        return f"weights: {path}"
    if model._fitted.mode == "queries" and depends_on_batch(model.learner.model):
        raise ConfigError(
            "normalise=queries: a prediction would depend on the other rows of its call; an exported predictor answers "
            "each row by itself: normalise=single or normalise=support"
        )
    predictor = Predictor(model).eval()
    make: Callable[[Predictor, dict[str, str]], tuple[bytes, Callable[[Tensor], list[Tensor]]]]
    make = _pt2 if path.suffix.lower() == ".pt2" else _onnx
    try:
        with torch.no_grad(), _silent():
            content, again = make(predictor, about)
            apart = max(_apart(model, _example(predictor, rows), again) for rows in (1, 3, 50))
    except ConfigError:
        raise
    except Exception as error:  # exporters raise errors of many kinds
        kind = type(model.learner).__name__
        raise ConfigError(f"export={path}: {kind} cannot be exported here ({first_line(error)})") from error
    if not apart <= AGREE:
        raise ConfigError(f"export={path}: not written, the exported predictor differs by {apart:.1g} from the run")
    replace_file(path, lambda file: file.write(content))
    return f"export     {path}: x [rows, {', '.join(map(str, model.x_shape))}] -> {', '.join(predictor.outputs)}"


def metadata(model: Any, columns: Sequence[str] | None = None) -> dict[str, str]:
    """What a file says of itself."""
    fitted, family = model._fitted, model.learner.family
    told: dict[str, Any] = {
        "format": FORMAT,
        "run": model.folder.name,
        "step": model.step,
        **{key: model.choices.get(key) for key in ("algo", "task", "model")},
        "normalise": fitted.mode if depends_on_batch(model.learner.model) else "any",
        "support": len(fitted.support.x),
        "steps": fitted.steps,
        "x_shape": list(family.x_shape),
        "inputs": list(columns or model.source.inputs.names or []),
        "x": "as given to predict" if isinstance(model.source.inputs, ArrayInputs) else "as the network takes it",
        "outputs": Predictor.names(model),
    }
    if isinstance(model, Classifier):
        told["classes"] = model.classes_.tolist()
    return {"metaexp": json.dumps(told, ensure_ascii=False, default=str)}


class Predictor(nn.Module):
    """x [rows, *x_shape] -> probabilities, or means and standard deviations, of one task."""

    support_x: Tensor
    support_y: Tensor
    x_mean: Tensor
    x_std: Tensor
    y_mean: Tensor
    y_std: Tensor

    def __init__(self, model: Any):
        super().__init__()
        fitted, learner = model._fitted, model.learner
        leaves, self.spec = tree_flatten(fitted.adapted)
        self.places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.others = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        for i in self.places:
            self.register_buffer(f"adapted_{i}", leaves[i].detach().clone())
        self.register_buffer("support_x", fitted.support.x.detach().clone())
        self.register_buffer("support_y", fitted.support.y.detach().clone())
        self.learner = copy.deepcopy(learner, {id(learner.family): None}).requires_grad_(False)
        self.mode, self.count = fitted.mode, len(leaves)
        self.classes, self.y_dim = isinstance(model, Classifier), learner.family.y_dim
        self.outputs = self.names(model)
        inputs, family, dtype = model.source.inputs, learner.family, learner.family.dtype
        self.dtype = dtype
        self.units = isinstance(inputs, ArrayInputs) and inputs.mean is not None
        if self.units:
            self.register_buffer("x_mean", inputs.mean.double())
            self.register_buffer("x_std", inputs.std.double())
        self.scales = not self.classes and hasattr(family, "y_mean")
        if self.scales:
            self.register_buffer("y_mean", family.y_mean.double())
            self.register_buffer("y_std", family.y_std.double())

    @staticmethod
    def names(model: Any) -> list[str]:
        """Names of the outputs."""
        if isinstance(model, Classifier):
            return ["probabilities"]
        return ["prediction", "std"] if model.gaussian else ["prediction"]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """[rows, *x_shape] -> [rows, classes], or [rows, y_dim] each."""
        if self.units:
            x = ((x.double() - self.x_mean) / self.x_std).to(self.dtype)
        others = iter(self.others)
        leaves = [getattr(self, f"adapted_{i}") if i in self.places else next(others) for i in range(self.count)]
        adapted, learner = tree_unflatten(leaves, self.spec), self.learner
        if self.mode == "single" and depends_on_batch(learner.model):
            made = single_at_once(learner.model, partial(learner.predict, adapted), self.support_x, x)
        else:
            made = learner.predict_as(self.mode, adapted, Examples(self.support_x, self.support_y), x)
        if self.classes:
            return (torch.softmax(made, -1),)
        parts = [made[:, : self.y_dim], made[:, self.y_dim :]][: len(self.outputs)]
        if self.scales:
            shifts = (self.y_mean, torch.zeros_like(self.y_mean))
            parts = [(part.double() * self.y_std + s).to(self.dtype) for part, s in zip(parts, shifts, strict=False)]
        return tuple(parts)


def _example(predictor: Predictor, rows: int) -> Tensor:
    """Inputs like those of the support set, [rows, *x_shape], as the exported predictor takes them."""
    seen = predictor.support_x[torch.arange(rows) % len(predictor.support_x)]
    spread = torch.linspace(0.9, 1.1, rows, dtype=seen.dtype).view(-1, *(1,) * (seen.dim() - 1))
    x = seen.cpu() * spread
    return (x.double() * predictor.x_std + predictor.x_mean).to(predictor.dtype) if predictor.units else x


def _pt2(predictor: Predictor, about: dict[str, str]) -> tuple[bytes, Callable[[Tensor], list[Tensor]]]:
    content = io.BytesIO()
    torch.export.save(_program(predictor), content, extra_files={"metadata.json": about["metaexp"]})
    content.seek(0)
    loaded = torch.export.load(content).module()
    return content.getvalue(), lambda x: list(loaded(x))


def _program(predictor: Predictor) -> Any:
    rows = torch.export.Dim("rows", min=1)
    return torch.export.export(predictor, (_example(predictor, 3),), dynamic_shapes=({0: rows},), strict=False)


def _onnx(predictor: Predictor, about: dict[str, str]) -> tuple[bytes, Callable[[Tensor], list[Tensor]]]:
    import onnxruntime

    made = torch.onnx.export(
        _program(predictor), dynamo=True, input_names=["x"], output_names=predictor.outputs, verbose=False
    )
    proto = made.model_proto  # type: ignore[union-attr]
    for key, value in about.items():
        proto.metadata_props.add(key=key, value=value)
    content = proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return content, lambda x: [torch.from_numpy(np.asarray(y)) for y in session.run(None, {"x": x.numpy()})]


def _apart(model: Any, x: Tensor, again: Callable[[Tensor], list[Tensor]]) -> float:
    """Largest difference from what the estimator predicts for x, relative to the largest prediction."""
    wanted, found = expected(model, x), [part.double().numpy() for part in again(x)]
    scale = max(float(np.abs(part).max()) for part in wanted) or 1.0
    return max(float(np.abs(a - b).max()) for a, b in zip(found, wanted, strict=True)) / scale


def expected(model: Any, x: Tensor) -> list[np.ndarray]:
    """What the estimator predicts for x as the exported predictor takes it: a list of its outputs, float64."""
    inputs = model.source.inputs
    ready = inputs(x) if isinstance(inputs, ArrayInputs) else x
    family = model.learner.family
    made = model._outputs(model._fitted, ready.to(family.device, family.dtype)).double().cpu().numpy()
    if isinstance(model, Classifier):
        powers = np.exp(made - made.max(1, keepdims=True))
        return [powers / powers.sum(1, keepdims=True)]
    mean, std = made[:, : family.y_dim], made[:, family.y_dim :]
    if hasattr(family, "y_mean"):
        scale = family.y_std.cpu().numpy()
        mean, std = mean * scale + family.y_mean.cpu().numpy(), std * scale if std.size else std
    return [mean, std] if model.gaussian else [mean]


@contextmanager
def _silent() -> Iterator[None]:
    """The exporters' own notes are about code that the user did not write."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _weights(model: Any, about: dict[str, str]) -> bytes:
    """`adapted.NAME` (what the task's predictor consists of) and `learner.NAME` (the run's own weights)."""
    from safetensors.torch import save

    paths, _ = tree_flatten_with_path(model._fitted.adapted)
    tensors = {
        "adapted" + "".join(f".{getattr(k, 'key', getattr(k, 'idx', k))}" for k in keys): leaf
        for keys, leaf in paths
        if isinstance(leaf, Tensor)
    }
    tensors |= {f"learner.{name}": value for name, value in model.learner.state_dict().items()}
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return partial(save, metadata=about)(plain)
