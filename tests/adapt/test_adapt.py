"""`python -m metaexp.adapt` as a real command: against the estimator, and against an adaptation written by hand."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from forks import Ended, Forks
from PIL import Image
from pyarrow.parquet import read_table
from small_runs import train

import metaexp
from metaexp.adapt.command import HELP, read
from metaexp.errors import ConfigError

SINE = ROOT / "scripts/runs/sine_r2d2"
Adapt = Any


@pytest.fixture
def adapt(forks: Forks, tmp_path: Path) -> Adapt:
    def run(*argv: object, **how: Any) -> Ended:
        return forks(*argv, cwd=tmp_path, program="metaexp.adapt.command:run", **how)

    return run


def sine(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).uniform(-5, 5, (n, 1)).astype(np.float32).astype(float)
    return x, 3 * np.sin(x[:, 0] - 1)


def write(path: Path, columns: dict[str, Any], mark: str = ",") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=mark)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def written(path: Path, mark: str = ",") -> dict[str, list[str]]:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file, delimiter=mark)
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def test_maml_is_what_an_adaptation_by_hand_gives(adapt: Adapt, tmp_path: Path) -> None:
    """Gradient steps with autograd on a plain function of the run's weights: predictions and the whole curve."""
    run = train(tmp_path, "algo=maml", "task=sine", "algo.test_steps=3", "algo.inner_lr=0.02")
    (x, y), (q, true) = sine(10, 0), sine(7, 1)
    write(tmp_path / "s.csv", {"y": y, "x": x[:, 0]})
    write(tmp_path / "q.csv", {"x": q[:, 0], "name": [f"row {i}" for i in range(7)], "y": true})
    ended = adapt(f"run={run}", "support=s.csv", "query=q.csv", "out=p.csv", "keep=[name]", "plot=c.png")
    assert (ended.code, ended.err) == (0, ""), ended.err
    state = metaexp.load(run).learner.model.state_dict()
    names = ["body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias", "head.weight", "head.bias"]
    weights = [state[name].double().requires_grad_() for name in names]

    def network(w: list[torch.Tensor], inputs: np.ndarray) -> torch.Tensor:
        z = torch.relu(F.linear(torch.from_numpy(inputs), w[0], w[1]))
        return F.linear(torch.relu(F.linear(z, w[2], w[3])), w[4], w[5])[:, 0]

    curve = []
    for step in range(4):
        made = network(weights, q)
        curve.append(float(((made - torch.from_numpy(true)) ** 2).mean()))
        if step < 3:
            loss = ((network(weights, x) - torch.from_numpy(y)) ** 2).mean()
            gradients = torch.autograd.grad(loss, weights)
            weights = [(w - 0.02 * g).detach().requires_grad_() for w, g in zip(weights, gradients, strict=True)]
    table = written(tmp_path / "p.csv")
    assert list(table) == ["name", "y", "prediction"]
    assert table["name"] == [f"row {i}" for i in range(7)]
    assert np.allclose(np.array(table["prediction"], float), made.detach().numpy(), atol=2e-5)
    rows = [line.split() for line in ended.out.splitlines() if line[:1].isdigit()]
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    assert np.allclose([float(row[1]) for row in rows], curve, rtol=1e-3)
    assert curve[-1] != pytest.approx(curve[0], rel=1e-2)
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.format == "PNG"


def test_every_form_in_and_out(adapt: Adapt, tmp_path: Path) -> None:
    """The same rows as npz, CSV, and one file with gaps give the estimator's predictions in every kind of file."""
    (x, y), (q, _) = sine(10, 0), sine(6, 1)
    wanted = metaexp.load(SINE).fit(x, y).predict(q)
    np.savez(tmp_path / "s.npz", x=x, y=y)
    np.savez(tmp_path / "q.npz", x=q)
    both = np.concatenate([x, q]), np.concatenate([y, np.full(6, np.nan)])
    order = np.random.default_rng(2).permutation(16)
    np.savez(tmp_path / "d.npz", x=both[0][order], y=both[1][order])
    cells = ["" if np.isnan(v) else v for v in both[1][order]]
    write(tmp_path / "d.tsv", {"x": both[0][order][:, 0], "y": cells}, "\t")
    places = [int(np.flatnonzero(order == i)[0]) for i in range(10, 16)]
    assert adapt(f"run={SINE}", "support=s.npz", "query=q.npz", "out=p.npz").code == 0
    with np.load(tmp_path / "p.npz") as file:
        assert np.array_equal(file["prediction"], wanted)
    assert adapt(f"run={SINE}", "data=d.npz", "out=p.parquet").code == 0
    table = read_table(tmp_path / "p.parquet").to_pydict()
    back = dict(zip(table["row"], table["prediction"], strict=True))
    assert np.allclose([back[place] for place in places], wanted, atol=1e-5)
    ended = adapt(f"run={SINE}", "data=d.tsv", "out=p.tsv")
    assert ended.out.splitlines()[-1] == "predictions of 6 examples: p.tsv"
    found = written(tmp_path / "p.tsv", "\t")
    back = dict(zip(map(int, found["row"]), map(float, found["prediction"]), strict=True))
    assert np.allclose([back[place + 1] for place in places], wanted, atol=1e-5)


def test_sentences(adapt: Adapt, tmp_path: Path) -> None:
    """Labels as in the file, probabilities that sum to 1, and those of the estimator; classes of unequal size."""
    texts = [f"sentence {i} of {label}" for label in "abcdef" for i in range(4)]
    write(tmp_path / "train.csv", {"text": texts, "intent": [text[-1] for text in texts]})
    sizes = ["task.ways=2", "task.queries=1", "task.split=[0.34,0.33,0.33]", "encoder.dimensions=64", "cache=off"]
    files = [f"task.file={tmp_path / 'train.csv'}", "task.label=intent"]
    run = train(tmp_path, "algo=protonet", "task=text", "encoder=ngrams", *files, *sizes)
    (tmp_path / "train.csv").unlink()
    support = {"text": ["so good", "very good", "so bad", "grey"], "intent": ["007", "007", "bad one", "grau"]}
    query = {"text": ["good", "bad", "a grey thing"], "intent": ["007", "bad one", "bad one"], "n": [1, 2, 3]}
    write(tmp_path / "s.csv", support)
    write(tmp_path / "q.csv", query)
    ended = adapt(f"run={run}", "support=s.csv", "query=q.csv", "keep=n", "out=p.csv", "export=p.safetensors")
    assert ended.code == 0, ended.err
    assert "4 examples of 3 classes: 007 (2), bad one (1), grau (1)" in ended.out
    found = written(tmp_path / "p.csv")
    assert list(found) == ["n", "intent", "prediction", "p_007", "p_bad one", "p_grau"]
    assert found["prediction"] == ["007", "bad one", "grau"]
    proba = np.array([found[f"p_{label}"] for label in ("007", "bad one", "grau")], float).T
    model = metaexp.load(run).fit(support["text"], support["intent"])
    assert np.array_equal(proba, model.predict_proba(query["text"]))
    assert float(ended.out.splitlines()[-4].split()[0]) == pytest.approx(2 / 3, abs=1e-3)  # accuracy
    write(tmp_path / "q.csv", query | {"intent": ["007", "bad one", "blue"]})
    ended = adapt(f"run={run}", "support=s.csv", "query=q.csv", "out=none.csv")
    told = "metaexp: q.csv: row 3 is of class blue, which is not among the 3 of the support set, 007, bad one, grau\n"
    assert ended.code == 3
    assert ended.err.splitlines(keepends=True)[-1] == told
    assert not (tmp_path / "none.csv").exists()


def test_folders_of_pictures(adapt: Adapt, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for i in range(9):
        folder = tmp_path / ("train" if i < 6 else "new") / f"Bl\xe4tt {i}"
        folder.mkdir(parents=True)
        for j in range(3):
            pixels = random.integers(25 * i, 25 * i + 50, (18, 20 + j, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{j}.png")
    sizes = ["task.size=16", "task.ways=2", "task.queries=1", "task.split=[0.34,0.33,0.33]", "model.filters=4"]
    run = train(tmp_path, "algo=protonet", "task=images", f"task.root={tmp_path / 'train'}", "cache=off", *sizes)
    (tmp_path / "query").mkdir()
    for i in (8, 6):
        (tmp_path / f"new/Bl\xe4tt {i}/2.png").rename(tmp_path / f"query/{i}.png")
    ended = adapt(f"run={run}", "support=new", "query=query", "out=p.csv")
    assert ended.code == 0, ended.err
    found = written(tmp_path / "p.csv")
    assert found["file"] == ["6.png", "8.png"]
    files = sorted((tmp_path / "new").glob("*/*.png"))
    model = metaexp.load(run).fit(files, [file.parent.name for file in files])
    proba = model.predict_proba([tmp_path / "query/6.png", tmp_path / "query/8.png"])
    assert np.array_equal(np.array([found[f"p_Bl\xe4tt {i}"] for i in (6, 7, 8)], float).T, proba)
    (tmp_path / "query/6.png").write_bytes(b"no picture")
    ended = adapt(f"run={run}", "support=new", "query=query")
    assert ended.code == 3
    assert "6.png: not a readable picture" in ended.err


def test_rows_of_a_table(adapt: Adapt, tmp_path: Path) -> None:
    """Columns by name in any order, classes that all tasks share, one of them not in the support set."""
    random = np.random.default_rng(0)
    table = {"who": np.repeat([f"u{i}" for i in range(12)], 12), "age": random.normal(40, 9, 144).round(2)}
    table |= {"kind": random.choice(["a", "b"], 144), "ill": random.integers(0, 2, 144)}
    write(tmp_path / "t.csv", table)
    typed = ["task.by=who", "task.target=ill", "task.kind=classification", "task.shots=4", "task.queries=4"]
    run = train(tmp_path, "algo=protonet", "task=table", f"task.file={tmp_path / 't.csv'}", *typed)
    (tmp_path / "t.csv").unlink()
    frame = pandas.DataFrame(table)
    known, new = frame[frame.ill == 1][:5], frame[60:66]
    model = metaexp.load(run).fit(known[["kind", "age"]], known["ill"])
    assert model.classes_.tolist() == [0, 1]
    assert model.feature_names_in_.tolist() == ["age", "kind"]
    proba = model.predict_proba(new)
    assert model.score(new, new["ill"]) == np.mean(proba.argmax(1) == new["ill"])
    known[["ill", "age", "kind"]].to_csv(tmp_path / "s.csv", index=False)
    new[["kind", "who", "age", "ill"]].to_csv(tmp_path / "q.csv", index=False)
    ended = adapt(f"run={run}", "support=s.csv", "query=q.csv", "out=p.csv", "keep=[who]")
    assert ended.code == 0, ended.err
    found = written(tmp_path / "p.csv")
    assert list(found) == ["who", "ill", "prediction", "p_0", "p_1"]
    assert np.allclose(np.array([found["p_0"], found["p_1"]], float).T, proba, atol=1e-6)
    write(tmp_path / "bad.csv", {"age": [3], "sort": ["a"]})
    ended = adapt(f"run={run}", "support=s.csv", "query=bad.csv", "out=none.csv")
    assert ended.code == 3
    assert ended.err.splitlines()[-1].startswith("metaexp: bad.csv: x: has no column kind")


def test_what_is_wrong_is_said_in_one_line(adapt: Adapt, tmp_path: Path) -> None:
    (x, y), (q, _) = sine(10, 0), sine(6, 1)
    write(tmp_path / "s.csv", {"x": x[:, 0], "y": y})
    write(tmp_path / "q.csv", {"x": q[:, 0]})
    write(tmp_path / "word.csv", {"x": ["1.5", "two"]})
    write(tmp_path / "gap.csv", {"x": ["1.5", "2"], "y": ["1", ""]})
    write(tmp_path / "two.csv", {"x": ["1"], "z": ["2"], "y": ["3"]})
    write(tmp_path / "other.csv", {"X": ["1"]})
    np.savez(tmp_path / "wide.npz", x=np.zeros((3, 2)), y=np.zeros(3))
    cases = {
        ("support=s.csv", "query=no.csv"): (3, "no.csv: no such file or folder"),
        ("support=s.csv", "query=word.csv"): (3, "word.csv: line 3 has 'two' as x, which must be a finite number"),
        ("support=gap.csv", "query=q.csv"): (3, "gap.csv: row 2 has no target; complete it"),
        ("support=q.csv", "query=q.csv"): (3, "q.csv: has no targets; target=y is the column they are read from"),
        ("support=s.csv", "query=other.csv"): (3, "other.csv: has no column x; it has X"),
        ("support=s.csv", "query=two.csv"): (3, "two.csv: column z is not among those of s.csv; leave it out with"),
        ("support=two.csv", "query=two.csv"): (3, "two.csv: x has shape [1, 2]: must be [n, 1]"),
        ("support=wide.npz", "query=q.csv"): (3, "wide.npz: x has shape [3, 2]: must be [n, 1]"),
        ("support=s.csv", "query=q.csv", "steps=3"): (2, "steps=3: R2D2 takes no inner steps; leave it out"),
        ("data=s.csv",): (3, "s.csv: has no row without a target; name two files, support= and query="),
    }
    for typed, (code, says) in cases.items():
        ended = adapt(f"run={SINE}", *typed, "out=p.csv")
        assert (ended.code, ended.out) == (code, ""), (typed, ended)
        assert ended.err.startswith(f"metaexp: {says}"), (typed, ended.err)
        assert ended.err.count("\n") == 1
    assert not (tmp_path / "p.csv").exists()
    ended = adapt(f"run={SINE}", "support=s.csv", "query=q.csv", "out=p.csv", file_size=20)
    assert ended.code == 7
    assert not (tmp_path / "p.csv").exists()
    assert not list(tmp_path.glob(".p.csv*"))


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("support=a.csv query=b.csv", r"^run=FOLDER: must be given"),
        ("run=r query=b.csv", r"^support=FILE: must be given"),
        ("run=r support=a.csv", r"^query=FILE: must be given"),
        ("run=r support=a.csv out=p.csv", r"^out=p.csv: there is nothing to predict; add query=FILE"),
        ("run=r support=a.csv data=b.csv", r"^data=FILE: holds support and query"),
        ("run=r support=a.csv query=b.csv out=p.xls", r"^out=p.xls: must end in .csv or .tsv or .parquet or .npz"),
        ("run=r support=a.csv query=b.csv out=no/p.csv", r"^out=no/p.csv: there is no folder no; make it first"),
        ("run=r support=a.csv query=b.csv suport=c", r"^suport=c: no such argument; did you mean support\?"),
        ("run=r support=a.csv query=b.csv steps=-1", r"^steps=-1: must be a whole number of at least 0"),
        ("run=r support=a.csv query=b.csv normalise=all", r"^normalise=all: must be one of single, support, queries"),
        ("run=r support=a.csv query=b.csv --fast", r"^--fast: no such flag; see --help"),
    ],
)
def test_a_wrong_argument(typed: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read(typed.split())


def test_help_names_every_argument(adapt: Adapt) -> None:
    from metaexp.adapt.command import PATHS, WORDS

    ended = adapt("--help")
    assert (ended.code, ended.out) == (0, HELP)
    assert all(f"\n  {name}=" in HELP for name in (*PATHS, *WORDS))
    assert max(map(len, HELP.splitlines())) <= 80
    assert json.dumps(HELP).isascii()
