"""scripts/tables.py: the command on made data."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from made_pools import made_pool
from yaml import safe_dump, safe_load

pytest.importorskip("sklearn")
sys.path.insert(0, str(ROOT / "scripts"))
import tables as command
from tabling import floors, table, trials
from tabling.page import between

from metaexp.errors import DataError


def write_counties(folder: Path, tasks: int = 20) -> None:
    """Made lines in the layout of radon.npz."""
    pool = made_pool(tasks, 12)
    split = np.repeat([0, 1, 2], [tasks - 8, 4, 4])
    (folder / "radon").mkdir(parents=True)
    names = {"feature_names": np.array(["a", "b"]), "task_names": np.array([f"county {i}" for i in range(tasks)])}
    rest = {"target_name": np.array("level"), "split": split.astype(np.int8)}
    np.savez(folder / "radon" / "radon.npz", x=pool.x.astype(np.float32), y=pool.y, task=pool.task, **names, **rest)


PLAN = safe_load((ROOT / "scripts" / "tables.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made_study(tmp_path_factory):
    """A study on made data with two methods: (folder, its JSON)."""
    home = tmp_path_factory.mktemp("tables")
    write_counties(home / "data")
    plan = PLAN | {"studies": {"radon": PLAN["studies"]["radon"] | {"steps": 8, "search_steps": 2}}}
    kinds = {name: one for name, one in PLAN["methods"]["regression"].items() if name in ("r2d2", "joint", "maml")}
    (home / "plan.yaml").write_text(safe_dump(plan | {"methods": {"regression": kinds}}))
    return home, run_command(home, "radon", "--methods", "r2d2,joint")


def run_command(home: Path, *words: str) -> dict:
    """The command with its quickest baselines."""
    places = ["--runs", home / "runs", "--data", home / "data", "--plan", home / "plan.yaml", "--out", home / "out"]
    with pytest.MonkeyPatch.context() as patch:
        for name in set(floors.REGRESSION) - {"global mean", "task mean", "pooled regression + task offset"}:
            patch.delitem(floors.REGRESSION, name)
        command.main([*words, *map(str, places), "--page", str(home / "page.md")])
    return json.loads((home / "out" / "radon.json").read_text())


def test_a_study_from_its_table_to_its_page(made_study):
    home, found = made_study
    n = table.numbers(table.radon(home / "data"))
    cell = trials.random_shots(n, "test", (1, 2, 5), repeats=5)["5 shots"]
    errors = {}
    for trial in cell:
        error = np.sqrt(np.mean((n.y[trial.query] - n.y[trial.support].mean()) ** 2))
        errors.setdefault(trial.task, []).append(error)
    rows = found["cells"]["5 shots"]["rmse"]["rows"]
    assert rows["task mean"]["mean"] == pytest.approx(np.mean([np.mean(part) for part in errors.values()]))
    assert rows["task mean"]["tasks"] == 4
    assert {name for name in rows if not rows[name]["baseline"]} == {"r2d2", "joint"}
    assert rows["r2d2"]["seeds"] == 2
    told = found["methods"]["r2d2"][0]
    assert [step for step, _ in told["curve"][0]] == [2, 3, 5, 6, 8]
    assert told["chosen"] == f"optimizer.lr={[0.001, 0.005][int(np.argmax(told['search']))]}"
    best = found["cells"]["5 shots"]["rmse"]["best_baseline"]
    assert rows["r2d2"]["better"][best][0] == pytest.approx(rows[best]["mean"] - rows["r2d2"]["mean"])
    shown = (home / "page.md").read_text()
    assert between(rows["r2d2"]["mean"], rows["r2d2"]["half"]) in shown
    assert "In `radon` these methods were not run so far: `maml`." in shown
    assert found["versions"]["torch"] in shown


def test_a_finished_run_is_not_made_again(made_study, capsys):
    home, found = made_study
    files = {file: file.stat().st_mtime_ns for file in (home / "runs").rglob("*.pt")}
    assert len(files) == 2 * (2 + 2)
    again = run_command(home, "radon", "--methods", "r2d2,joint")
    assert again["cells"] == found["cells"]
    assert {file: file.stat().st_mtime_ns for file in (home / "runs").rglob("*.pt")} == files
    with pytest.raises(SystemExit, match=r"seed0.json: made with other settings \(steps=4 steps=8\); move it away"):
        run_command(home, "radon", "--methods", "r2d2", "--budget", "0.5")


def test_predictions_in_batches_are_those_of_the_estimator(made_study):
    """Padding and batches change nothing, and the targets of queries are not looked at."""
    from tabling import comparing, methods

    home, _ = made_study
    source = table.radon(home / "data")
    n = table.numbers(source)
    typed = [*PLAN["common"], *comparing.words(source, home / "runs" / "radon" / "table.csv")]
    typed += PLAN["studies"]["radon"]["words"]
    coder = comparing.Coder(source, n, typed)
    typed += ["algo=maml", "algo.inner_steps=3", "algo.test_steps=3"]
    learner = methods.experiment(typed, coder.family, 0, 8).learner
    rows = [n.rows[task] for task in n.split["test"]]
    asked = [trials.Trial("a", rows[0][:3], rows[0][3:9]), trials.Trial("b", rows[1][:3], rows[1][3:5])]
    asked.append(trials.Trial("c", rows[2][:1], rows[2][3:]))
    together = coder.ask(learner, asked)
    spoilt = coder.y.copy()
    for trial, made in zip(asked, together, strict=True):
        coder.y = spoilt.copy()
        coder.y[coder.place[trial.query]] = 1e6
        assert np.allclose(coder.ask(learner, [trial])[0], made, atol=1e-5)
        assert len(made) == len(trial.query)
    network, y = learner.model, n.y[asked[0].support]
    params = {name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()}
    scaled = torch.tensor((y - coder.mean) / coder.std, dtype=torch.float32)[:, None]
    known = torch.tensor(spoilt_inputs(coder, asked[0].support))
    for _ in range(3):  # plain gradient descent, by hand
        loss = ((torch.func.functional_call(network, params, (known,)) - scaled) ** 2).mean()
        grads = torch.autograd.grad(loss, list(params.values()))
        params = {k: (v - 0.01 * g).detach().requires_grad_() for (k, v), g in zip(params.items(), grads, strict=True)}
    own = torch.func.functional_call(network, params, (torch.tensor(spoilt_inputs(coder, asked[0].query)),))
    assert np.allclose(own.detach().numpy()[:, 0] * coder.std + coder.mean, together[0], atol=1e-4)


def spoilt_inputs(coder, rows: np.ndarray) -> np.ndarray:
    return coder.x[coder.place[rows]].astype(np.float32)


def test_what_is_missing_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["atlantis", "--runs", str(tmp_path)])
    assert stopped.value.code == 2
    assert "atlantis: no study; there are radon, gapminder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["movielens", "--runs", str(tmp_path)])
    assert "movielens needs --runs and --movielens" in capsys.readouterr().err
    out = ["--out", str(tmp_path / "out"), "--page", str(tmp_path / "p.md")]
    with pytest.raises(SystemExit) as stopped:
        command.main(["radon", "--runs", str(tmp_path / "r"), "--data", str(tmp_path), *out])
    assert stopped.value.code == 3
    assert "radon.npz: not there; --data names the folder that holds it" in capsys.readouterr().err


def write_hospitals(file: Path) -> None:
    """15 made hospitals with 20 patients each."""
    random = np.random.default_rng(0)
    lines = [f"{30000 + i % 15},{random.integers(2)},0,1,{i % 2},{1 + i % 3},9" for i in range(300)]
    file.write_text("provnum,died,hmo,white,age80,type,los\n" + "\n".join(lines) + "\n")


@pytest.mark.parametrize("name", list(PLAN["methods"]["classification"]))
def test_every_method_gives_the_probability_of_the_second_class(tmp_path, name):
    from tabling import comparing, methods

    write_hospitals(tmp_path / "medpar.csv")
    source = table.hospitals(tmp_path / "medpar.csv")
    n = table.numbers(source)
    comparing.write_rows(source, n, tmp_path / "table.csv")
    assert (
        (tmp_path / "table.csv").read_text().startswith("provnum,died,age80,type,split\n")
    )  # hmo and white are constant
    typed = [*PLAN["common"], *comparing.words(source, tmp_path / "table.csv"), *PLAN["studies"]["hospitals"]["words"]]
    coder = comparing.Coder(source, n, typed)
    assert coder.positive == 1
    typed += PLAN["methods"]["classification"][name]["settings"]
    learner = methods.experiment(typed, coder.family, 0, 2).learner
    methods.finish(learner)
    trial = trials.stratified(n, "test", (4,), 1)["4 shots"][0]
    (made,) = coder.ask(learner, [trial])
    assert ((made > 0) & (made < 1)).all()
    raw = methods.predictions(learner, [trial], coder.encode)[0]
    assert np.allclose(made, np.exp(raw[:, 1]) / np.exp(raw).sum(1))


def test_hospitals_are_folded_whole(tmp_path):
    write_hospitals(tmp_path / "medpar.csv")
    found = table.hospitals(tmp_path / "medpar.csv")
    assert "los" not in found.features
    tested = [task for split in found.folds for task in split["test"]]
    assert sorted(tested) == sorted(str(30000 + i) for i in range(15))
    for split in found.folds:
        assert sorted(itertools.chain(*split.values())) == sorted(tested)
    n = table.numbers(found)
    assert n.x.shape[1] == 3 + 2  # three kinds of admission are two columns
    assert np.allclose(n.pool().x.mean(0), 0)
    (tmp_path / "bad.csv").write_text("provnum,died\n1,0\n")
    with pytest.raises(DataError, match="no column hmo"):
        table.hospitals(tmp_path / "bad.csv")


@pytest.mark.parametrize("name", list(PLAN["methods"]["regression"]))
def test_every_method_answers_with_and_without_support(made_study, name):
    """Cold start begins with nothing known; more than it was trained with may be known, too."""
    from tabling import comparing, methods

    home, _ = made_study
    source = table.radon(home / "data")
    n = table.numbers(source)
    typed = [*PLAN["common"], *comparing.words(source, home / "runs" / "radon" / "table.csv"), "task.shots=[0,3]"]
    coder = comparing.Coder(source, n, [*typed, "task.queries=5", "task.test.shots=2"])
    learner = methods.experiment([*typed, *PLAN["methods"]["regression"][name]["settings"]], coder.family, 0, 2).learner
    methods.finish(learner)
    rows = n.rows[n.split["test"][0]]
    for known in (0, 1, 6):
        (made,) = coder.ask(learner, [trials.Trial("a", rows[:known], rows[6:])])
        assert np.isfinite(made).all()
        assert made.shape == (6,)
