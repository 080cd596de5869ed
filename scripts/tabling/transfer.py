"""Methods meta-trained on characters, tested on medical pictures: see scripts/medical_pictures.py."""

# ruff: noqa: E501

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from metaexp.config.settings import load
from metaexp.evaluation.scores import evaluate
from metaexp.storage.checkpoint_file import versions
from metaexp.system.machine import machine
from metaexp.training.build import Experiment
from tabling import compared, methods
from tabling.comparing import commit
from tabling.page import between, table, verdict

SETS = ("pneumoniamnist", "breastmnist")
SHOTS = (1, 5, 10, 20)
FIXED = ["compile=false", "device=cpu", "device.threads=1", "meta_batch=4", "skips=10"]
METHODS = {
    "protonet": ["algo=protonet", "optimizer.lr=0.002"],
    "r2d2": ["algo=r2d2", "optimizer.lr=0.002"],
    "maml": ["algo=maml", "algo.inner_lr=0.1", "algo.inner_steps=3", "algo.test_steps=10", "optimizer.lr=0.002"],
}
STEPS = 400
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
LOGISTIC = "logistic regression on pixels"
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # of an episode: support x and class, query x and class


def episodes(family: Any, split: str, tasks: int) -> list[Arrays]:
    """The first episodes of a split, inputs as flat vectors."""
    made = []
    for index in range(tasks):
        e = family.sample(split, torch.tensor([index]))
        known, asked = ((part.x[0].flatten(1).double().numpy(), part.y[0].argmax(1).numpy()) for part in e[:2])
        made.append((*known, *asked))
    return made


def accuracy(found: np.ndarray, true: np.ndarray) -> float:
    """The share of queries that are right."""
    return float((found == true).mean())


def logistic(e: Arrays, strength: float) -> float:
    """Logistic regression on the support."""
    model = LogisticRegression(C=strength, max_iter=500).fit(e[0], e[1])
    return accuracy(model.predict(e[2]), e[3])


def chosen_logistic(validation: Sequence[Arrays], test: Sequence[Arrays]) -> np.ndarray:
    """Its accuracy [tasks] at the strength that is best on the validation episodes."""
    best = max(STRENGTHS, key=lambda c: np.mean([logistic(e, c) for e in validation]))
    return np.array([logistic(e, best) for e in test])


def neighbour(e: Arrays) -> float:
    """The class of the nearest support picture."""
    far = ((e[2][:, None] - e[0][None]) ** 2).sum(-1)
    return accuracy(e[1][far.argmin(1)], e[3])


def nearest_mean(e: Arrays) -> float:
    """The class of the nearest mean of support pictures."""
    means = np.stack([e[0][e[1] == label].mean(0) for label in (0, 1)])
    return accuracy(((e[2][:, None] - means[None]) ** 2).sum(-1).argmin(1), e[3])


def medical(root: Path, name: str, shots: int) -> list[str]:
    """What is typed for the test; every size, since a method's own defaults may name others."""
    sizes = [f"task.shots={shots}", f"task.test.shots={shots}", "task.queries=15", "task.test.queries=15"]
    return [
        *FIXED,
        "task=medmnist",
        f'task.root="{root}"',
        f"task.set={name}",
        "task.ways=2",
        "task.test.ways=2",
        *sizes,
    ]


def trained(home: Path, omniglot: Path, method: str, budget: float) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights of a method after training on characters with 5 shots, and how validation on characters went."""
    typed = [*FIXED, "task=omniglot", f'task.root="{omniglot}"', "task.ways=2", "task.shots=5", "task.queries=5"]
    typed += ["task.test.ways=2", "task.test.shots=5", "task.test.queries=5"]
    typed += METHODS[method]
    family: Any = Experiment(load(typed, None)).family

    def judge(learner: Any) -> float:
        return float(evaluate(learner, "val", 50, ["single"], final=True).first("accuracy")[:, -1].mean())

    steps = max(2, round(STEPS * budget))
    made = methods.run(home / f"{method}.json", typed, family, 0, steps, judge)
    return torch.load(made.weights, weights_only=True), made.told


def features(learner: Any, made: Sequence[Arrays], shape: Sequence[int]) -> list[Arrays]:
    """The episodes with the network's features in place of the pixels."""
    found = []
    with torch.no_grad():
        for e in made:
            both = torch.as_tensor(np.concatenate([e[0], e[2]]), dtype=torch.float32).reshape(-1, *shape)
            z = learner.features(both).double().numpy()
            z = (z - z[: len(e[0])].mean(0)) / np.sqrt((z[: len(e[0])].var(0)).mean() + 1e-12)
            found.append((z[: len(e[0])], e[1], z[len(e[0]) :], e[3]))
    return found


def compare(
    root: Path, omniglot: Path, home: Path, only: Sequence[str], tasks: int, budget: float
) -> Iterator[dict[str, Any]]:
    """All numbers: after the baselines, and again after each method."""
    torch.set_num_threads(1)
    scores: dict[str, dict[str, np.ndarray]] = {}
    about: dict[str, Any] = {}
    header = {
        "date": time.strftime("%Y-%m-%d"), "versions": versions(), "machine": machine(torch.device("cpu")),
        "commit": commit(), "episodes": tasks, "steps": max(2, round(STEPS * budget)), "methods": about,
    }  # fmt: skip
    cells = [(name, shots) for name in SETS for shots in SHOTS]
    drawn = {}
    for name, shots in cells:
        family: Any = Experiment(load([*medical(root, name, shots), "algo=protonet"], None)).family
        drawn[name, shots] = [episodes(family, split, n) for split, n in (("val", min(50, tasks)), ("test", tasks))]
        val, test = drawn[name, shots]
        row = scores[f"{name}, {shots} shots"] = {LOGISTIC: chosen_logistic(val, test)}
        row["nearest neighbour on pixels"] = np.array([neighbour(e) for e in test])
        row["nearest class mean on pixels"] = np.array([nearest_mean(e) for e in test])
        print(f"{name}, {shots} shots: baselines done", flush=True)
    baselines = list(next(iter(scores.values())))
    yield header | {"cells": _told(scores, baselines)}
    for method in (m for m in only if m != "none"):
        weights, told = trained(home, omniglot, method, budget)
        about[method] = {key: told[key] for key in ("curve", "failure", "cpu_seconds")}
        for name, shots in cells:
            learner: Any = Experiment(load([*medical(root, name, shots), *METHODS[method]], None)).learner
            learner.load_state_dict(weights)
            learner.eval()
            found = evaluate(learner, "test", tasks, ["single"], final=True).first("accuracy")[:, -1]
            row = scores[f"{name}, {shots} shots"]
            row[method] = found
            if method == "protonet":
                val, test = (features(learner, part, learner.family.x_shape) for part in drawn[name, shots])
                row["logistic regression on protonet's features"] = chosen_logistic(val, test)
        print(f"{method} done ({told['cpu_seconds']} s of training)", flush=True)
        yield header | {"cells": _told(scores, baselines)}


def _told(scores: dict[str, dict[str, np.ndarray]], baselines: list[str]) -> dict[str, Any]:
    made = {}
    for cell, rows in scores.items():
        made[cell] = compared.rows({name: values[None] for name, values in rows.items()}, baselines, True, [LOGISTIC])
    return made


def page(found: dict[str, Any]) -> str:
    """The page docs/medical_pictures.md."""
    cells, machine_ = found["cells"], found["machine"]
    names = list(next(iter(cells.values()))["rows"])
    shown = [[f"*{n}*" if next(iter(cells.values()))["rows"][n]["baseline"] else f"`{n}`"] for n in names]
    for name, row in zip(names, shown, strict=True):
        row += [between(100 * c["rows"][name]["mean"], 100 * c["rows"][name]["half"]) for c in cells.values()]
    differences = []
    for name in (n for n in names if n != LOGISTIC):
        made = [c["rows"][name]["better"].get(LOGISTIC) for c in cells.values()]
        words = [between(100 * one[0], 100 * one[1]) + f" {verdict(one)}" for one in made]
        differences.append([f"`{name}`", *(word.removesuffix(" no difference shown") for word in words)])
    ran = f"{found['date']}, commit {found['commit']}, {machine_['cpu']}, one thread, "
    ran += ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    left = [name for name in METHODS if name not in found["methods"]]
    lines = [
        "# From characters to radiographs: a demonstration",
        "",
        "Methods that were meta-trained on handwritten characters alone (Omniglot, 2-way 5-shot), tested on telling the two",
        "classes of PneumoniaMNIST and BreastMNIST from 1, 5, 10 and 20 pictures of each: a test across domains. It shows",
        "how such a test is made and what to compare it with, and is not for clinical use.",
        "",
        f"Accuracy in % over {found['episodes']} episodes with 15 queries of each class (chance is 50), the same for every",
        "row: supports from the authors' training pictures, queries from their test pictures. ± is the half-width of the",
        "95 % interval over episodes; they share the pictures of one set, so it says nothing about other hospitals.",
        "",
        f"{ran}; `python scripts/medical_pictures.py --medmnist FOLDER --omniglot FOLDER --runs FOLDER`; numbers in",
        "[medical_pictures.json](../scripts/results/tables/medical_pictures.json).",
        "",
        *table(["", *cells], shown),
        "",
        "Better than logistic regression on the raw pixels by (paired, points of accuracy):",
        "",
        *table(["", *cells], differences),
        "",
    ]
    if left:
        lines += [f"Not run so far: {', '.join(f'`{name}`' for name in left)} meta-trained on Omniglot.", ""]
    for name, told in found["methods"].items():
        curve = ", ".join(f"{100 * value:.1f} after {step}" for step, value in told["curve"])
        lines.append(f"- `{name}`, accuracy on Omniglot's validation classes in %: {curve}")
    lines += [
        "",
        "Data: MedMNIST v2 (Yang and others 2023, Scientific Data 10:41), CC BY 4.0; PneumoniaMNIST from Kermany and others",
        "(2018), BreastMNIST from Al-Dhabyani and others (2020). The files were rebuilt from copies whose checksums are not",
        "the authors' own. Omniglot: Lake, Salakhutdinov, Tenenbaum (2015).",
    ]
    return "\n".join(lines) + "\n"
