"""The estimators of `metaexp.load` as copies: pickle, copy, joblib; and without scikit-learn."""

import copy
import importlib
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from small_runs import SHIPPED, own_package, train, waves

import metaexp
from metaexp.config.settings import load
from metaexp.errors import CheckpointError, ConfigError
from metaexp.estimator import Regressor
from metaexp.run.source import Source
from metaexp.tasks.placeholder import Absent
from metaexp.training.build import Experiment


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
