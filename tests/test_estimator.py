"""`metaexp.load`: a trained run as an estimator, against the run's own scores and against plain NumPy."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import ROOT
from fake_omniglot import write_packed
from small_runs import contents, own_package, train

import metaexp
from metaexp.errors import CheckpointError, ConfigError, DataError
from metaexp.estimator import Classifier, Regressor
from metaexp.run.restore import open_config, restore
from metaexp.tasks.placeholder import absent, keep
from metaexp.tasks.sine import Sine

SHIPPED = ROOT / "scripts/runs/sine_r2d2"


@pytest.fixture(scope="module")
def sine() -> Regressor:
    made = metaexp.load(SHIPPED)
    assert isinstance(made, Regressor)
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a user's package, on the Python path: (package, groups, folder)."""
    folder = tmp_path_factory.mktemp("own")
    package, groups = own_package(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield package, groups, folder
    for name in [name for name in sys.modules if name.startswith(package)]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def classes(place: Any) -> dict[str, Classifier]:
    """Loaded classification runs by the name of their method."""
    package, groups, folder = place
    made = {}
    for algo in ("protonet", "r2d2", "maml", "joint"):
        more = ["algo.embedding=4"] if algo == "protonet" else []
        run = train(folder, f"algo={algo}", "task=vectors", f"name={algo}", *more, extra=groups)
        made[algo] = metaexp.load(str(run), trust=[package])
    return made  # type: ignore[return-value]


def unequal(seed: int, counts: dict[Any, int]) -> tuple[np.ndarray, np.ndarray]:
    """Examples in random order, `counts` of each label, around points of the plane that are far apart."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.array(list(counts)), list(counts.values())))
    centres = {label: 4 * np.array([np.cos(2.5 * i), np.sin(2.5 * i)]) for i, label in enumerate(counts)}
    return np.stack([centres[label] for label in labels]) + 0.1 * random.normal(size=(len(labels), 2)), labels


# --- regression


def test_it_does_what_the_test_of_the_run_did(sine: Regressor) -> None:
    family = sine.learner.family
    episode = family.sample("test", torch.arange(200))
    with np.load(SHIPPED / "test_scores.npz") as file:
        told = file["mse"][:200, -1]
    before = contents(SHIPPED)
    found = []
    for i in range(200):
        (x, y), (q, true) = ([part.numpy()[i] for part in examples] for examples in (episode.support, episode.query))
        assert sine.fit(x, y) is sine
        found.append(float(np.mean((sine.predict(q) - true) ** 2)))
    assert np.allclose(found, told, rtol=0.05, atol=1e-4)  # one task at a time: another order of sums
    assert abs(np.mean(found) - told.mean()) < 0.02 * told.mean()
    assert contents(SHIPPED) == before


def test_it_learns_sines_that_it_has_never_seen(sine: Regressor) -> None:
    random = np.random.default_rng(3)
    for amplitude, phase in random.uniform((0.5, 0), (5, 3), size=(30, 2)):
        x, q = random.uniform(-5, 5, (10, 1)), np.linspace(-4.5, 4.5, 100)[:, None]
        true = amplitude * np.sin(q[:, 0] - phase)
        predicted = sine.fit(x.tolist(), amplitude * np.sin(x[:, 0] - phase)).predict(q)
        assert predicted.shape == (100,)
        assert predicted.dtype == np.float64
        r2 = 1 - np.mean((predicted - true) ** 2) / true.var()
        assert sine.score(q, true) == pytest.approx(r2, abs=1e-12)
        assert r2 > 0.9
    assert sine.predict(q[:0]).shape == (0,)


def test_shapes_of_y_are_kept_and_fit_forgets(sine: Regressor) -> None:
    x = np.linspace(-4, 4, 12)[:, None]
    column = sine.fit(x, 2 * np.sin(x)).predict(x)
    assert column.shape == (12, 1)
    other = sine.fit(x, 1 + 0 * x[:, 0]).predict(x)
    assert np.array_equal(sine.fit(x, 2 * np.sin(x)[:, 0]).predict(x), column[:, 0])
    assert not np.allclose(other, column[:, 0], atol=0.1)
    assert sine.score(x, 2 * np.sin(x)) > 0.99
    single = sine.predict(x[3:4])
    assert single == pytest.approx(column[3], abs=1e-5)  # one input at a time or all together


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (np.zeros(4), np.zeros(4), r"x has shape \[4\]: must be \[n, 1\]; x.reshape\(-1, 1\) makes it so"),
        (np.zeros((4, 2)), np.zeros(4), r"x has shape \[4, 2\]: must be \[n, 1\]$"),
        (1.0, 2.0, r"x has shape \[\]"),
        (np.zeros((4, 1)), np.zeros(3), r"y has shape \[3\]: must be \[4\] or \[4, 1\]"),
        (np.zeros((4, 1)), np.zeros((4, 2)), r"y has shape \[4, 2\]"),
        (np.zeros((0, 1)), np.zeros(0), "fit needs at least one"),
        (np.full((4, 1), np.nan), np.zeros(4), "x: holds a value that is not finite"),
        (np.zeros((4, 1)), [1, 2, np.inf, 3], "y: holds a value that is not finite"),
        ([["a"]], [1.0], "x: holds <U1, must be numbers"),
        ([[1.0], [1.0, 2.0]], [1.0, 2.0], "its rows differ in length"),
    ],
)
def test_what_cannot_be_is_one_line(sine: Regressor, x: Any, y: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        sine.fit(x, y)
    assert len(str(error.value).splitlines()) == 1


def test_further_refusals(sine: Regressor) -> None:
    with pytest.raises(ValueError, match="predict before fit"):
        Regressor(SHIPPED).predict(np.zeros((3, 1)))
    sine.fit(np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(ValueError, match="predicts no standard deviation"):
        sine.predict(np.zeros((3, 1)), return_std=True)
    with pytest.raises(ValueError, match=r"y has shape \[2\]: must be \[3\]"):
        sine.score(np.zeros((3, 1)), np.zeros(2))
    with pytest.raises(ValueError, match="weights=newest"):
        metaexp.load(SHIPPED, weights="newest")
    with pytest.raises(CheckpointError, match="no such run folder"):
        metaexp.load(SHIPPED / "nowhere")
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        metaexp.lod  # type: ignore[attr-defined]  # noqa: B018


def test_weights_are_chosen(sine: Regressor, tmp_path: Path) -> None:
    assert "algo=r2d2, task=sine, x_shape=(1,), step=20000" in repr(sine)
    run = train(tmp_path, "algo=r2d2", "task=sine", "optimizer.lr=5.0", "val.every=2")  # it only gets worse
    best, last = metaexp.load(run), metaexp.load(run, weights="last")
    assert (best.step, last.step) == (json.loads((run / "result.json").read_text())["val"]["step"], 6)
    assert best.step < 6
    x = np.linspace(-4, 4, 10)[:, None]
    one, two = (made.fit(x, np.sin(x[:, 0])).predict(x + 0.1) for made in (best, last))
    assert not np.allclose(one, two, atol=0.01)


def test_gaussian_predictions_have_a_deviation(place: Any) -> None:
    package, groups, folder = place
    run = train(folder, "algo=gauss", "task=sine", "name=gauss", extra=groups)
    with pytest.raises(ConfigError, match=rf"trust=\[{package}\]"):
        metaexp.load(run)
    made = metaexp.load(run, trust=[package])
    assert isinstance(made, Regressor)
    y = np.array([1.0, 2.0, 6.0])
    mean, std = made.fit(np.zeros((3, 1)), y).predict(np.zeros((5, 1)), return_std=True)
    shift = float(made.learner.shift.detach())
    assert mean == pytest.approx(np.full(5, 3 + shift), abs=1e-5)
    assert std == pytest.approx(np.full(5, y.std(ddof=1)), abs=1e-5)
    assert np.array_equal(made.predict(np.zeros((5, 1))), mean)
    assert made.score(np.zeros((3, 1)), y) == pytest.approx(1 - np.mean((mean[0] - y) ** 2) / y.var(), abs=1e-6)


def test_standardised_data_go_in_and_come_out_in_their_own_units(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.normal(50, 20, (200, 2))
    tasks = np.repeat(np.arange(10), 20)
    np.savez(tmp_path / "data.npz", x=x, y=1000 + 30 * x[:, 0] * (1 + tasks), task=tasks)
    typed = [f"task.files=[{tmp_path}/data.npz]", "task.standardise=xy", "task.shots=5", "task.queries=5"]
    made = metaexp.load(train(tmp_path, "algo=r2d2", "task=arrays", *typed))
    family, learner = made.learner.family, made.learner
    support, query = x[:6], x[6:9]
    y = 1000 + 90 * support[:, 0]
    z = [(part - family.x_mean.numpy()) / family.x_std.numpy() for part in (support, query)]
    target = (y[:, None] - family.y_mean.numpy()) / family.y_std.numpy()
    with torch.no_grad():
        features = [learner.features(torch.tensor(part, dtype=torch.float32)).double().numpy() for part in z]
    centred, middle = features[0] - features[0].mean(0), target.mean(0)
    strength = float(learner.log_strength.detach().exp()) * 6
    w = centred.T @ np.linalg.solve(centred @ centred.T + strength * np.eye(6), target - middle)
    scale, shift = float(learner.scale.detach()), float(learner.shift.detach())
    plain = shift + middle + scale * (features[1] - features[0].mean(0)) @ w
    expected = (plain * family.y_std.numpy() + family.y_mean.numpy())[:, 0]
    assert made.fit(support, y).predict(query) == pytest.approx(expected, rel=1e-4)


def test_data_need_not_be_here(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same predictions in the data's own units without the files; whatever needs tasks reports what is missing."""
    random = np.random.default_rng(0)
    x, tasks = random.normal(50, 20, (200, 2)), np.repeat(np.arange(10), 20)
    file = tmp_path / "data.npz"
    np.savez(file, x=x, y=1000 + 30 * x[:, 0] * (1 + tasks), task=tasks)
    typed = [f"task.files=[{file}]", "task.standardise=xy", "task.shots=5", "task.queries=5"]
    runs = [train(tmp_path, f"algo={algo}", "task=arrays", *typed, f"name={algo}") for algo in ("r2d2", "joint")]
    here = metaexp.load(runs[0]).fit(x[:6], 1000 + 90 * x[:6, 0]).predict(x[6:30])
    assert not caplog.records
    file.rename(tmp_path / "elsewhere.npz")
    gone = metaexp.load(runs[0]).fit(x[:6], 1000 + 90 * x[:6, 0]).predict(x[6:30])
    assert np.array_equal(here, gone)
    (record,) = caplog.records
    assert str(file) in record.getMessage()
    with pytest.raises(DataError, match=re.escape(str(file))):
        metaexp.load(runs[1])  # chooses its fine-tuning rate on validation tasks
    with pytest.raises(DataError, match=re.escape(str(file))):
        restore(Path(runs[0]), open_config(Path(runs[0])))  # to be tested again it needs them


def test_pictures_need_not_be_here(tmp_path: Path) -> None:
    """Bytes are still treated as images: 255 is 1. Ways that the network does not support are refused as before."""
    data = write_packed(tmp_path / "data")
    typed = ["task=omniglot", f"task.root={data}", "task.queries=1", "model.filters=4", "test.curve_shots=[]"]
    runs = [train(tmp_path, f"algo={algo}", *typed, f"name={algo}") for algo in ("protonet", "maml")]
    pictures = np.random.default_rng(0).integers(0, 256, (12, 1, 2, 2), dtype=np.uint8)
    pictures = pictures.repeat(14, 2).repeat(14, 3)
    labels = list("abcde")

    def predicted(run: str, x: np.ndarray) -> np.ndarray:
        return metaexp.load(run).fit(x[:5], labels).predict_proba(x[5:])

    here = [predicted(run, pictures) for run in runs]
    data.rename(tmp_path / "elsewhere")
    for run, proba in zip(runs, here, strict=True):
        assert np.array_equal(predicted(run, pictures), proba)
        assert predicted(run, pictures / 255) == pytest.approx(proba, abs=1e-5)
        assert np.ptp(proba) > 1e-5  # they do differ
    with pytest.raises(ValueError, match="made for 5"):
        metaexp.load(runs[1]).fit(pictures[:2], ["a", "b"])


def test_a_family_with_its_own_loss_needs_its_data() -> None:
    class Own(Sine):
        @property
        def loss(self) -> Any:
            return super().loss

    assert keep(Own()) is None
    kept = keep(Sine())
    assert kept is not None
    gone = absent(kept, "the disk is not plugged in")
    assert (gone.x_shape, gone.y_dim, gone.sizes, gone.classification) == ((1,), 1, Sine().sizes, False)
    for draw in (lambda: gone.sample("val", torch.arange(2)), lambda: gone.pool("val", torch.arange(2), 3)):
        with pytest.raises(DataError, match="not plugged in"):
            draw()


# --- classification


def test_a_fit_that_fails_leaves_the_one_before(sine: Regressor, classes: dict[str, Classifier]) -> None:
    x = np.linspace(-4, 4, 10)[:, None]
    before = sine.fit(x, np.sin(x)).predict(x)
    assert before.shape == (10, 1)
    made = classes["protonet"]
    draw = np.random.default_rng(0)
    pictures = draw.random((4, *made.x_shape))
    named = made.fit(pictures, np.array(["a", "b", "a", "c"])).predict(pictures)
    with patch.object(sine.learner, "path", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        sine.fit(x, np.sin(x[:, 0]))  # one dimension less
    with patch.object(made.learner, "path", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        made.fit(pictures, np.array([3, 4, 3, 5]))
    assert np.array_equal(sine.predict(x), before)
    assert np.array_equal(made.predict(pictures), named)


def test_the_threads_of_the_process_stay(sine: Regressor) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        metaexp.load(SHIPPED)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_prototypes_of_unequal_classes_with_any_labels(classes: dict[str, Classifier]) -> None:
    made = classes["protonet"]
    for seed in range(50):
        counts = {"pear": 1, "apple": 5, "fig": 2, "quince": 3}  # four ways; the run was trained with three
        (x, y), (q, labels) = unequal(seed, counts), unequal(seed + 1000, counts)
        proba = made.fit(x, y).predict_proba(q)
        assert list(made.classes_) == ["apple", "fig", "pear", "quince"]
        with torch.no_grad():
            z, zq = (made.learner.features(torch.tensor(p, dtype=torch.float32)).double().numpy() for p in (x, q))
        means = np.stack([z[y == label].mean(0) for label in made.classes_])
        distance = ((zq[:, None] - means) ** 2).sum(-1)
        expected = np.exp(-distance + distance.min(1, keepdims=True))
        assert np.allclose(proba, expected / expected.sum(1, keepdims=True), atol=1e-4)
        assert np.allclose(proba.sum(1), 1)
        assert np.array_equal(made.predict(q), made.classes_[proba.argmax(1)])
        assert made.score(q, labels) == np.mean(made.predict(q) == labels)


@pytest.mark.parametrize("algo", ["protonet", "r2d2", "maml", "joint"])
def test_labels_and_order_do_not_matter(classes: dict[str, Classifier], algo: str) -> None:
    made = classes[algo]
    counts = {3: 2, -1: 4, 8: 3}
    (x, y), (q, _) = unequal(0, counts), unequal(1, counts)
    first = made.fit(x, y).predict_proba(q)
    assert list(made.classes_) == [-1, 3, 8]
    assert first.shape == (9, 3)
    names = np.array(["a", "b", "c"])[np.searchsorted(made.classes_, y)]
    turn = np.random.default_rng(5).permutation(len(y))
    again = made.fit(x[turn], names[turn][:, None]).predict_proba(q)
    assert np.allclose(again, first, atol=1e-4)
    assert set(made.predict(q)) <= {"a", "b", "c"}


@pytest.mark.parametrize(("algo", "good"), [("protonet", True), ("r2d2", True), ("joint", True), ("maml", False)])
def test_other_numbers_of_ways(classes: dict[str, Classifier], algo: str, good: bool) -> None:
    x, y = unequal(0, {"a": 2, "b": 2, "c": 1, "d": 3, "e": 1})
    if good:
        assert classes[algo].fit(x, y).predict_proba(x).shape == (9, 5)
    else:
        with pytest.raises(ValueError, match="y: holds 5 classes; MAML has one output per class and was made for 3"):
            classes[algo].fit(x, y)
    with pytest.raises(ValueError, match="y: holds 1 class; there must be at least 2"):
        classes[algo].fit(x, ["a"] * 9)


def test_labels_that_cannot_be(classes: dict[str, Classifier]) -> None:
    made, x = classes["protonet"], np.zeros((3, 2))
    for y, says in (
        ([0, 1], r"y has shape \[2\]: must be \[3\]"),
        (np.zeros((3, 2)), r"y has shape \[3, 2\]"),
        ([0, 1, np.nan], "y: holds a value that is not finite"),
        (np.array([0, "a", None], dtype=object), "labels must be of one kind"),
    ):
        with pytest.raises(ValueError, match=says):
            made.fit(x, y)
    with pytest.raises(ValueError, match="predict before fit"):
        made.__sklearn_clone__().predict(x)
    made.fit(*unequal(0, {0: 2, 1: 2}))
    with pytest.raises(ValueError, match=r"y has shape \[2\]: must be \[3\]"):
        made.score(x, [0, 1])


def test_bytes_are_scaled_as_the_runs_own_pictures(place: Any) -> None:
    package, groups, folder = place
    typed = ["algo=protonet", "task=pictures", "model=mlp", "algo.embedding=4", "name=pictures"]
    made = metaexp.load(train(folder, *typed, extra=groups), trust=package)
    x = np.random.default_rng(0).integers(0, 256, (6, 1, 1, 2), dtype=np.uint8)
    proba = made.fit(x, [0, 0, 1, 1, 2, 2]).predict_proba(x)  # type: ignore[union-attr]
    scaled = made.fit(x / 255, [0, 0, 1, 1, 2, 2]).predict_proba(x / 255)  # type: ignore[union-attr]
    assert np.array_equal(proba, scaled)
    for same in (x.astype(np.int64), x.tolist()):  # integers are bytes, whatever their container
        assert np.array_equal(proba, made.fit(same, [0, 0, 1, 1, 2, 2]).predict_proba(same))  # type: ignore[union-attr]
    assert not np.allclose(proba, made.predict_proba(x.astype(float)))  # type: ignore[union-attr]


def test_importing_metaexp_and_reporting_need_no_torch() -> None:
    code = f"""
import sys, metaexp
from metaexp.report.command import report
report([{str(SHIPPED)!r}])
import metaexp.plots.style, metaexp.report.pictures
heavy = [name for name in ("torch", "lightning", "tensorboard") if name in sys.modules]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60, stdout=subprocess.DEVNULL)
