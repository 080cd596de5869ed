"""Exported predictors against the estimator: torch.export and ONNX, 1, 3 and 50 rows, five methods, named modes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from small_runs import train

import metaexp
from metaexp.adapt.export import export
from metaexp.errors import ConfigError
from metaexp.models.functional import functional_call

ROWS = (1, 3, 50)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures of 9 classes and a table of numbers in other units."""
    folder, random = tmp_path_factory.mktemp("export"), np.random.default_rng(0)
    for i in range(9):
        (folder / f"pictures/class{i}").mkdir(parents=True)
        for j in range(4):
            Image.fromarray(random.integers(25 * i, 25 * i + 50, (18, 18), dtype=np.uint8)).save(
                folder / f"pictures/class{i}/{j}.png"
            )
    x = np.array([300.0, -2.0]) + np.array([40.0, 0.1]) * random.normal(size=(60, 2))
    np.savez(folder / "a.npz", x=x, y=7000 + x[:, 0] * 20, task=np.repeat(np.arange(6), 10))
    return folder


def picture_run(place: Path, *typed: str) -> Path:
    sizes = ["task.size=16", "task.channels=1", "task.ways=3", "task.queries=2", "task.split=[0.34,0.33,0.33]"]
    return train(place, "task=images", f"task.root={place / 'pictures'}", "cache=off", *sizes, *typed)


def fitted(run: Path, **how: Any) -> tuple[Any, Any]:
    """The estimator, adapted to a task; and 50 inputs as it and the exported predictor take them."""
    model, random = metaexp.load(run, **how), np.random.default_rng(1)
    if len(model.x_shape) == 3:
        x = random.random((6, *model.x_shape)).astype(np.float32)
        return model.fit(x, list("aabbcc")), random.random((50, *model.x_shape)).astype(np.float32)
    wide = model.x_shape == (2,)
    low, high = ([260.0, -2.1], [340.0, -1.9]) if wide else (-5, 5)
    x, new = (random.uniform(low, high, (n, *model.x_shape)).astype(np.float32) for n in (10, 50))
    return model.fit(x, (7000 + 20 * x[:, 0]) if wide else np.sin(x[:, 0])), new


def outputs(model: Any, x: np.ndarray) -> list[np.ndarray]:
    if hasattr(model, "predict_proba"):
        return [model.predict_proba(x)]
    made = model.predict(x, return_std=True) if model.gaussian else (model.predict(x),)
    return [part.reshape(len(x), -1) for part in made]


def check(model: Any, x: np.ndarray, folder: Path) -> dict[str, Any]:
    """Both kinds of file agree with the estimator; returns what they say of themselves."""
    export(model, folder / "p.pt2")
    extra = {"metadata.json": ""}
    loaded = torch.export.load(folder / "p.pt2", extra_files=extra).module()
    export(model, folder / "p.onnx")
    session = onnxruntime.InferenceSession(folder / "p.onnx", providers=["CPUExecutionProvider"])
    told = {entry.key: entry.value for entry in onnx.load(folder / "p.onnx").metadata_props}
    assert json.loads(told["metaexp"]) == json.loads(extra["metadata.json"])
    for rows in ROWS:
        wanted = outputs(model, x[:rows])
        with torch.no_grad():
            found = [part.numpy() for part in loaded(torch.from_numpy(x[:rows]))]
        for made in (found, session.run(None, {"x": x[:rows]})):
            assert len(made) == len(wanted)
            for one, right in zip(made, wanted, strict=True):
                assert one.shape == right.shape
                assert np.abs(one - right).max() <= 1e-5 * np.abs(right).max()
    assert [node.name for node in session.get_outputs()] == json.loads(told["metaexp"])["outputs"]
    return json.loads(told["metaexp"])


SMALL = {"cnp": "algo.width=16", "incontext": "algo.width=16"}


@pytest.mark.parametrize("algo", ["maml", "r2d2", "cnp", "incontext"])
def test_regression(algo: str, place: Path) -> None:
    run = train(place, f"algo={algo}", "task=sine", *([SMALL[algo]] if algo in SMALL else []))
    model, x = fitted(run)
    told = check(model, x, place)
    assert told["outputs"] == (["prediction", "std"] if algo == "cnp" else ["prediction"])
    assert (told["algo"], told["support"], told["x_shape"]) == (algo, 10, [1])


def test_units_are_baked_in(place: Path) -> None:
    """Inputs around 300 and targets around 13,000 of a run that saw them standardised."""
    files = [f"task.files=[{place / 'a.npz'}]", "task.standardise=xy", "task.shots=4", "task.queries=4"]
    model, x = fitted(train(place, "algo=maml", "task=arrays", *files))
    assert np.abs(model.predict(x)).max() > 5000
    assert check(model, x, place)["x"] == "as given to predict"


def test_prototypes_of_pictures(place: Path) -> None:
    model, x = fitted(picture_run(place, "algo=protonet", "model.filters=4"))
    assert check(model, x, place)["classes"] == ["a", "b", "c"]


@pytest.mark.tier("long")
def test_batch_statistics(place: Path) -> None:
    """Of the support set, or of it and one query at a time; not of the other rows of a call."""
    run = picture_run(place, "algo=maml", "model.filters=4")
    for mode in ("single", "support"):
        model, x = fitted(run, normalise=mode)
        assert check(model, x, place)["normalise"] == mode
    model, _ = fitted(run, normalise="queries")
    with pytest.raises(ConfigError, match=r"^normalise=queries: .* normalise=single or normalise=support$"):
        export(model, place / "none.pt2")
    assert not (place / "none.pt2").exists()


def test_weights(place: Path) -> None:
    """The adapted parameters, put into the network by hand, predict what the estimator predicts."""
    model, x = fitted(train(place, "algo=maml", "task=sine", "name=weights"))
    export(model, place / "w.safetensors")
    with safe_open(place / "w.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert json.loads(file.metadata()["metaexp"])["task"] == "sine"
    adapted = {name.removeprefix("adapted."): value for name, value in tensors.items() if name.startswith("adapted.")}
    with torch.no_grad():
        made = functional_call(model.learner.model, adapted, (torch.from_numpy(x),))
    assert np.allclose(made.numpy()[:, 0], model.predict(x), atol=1e-6)
    assert torch.equal(tensors["learner.model.head.weight"], model.learner.model.head.weight)
    assert not torch.equal(adapted["head.weight"], tensors["learner.model.head.weight"])


def test_a_missing_package_is_named_with_its_extra(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metaexp.adapt import export as module

    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    for name, package in (("p.onnx", "onnx"), ("p.safetensors", "safetensors")):
        with pytest.raises(ConfigError, match=rf"needs the package {package}; pip install 'metaexp\[export\]'"):
            module.need(Path(name))
