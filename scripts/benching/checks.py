"""Equal work: the same weights and the same batch must give the same meta-gradient as plain PyTorch.

The reference is bench_plain.py (its loop over tasks, against which every other peer was checked); ours are the learner
that the work's own command line builds, mapped by vmap and by a loop, and one outer step of the compiled path.
"""

import importlib.util
import logging
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benching.processes import run
from benching.works import WORKS, Settings, overrides
from metaexp.config.settings import load
from metaexp.inner import minibatches
from metaexp.outer.loaders import Span
from metaexp.training.build import Experiment
from metaexp.types import Episode, Examples

Arrays = dict[str, np.ndarray]
TOLERANCE = {"64-true": 1e-10, "32": 1e-5}
REGRESSION = ("sine", "reptile")


def common(folder: Path) -> ModuleType:
    """The peers' module common.py: works, weights, batches."""
    spec = importlib.util.spec_from_file_location("peers_common", folder / "common.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reference(work: str, folder: Path, python: str, double: bool) -> Arrays:
    """Loss and meta-gradient of plain PyTorch, keyed by the peers' parameter names."""
    with tempfile.TemporaryDirectory(prefix="metaexp-bench-") as temporary:
        path = Path(temporary, "check.npz")
        words: list[str | Path] = [python, "-W", "ignore", folder / "bench_plain.py", "--variant", "loop"]
        words += ["--work", work, "--check", path]
        done = run(words + (["--f64"] if double else []), threads=1)
        if done.code != 0 or not path.exists():
            raise RuntimeError(f"bench_plain.py --check: {done.reason()}")
        with np.load(path) as file:
            return dict(file)


def our_name(peer: str, names: list[str]) -> str:
    """Our name for the peers' l1.weight, conv0.bias, bn3.weight, head.bias; `names`: those of our meta-parameters."""
    layer, _, kind = peer.rpartition(".")
    mlp = {"l1": "body.0", "l2": "body.1", "l3": "head"}
    groups = {"conv": "convolutions", "bn": "norms"}
    ours = mlp.get(layer) or (f"{groups[layer[:-1]]}.{layer[-1]}" if layer[:-1] in groups else layer)
    found = [name for name in names if name == f"model.{ours}.{kind}"]
    if not found:
        raise RuntimeError(f"{peer}: no parameter model.{ours}.{kind} among {', '.join(names)}")
    return found[0]


def episode(batch: tuple[np.ndarray, ...], kind: str, ways: int, dtype: torch.dtype) -> Episode:
    """The peers' batch as an Episode; classes become one-hot vectors."""
    key = torch.arange(len(batch[0]))
    parts = [torch.from_numpy(part) for part in batch]
    parts = [part.to(dtype) if part.is_floating_point() else F.one_hot(part, ways).to(dtype) for part in parts]
    if kind != "reptile":
        return Episode(Examples(*parts[:2]), Examples(*parts[2:]), key, {})
    # The peers' minibatches [tasks, steps, size, 1] are already drawn. Our learner draws its own: consecutive pieces of
    # a permutation of the support rows that depends only on the key. So the rows of one epoch are placed where that
    # permutation will find them, and the learner needs no change.
    tasks, steps, size, _ = parts[0].shape
    n = steps * size
    rows = torch.stack([_order(k, n, size, steps) for k in key])  # [tasks, n]
    support = []
    for part in parts:
        flat = part.reshape(tasks, n, 1)
        support.append(torch.empty_like(flat).scatter_(1, rows.unsqueeze(-1), flat))
    return Episode(Examples(*support), Examples(*(part[:, :1] for part in support)), key, {})


def _order(key: torch.Tensor, n: int, size: int, steps: int) -> torch.Tensor:
    rows = minibatches(key, 64, n, size, steps)
    assert rows is not None
    return rows.flatten()


class _Lines(logging.Handler):
    """Keeps what the package logs."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        logging.getLogger("metaexp").setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Case:
    """One work in one precision: our learner and outer loop with the peers' weights and batch."""

    def __init__(self, work: str, peers: ModuleType, omniglot: Path | None, precision: str, extra: Settings):
        self.work, self.peers, self.kind = work, peers, WORKS[work].kind
        self.config, self.data = peers.WORKS[work], peers.Data(work, 0)
        # SGD at rate 1 exposes the meta-gradient of a whole outer step: weights before minus weights after.
        steps = {"optimizer": "sgd", "optimizer.lr": "1.0", "optimizer.schedule": "null", "steps": "1"}
        device = {"device": "cpu", "device.threads": "1", "device.precision": precision}
        root = {"task.root": f'"{omniglot}"'} if WORKS[work].omniglot else {}
        own = {key: value for key, value in WORKS[work].settings.items() if not key.startswith("optimizer.")}
        batch = {"meta_batch": str(self.config["tasks"])}
        self.settings = {**own, **steps, **device, **root, **batch, **extra, "device.precision": precision}
        self.batch = self.data.batch()

    def parts(self, compile: bool) -> Experiment:
        """Fresh parts: configuration, learner, outer loop."""
        parts = Experiment(load(overrides({**self.settings, "compile": str(compile).lower()})))
        params = parts.learner.meta_parameters()
        with torch.no_grad():
            for name, value in self.peers.init_params(self.work, 0):
                params[our_name(name, list(params))].copy_(torch.from_numpy(value))
        return parts

    def gradient(self, mapping: str) -> Arrays:
        """Loss and meta-gradient by `learner.meta_gradient`, eager."""
        parts = self.parts(compile=False)
        parts.learner.set_mapping(mapping, "cpu")
        params = {name: p.detach() for name, p in parts.learner.meta_parameters().items()}
        grads, loss, _ = parts.learner.meta_gradient(params, self._episode(parts))
        return self._named(grads, loss)

    def compiled(self) -> Arrays:
        """Loss and meta-gradient by one outer step of the compiled path, as a normal run executes it."""
        parts = self.parts(compile=True)
        said = _Lines()
        logging.getLogger("metaexp").addHandler(said)
        batch = self._episode(parts)
        parts.learner.train_batch = lambda indices: batch
        params = parts.learner.meta_parameters()
        before = {name: p.detach().clone() for name, p in params.items()}
        parts.training.run(Span(0, 1))
        if not parts.training.compiled:
            raise RuntimeError(said.lines[-1] if said.lines else "not compiled")
        return self._named({name: before[name] - p.detach() for name, p in params.items()}, parts.training.loss())

    def _episode(self, parts: Experiment) -> Episode:
        return episode(self.batch, self.kind, self.config.get("ways", 0), parts.dtype)

    def _named(self, grads: dict[str, torch.Tensor], loss: torch.Tensor | float) -> Arrays:
        # Reptile's peers report the change of the weights, eps * mean(theta_i - theta), and the last inner loss.
        scale = -self.config["eps"] if self.kind == "reptile" else 1.0
        names = [name for name, _ in self.peers.init_params(self.work, 0)]
        ours = {name: scale * grads[our_name(name, list(grads))].numpy() for name in names}
        return ours if self.kind == "reptile" else {**ours, "loss": np.array(float(loss))}


def difference(ours: Arrays, reference: Arrays) -> float:
    """Relative Euclidean distance of the whole gradient, or of the loss if larger; NaN counts as infinite."""
    names = [name for name in reference if name != "loss"]
    flat = [np.concatenate([np.ravel(side[n]).astype(np.float64) for n in names]) for side in (ours, reference)]
    found = float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1]))
    if "loss" in ours:
        found = max(found, abs(float(ours["loss"]) / float(reference["loss"]) - 1))
    return found if np.isfinite(found) else float("inf")


def check(
    work: str, folder: Path, python: str, omniglot: Path | None, compiled: bool, extra: Settings | None = None
) -> dict[str, Any]:
    """Compare one work: {"equal", "errors": {precision: {path: relative error}}, "why"}.

    Float64 decides. For regression float32 counts too; in convolutional networks a single ReLU whose input changes sign
    between two orders of summation moves the gradient by up to 1e-2, so there float32 is only reported.
    """
    torch.set_num_threads(1)
    errors: dict[str, dict[str, float]] = {}
    try:
        for precision in TOLERANCE:
            found = reference(work, folder, python, precision == "64-true")
            case = Case(work, common(folder), omniglot, precision, extra or {})
            paths = {mapping: difference(case.gradient(mapping), found) for mapping in ("vmap", "loop")}
            if compiled:
                paths["compiled"] = difference(case.compiled(), found)
            errors[precision] = paths
    except Exception as error:  # a work that cannot be compared is not timed; the others continue
        line = " ".join(str(error).split())[:300]
        return {"equal": False, "errors": errors, "why": f"{type(error).__name__}: {line}"}
    return verdict(WORKS[work].kind, errors)


def verdict(kind: str, errors: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Whether the errors are below the tolerances that count for this kind of work."""
    counted = TOLERANCE if kind in REGRESSION else {"64-true": TOLERANCE["64-true"]}
    wrong = [
        f"{path} differs by {error:.1e} in precision {precision} (allowed {limit:g})"
        for precision, limit in counted.items()
        for path, error in errors[precision].items()
        if not error <= limit
    ]
    return {"equal": not wrong, "errors": errors, "why": "; ".join(wrong)}


def shown(work: str, result: dict[str, Any]) -> str:
    """One line for the terminal."""
    kinds = [
        f"{precision}: " + ", ".join(f"{path} {error:.0e}" for path, error in paths.items())
        for precision, paths in result["errors"].items()
    ]
    return f"{work}: {'equal' if result['equal'] else 'REFUSED, ' + result['why']} ({' | '.join(kinds)})"
