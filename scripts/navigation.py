"""python scripts/navigation.py FOLDER [--steps 100] [--only both,after] [--render]: policies on MAML's navigation.

Makes the runs that are missing, one after the other; a stopped command is called again and goes on. Then writes
navigation.md, navigation.json and pictures of trajectories into scripts/results. All runs have the same network and
outer optimiser, the same outer steps and trials per outer step; RUNS says what differs. --render only writes the page.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from metaexp.evaluation.intervals import over_tasks  # noqa: E402

RESULTS = ROOT / "scripts" / "results"
COMMON = (
    "task=navigation device=cpu device.threads=1 model.hidden=[32,32] model.activation=tanh val.every=100 val.tasks=50 "
    "test.weights=last test.tasks=400"
).split()
MAML = "algo=maml_pg algo.test_steps=3 meta_batch=20 optimizer.lr=0.01".split()
RUNS: dict[str, tuple[str, list[str]]] = {  # name -> (what the page calls it, settings)
    "after": ("MAML, the score term after the update alone", [*MAML, "algo.score_before=false"]),
    "both": ("MAML, both score terms", MAML),
    "pretrained": ("pretrained: one policy for all tasks", [*MAML, "algo.inner_steps=0", "algo.outer_trials=20"]),
    "rl2": (
        "RL^2: a memory that begins empty",
        ["algo=rl2", "meta_batch=800", "optimizer.lr=0.003", "algo.discount=0.97"],
    ),
}


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path, help="folder of the runs")
    p.add_argument("--steps", type=int, default=100, help="outer steps of each run")
    p.add_argument("--only", help="make only these runs, in this order")
    p.add_argument("--render", action="store_true", help="run nothing, only write the page")
    p.add_argument("--out", type=Path, default=RESULTS)
    a = p.parse_args()
    if not a.render:
        for name in a.only.split(",") if a.only else RUNS:
            make(a.folder, name, a.steps)
    found = {name: run for name in RUNS if (run := finished(a.folder, name)) is not None}
    if missing := set(RUNS) - set(found):
        sys.exit(f"not finished: {', '.join(sorted(missing))}; no page is written")
    write(found, a.out)


def make(folder: Path, name: str, steps: int) -> None:
    """Make a run, or go on with it."""
    if finished(folder, name) is not None:
        return
    words = [*COMMON, *RUNS[name][1], f"steps={steps}", f"name={name}", f"out={folder}", "resume=auto"]
    print("python -m metaexp.train", *words, flush=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "metaexp.train", *words], check=True, env=environment)


def finished(folder: Path, name: str) -> Path | None:
    """The newest finished run of a name."""
    runs = [path.parent for path in folder.glob(f"*_{name}_*/result.json")]
    return max(runs, default=None)


def scores(run: Path, metric: str = "return") -> np.ndarray:
    """Returns of all test tasks after 0, 1, ... steps, [tasks, steps + 1]."""
    with np.load(run / "test_scores.npz") as file:
        return np.asarray(file[metric])


def line(values: np.ndarray) -> list[dict[str, float | None]]:
    """Mean and 95 % interval of each column."""
    return [{"mean": i.mean, "ci95": i.half} for i in map(over_tasks, values.T)]


def write(found: dict[str, Path], out: Path) -> None:
    """The page, its numbers and its pictures."""
    results = {name: json.loads((run / "result.json").read_text()) for name, run in found.items()}
    values = {name: scores(run) for name, run in found.items()}
    digests = {str(np.load(run / "test_scores.npz")["query_sha256"]) for run in found.values()}
    if len(digests) > 1 or len({len(v) for v in values.values()}) > 1:
        sys.exit("the runs were not tested on the same tasks; make them anew in an empty folder")
    made: dict[str, Any] = {name: {"label": RUNS[name][0], "steps": line(v)} for name, v in values.items()}
    first = results["both"]
    for name, label in (
        ("scratch", "random initialisation"),
        ("random", "random actions"),
        ("informed", "knows the goal"),
    ):
        entry = first["floors"][name]["return"]
        points = entry.get("per_step") or [{"mean": entry["mean"], "ci95": entry["ci95"]}]
        made[name] = {"label": label, "steps": [{k: point[k] for k in ("mean", "ci95")} for point in points]}
    differences = {
        f"{a} - {b}": line(values[a] - values[b])
        for a, b in (("after", "pretrained"), ("both", "pretrained"), ("after", "both"))
    }
    # A recurrent policy takes no steps: its only trial beside the best that steps reach, after three of them.
    differences["rl2 - both after 3 steps"] = line(values["rl2"] - values["both"][:, -1:])
    out.mkdir(parents=True, exist_ok=True)
    kept = {"runs": made, "differences": differences, "tasks": len(values["both"]), "versions": first["versions"]}
    kept |= {"day": found["both"].name[:10], "machine": "{cpu}, {cores} cores".format(**first["machine"])}
    kept |= {"steps": first["steps"], "seconds": {name: r["speed"]["seconds"] for name, r in results.items()}}
    (out / "navigation.json").write_text(json.dumps(kept, indent=1) + "\n")
    for name, run in found.items():
        shutil.copy(run / "figures" / "test_episodes.png", out / f"navigation_{name}.png")
    (out / "navigation.md").write_text(page(kept))


def cells(points: list[dict[str, float | None]]) -> str:
    return " | ".join(f"{p['mean']:.2f} +- {p['ci95']:.2f}" for p in points)


def page(kept: dict[str, Any]) -> str:
    """navigation.md."""
    rows = [
        f"| {run['label']} | {cells(run['steps'])} |" + " |" * (4 - len(run["steps"])) for run in kept["runs"].values()
    ]
    apart = [f"| {name} | {cells(points)} |" + " |" * (4 - len(points)) for name, points in kept["differences"].items()]
    head = "| return | before | 1 step | 2 steps | 3 steps |\n|---|---|---|---|---|"
    versions = ", ".join(f"{name} {value}" for name, value in kept["versions"].items())
    return PAGE.format(
        head=head, rows="\n".join(rows), tasks=kept["tasks"], steps=kept["steps"],
        versions=versions, day=kept["day"], machine=kept["machine"],
        apart="\n".join(apart), difference=head.replace("return", "difference"),
    )  # fmt: skip


PAGE = """# Navigation

MAML's point in the plane (`task=navigation`: 100 steps, reward minus the distance to the goal). Made by
`python scripts/navigation.py FOLDER`; one seed, {steps} outer steps of 800 trials (20 tasks with 40 trials each; for
RL^2 one trial in each of 800 tasks), the same network ([32, 32], tanh; RL^2 has a memory of 64 numbers after it) and
outer optimiser (Adam, rate 0.01; RL^2 0.003, 12 updates in an outer step) for all. At test, each inner step is a policy
gradient on 10 trials of the task; RL^2 takes none, and adapts within its one trial. Mean return of one trial in each of
{tasks} test tasks, the same for all, with the 95 % interval over tasks; the weights are the last ones.

{head}
{rows}

Paired differences on the same tasks, a positive one says that the first is better:

{difference}
{apart}

Trajectories of MAML with both terms, before and after each step, and below of RL^2, which tries some directions and
reads from the rewards where the goal lies:

![Trajectories of MAML](navigation_both.png)

![Trajectories of RL^2](navigation_rl2.png)

The score term of the trials before the inner steps makes the outer gradient that of the expected return after them,
and noisier: it sums the log-probabilities of all 1,000 actions of ten trials. Finn, Abbeel and Levine 2017 show curves
only, of policies trained with a trust region method, so there is no published number to compare with.

{day}, {machine}, one thread; {versions}.
"""

if __name__ == "__main__":
    main()
