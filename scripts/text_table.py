"""python scripts/text_table.py DATA FOLDER: few-shot intents, frozen vectors beside meta-training on them.

DATA holds CLINC150 and BANKING77, see scripts/intents.py. For each published split (`clinc`, `banking`: five folds;
`cross`: from CLINC150 to BANKING77) and each encoder this scores the same 600 test episodes, 5-way with 5 queries per
class, at 1, 2, 5 and 10 shots, with nested support sets:

    frozen      `prototypes`: the nearest class mean; `logistic`: scikit-learn's logistic regression, with the C of the
                best accuracy on 100 validation episodes of the same shots; `neighbour`
    trained     protonet, r2d2, maml, joint with the defaults of conf/pair/encoded and what OWN says, one run each,
                whose best weights on validation classes at 1 shot are tested at all shots; scratch, not meta-trained

Every part is written to FOLDER/scores at once and not made again, so the command may be interrupted and called again.
--parts cross:sentence:* makes some (patterns PROTOCOL:ENCODER:METHOD, separated by commas). --render makes nothing and
writes the page from what is there: scripts/results/text.md and text.json.
"""

import argparse
import fnmatch
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROTOCOLS = ["cross", *(f"{name}-{fold:02}" for name in ("clinc", "banking") for fold in range(1, 6))]
ENCODERS = ("sentence", "ngrams")
FROZEN, TRAINED = ("prototypes", "logistic"), ("protonet", "r2d2", "maml", "joint", "scratch")
SHOTS, TASKS, QUERIES, CHOOSING = (1, 2, 5, 10), 600, 5, 100
MOST_WAYS = 60  # in training, of methods that take any number
OWN = {  # besides the defaults; found on the validation classes of `cross`, Travel and Kitchen & dining
    "protonet": ["model.hidden=256", "task.shots=5", "task.queries=5", "meta_batch=2", "steps=300", "val.every=100"],
    "r2d2": ["model.hidden=256", "task.shots=5", "task.queries=5", "meta_batch=2", "steps=300", "val.every=100"],
    "maml": ["task.shots=1", "task.queries=5", "steps=100", "val.every=50"],
    "joint": ["steps=300", "val.every=100"],
    "scratch": [],
}
STRENGTHS = (1.0, 10.0, 100.0)  # C of the logistic regression; vectors have length 1


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=Path)
    p.add_argument("folder", type=Path)
    p.add_argument("--parts", default="*", help="patterns PROTOCOL:ENCODER:METHOD, separated by commas")
    p.add_argument("--render", action="store_true", help="make nothing, only write the page")
    a = p.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
    if not a.render:
        fill(a.data, a.folder, a.parts.split(","))
    from comparing.text_page import write

    write(a.folder / "scores", ROOT / "scripts/results")


def fill(data: Path, folder: Path, patterns: list[str]) -> None:
    """Makes the scores that are wanted and not there yet."""
    from intents import prepare

    prepare(data, folder / "data")
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    for protocol in PROTOCOLS:
        for encoder in ENCODERS:
            for method in (*FROZEN, *TRAINED):
                file = folder / "scores" / f"{protocol}_{encoder}_{method}.json"
                name = f"{protocol}:{encoder}:{method}"
                if file.exists() or not any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
                    continue
                started = time.process_time()
                make = frozen if method in FROZEN else trained
                made = make(folder, protocol, encoder, method)
                made |= {"seconds": round(time.process_time() - started, 1), "about": about()}
                temporary = file.with_suffix(".part")
                temporary.write_text(json.dumps(made), encoding="utf-8")
                temporary.replace(file)
                means = [round(sum(column) / len(column), 4) for column in made["accuracy"]]
                print(f"{name} {means} {made['seconds']} s", flush=True)


def about() -> dict[str, Any]:
    """When and with what."""
    import torch

    from metaexp.storage.checkpoint_file import versions
    from metaexp.system.machine import machine

    return {"date": time.strftime("%Y-%m-%d"), "versions": versions(), "machine": machine(torch.device("cpu"))}


def settings(folder: Path, protocol: str, encoder: str) -> list[str]:
    """The settings of one protocol, as they are typed."""
    data = folder / "data"
    return [
        "task=text",
        f"encoder={encoder}",
        f"task.file={data / 'intents.jsonl'}",
        f"task.class_file={data / 'folds.json'}",
        f"task.fold={protocol}",
        f"task.test.queries={QUERIES}",
    ]


def trained(folder: Path, protocol: str, encoder: str, method: str) -> dict[str, Any]:
    """One run: accuracies [shots][tasks], of its baseline `neighbour` too, and what the run says of itself."""
    import shutil

    import numpy as np

    import metaexp

    typed = [f"algo={method}", *settings(folder, protocol, encoder), "task.test.shots=1", *OWN[method]]
    if "meta_batch=2" in typed:
        classes = len(json.loads((folder / "data/folds.json").read_text(encoding="utf-8"))[protocol]["train"])
        typed += [f"task.ways={min(MOST_WAYS, classes)}", "task.test.ways=5"]
    typed += ["val.tasks=300", f"test.tasks={TASKS}", f"test.curve_tasks={TASKS}"]
    typed += [f"test.curve_shots=[{','.join(map(str, SHOTS))}]", "device=cpu", "device.threads=1", "compile=false"]
    run = metaexp.start(*typed, f"out={folder / 'runs'}")
    with np.load(run.folder / "test_scores.npz") as arrays:
        found, near = arrays["shots_curve_accuracy"].T, arrays["shots_curve_floor_neighbour_accuracy"].T
        digest = str(arrays["query_sha256"])
    result = run.result
    shutil.rmtree(run.folder)
    return {
        "accuracy": found.tolist(),
        "neighbour": near.tolist(),
        "queries": digest,
        "typed": [word for word in typed if str(folder) not in word],
        **{key: result.get(key) for key in ("weights", "doubt", "steps", "parameters")},
    }


def frozen(folder: Path, protocol: str, encoder: str, method: str) -> dict[str, Any]:
    """A classifier on the frozen vectors as they are, of length 1: accuracies [shots][tasks] and the chosen C."""
    import torch

    from metaexp.encoders.ngrams import NGrams
    from metaexp.encoders.sentence import Sentence
    from metaexp.tasks.text import Text

    data = folder / "data"
    made = {"ngrams": NGrams, "sentence": Sentence}[encoder]()
    family = Text(
        str(data / "intents.jsonl"),
        class_file=str(data / "folds.json"),
        fold=protocol,
        encoder=made,
        test={"queries": QUERIES},
    )

    def accuracies(split: str, tasks: int, shots: int, strength: float) -> list[float]:
        found: list[float] = []
        for first in range(0, tasks, 100):
            support, query, _, _ = family.sample(split, torch.arange(first, min(first + 100, tasks)), shots=shots)
            for x, y, u, v in zip(support.x, support.y, query.x, query.y, strict=True):
                guessed = logistic(x, y, u, strength) if method == "logistic" else nearest_mean(x, y, u)
                found.append(float((guessed == v.argmax(1)).double().mean()))
        return found

    table, chosen = [], []
    for shots in SHOTS:
        strength = STRENGTHS[0]
        if method == "logistic":
            means = {c: sum(accuracies("val", CHOOSING, shots, c)) for c in STRENGTHS}
            strength = max(STRENGTHS, key=lambda c: means[c])
            chosen.append(strength)
        table.append(accuracies("test", TASKS, shots, strength))
    return {"accuracy": table, "strength": chosen}


def nearest_mean(x: Any, y: Any, u: Any) -> Any:
    """Support x [n, d], one-hot y [n, ways], queries u [m, d] -> classes [m]."""
    import torch

    return torch.cdist(u, y.T @ x / y.sum(0).unsqueeze(1)).argmin(1)


def logistic(x: Any, y: Any, u: Any, strength: float) -> Any:
    """The same by multinomial logistic regression with an L2 penalty.

    Its weights lie in the span of the support, so that the coordinates of an orthonormal basis of it give the same
    solution in at most n dimensions.
    """
    import torch
    from sklearn.linear_model import LogisticRegression

    basis = torch.linalg.qr(x.double().T).Q  # [d, n]
    model = LogisticRegression(C=strength, max_iter=1000)
    model.fit((x.double() @ basis).numpy(), y.argmax(1).numpy())
    return torch.from_numpy(model.predict((u.double() @ basis).numpy()))


if __name__ == "__main__":
    main()
