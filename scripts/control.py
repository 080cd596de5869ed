"""python scripts/control.py FOLDER [--only pendulum] [--render] [--readme docs/motion.md]

What is it worth to remember? Trains `algo=rl2` on `task=pendulum` and `task=grid` with its memory kept over the trial,
and as one policy for all tasks (`algo.keep=step`), with the same number of trials, and compares both with random
actions, the planner of the average task and the planner that knows the task. Runs that are finished in FOLDER are taken
as they are (--render: only those), so that the command may be interrupted and called again. Writes
scripts/results/control.md and .json, and with --readme the table into a page.
"""

import argparse
import json
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from benching.tables import paste  # noqa: E402

import metaexp  # noqa: E402
from metaexp.evaluation.intervals import mean_and_half  # noqa: E402

BUDGET = ["meta_batch=256", "val.tasks=200", "val.every=25", "checkpoint.every=25", "test.tasks=1000",
          "test.weights=last", "algo.discount=0.97", "optimizer.lr=0.003", "device=cpu",
          "device.threads=1"]  # fmt: skip
WORLDS = {
    "pendulum": ["task.episodes=1", "steps=100"],
    "grid": ["steps=600"],
}
MEMORIES = {"trial": "rl2, memory over the trial", "step": "rl2, one policy for all tasks"}
BESIDE = {
    "random": "random actions",
    "nominal": "planner of the average task",
    "informed": "planner that knows the task",
}


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path)
    p.add_argument("--only", default=",".join(WORLDS), help="worlds, in this order")
    p.add_argument("--render", action="store_true", help="run nothing, only write the page")
    p.add_argument("--readme", type=Path, help="page to paste the table into")
    p.add_argument("--out", type=Path, default=ROOT / "scripts" / "results")
    a = p.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found: dict[str, dict[str, Any]] = {}
    for world in a.only.split(","):
        for keep in MEMORIES:
            folder = run_of(a.folder / f"{world}_{keep}", world, keep, a.render)
            if folder is not None:
                found.setdefault(world, {})[keep] = json.loads((folder / "result.json").read_text()) | {
                    "folder": folder
                }
    write(a, found)


def run_of(folder: Path, world: str, keep: str, render: bool) -> Path | None:
    """The folder of a finished run, which is made if there is none."""
    done = sorted(folder.glob("*/result.json"))
    if done or render:
        return done[-1].parent if done else None
    lines = ["algo=rl2", f"task={world}", f"algo.keep={keep}", *BUDGET, *WORLDS[world], f"out={folder}", "resume=auto"]
    return metaexp.start(*lines).folder


def write(a: argparse.Namespace, found: dict[str, dict[str, Any]]) -> None:
    """The page and the numbers."""
    rows: dict[str, dict[str, list[float]]] = {}
    for world, runs in found.items():
        one = next(iter(runs.values()))
        rows[world] = {
            name: [entry["return"][k] for k in ("mean", "ci95")]
            for floor, name in BESIDE.items()
            if (entry := one["floors"].get(floor))
        }
        rows[world] |= {
            MEMORIES[keep]: [run["test"]["return"][k] for k in ("mean", "ci95")] for keep, run in runs.items()
        }
        if len(runs) == 2:
            each = [np.load(runs[keep]["folder"] / "test_scores.npz")["return"][:, -1] for keep in MEMORIES]
            mean, half = mean_and_half(each[0] - each[1])
            rows[world]["difference of the two, paired"] = [float(mean), float(half)]
    names = list(dict.fromkeys(name for world in rows.values() for name in world))
    lines = [f"| return of a trial | {' | '.join(rows)} |", "|---" * (1 + len(rows)) + "|"]
    for name in names:
        cells = [f"{rows[w][name][0]:.4g} ± {rows[w][name][1]:.2g}" if name in rows[w] else "" for w in rows]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    table = "\n".join(lines)
    counts = {world: next(iter(runs.values()))["test"]["return"]["tasks"] for world, runs in found.items()}
    sizes = "; ".join(f"`{w}` {' '.join(WORLDS[w])}, {n:,} test tasks" for w, n in counts.items())
    intro = (
        f"{' '.join(BUDGET[:1])}, one seed; {sizes}. The weights are the last. ± is a 95 % interval over test tasks; "
        f"all rows met the same tasks. {date.today()}, torch {torch.__version__}, CPU, one thread.\n\n"
        "`python scripts/control.py FOLDER`"
    )
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "control.md").write_text(f"# What memory is worth in pendulum and grid\n\n{intro}\n\n{table}\n")
    (a.out / "control.json").write_text(json.dumps(rows, indent=1) + "\n")
    if a.readme:
        paste(a.readme, f"{intro}\n\n{table}\n", "<!-- control -->", "<!-- end of control -->")


if __name__ == "__main__":
    main()
