"""python scripts/mdps.py [--episodes 10,25] [--runs FOLDER ...]: the random MDPs of RL^2's table.

Planners of task=mdp play the same 15,000 test MDPs: random, PSRL, the best policy of the posterior's means, and one who
knows the MDP. --runs adds learned methods from run folders (result.json of task=mdp), all seeds of a method as one row.
Writes scripts/results/mdps.json after each number and keeps those that are there, so the command may be interrupted;
--again makes them anew. Then writes mdps.md with the published numbers. --render only writes the page.
"""

import argparse
import json
import os
import platform
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from acting.learned import finished, notes, over_seeds  # noqa: E402

from metaexp.algos.informed import Informed  # noqa: E402
from metaexp.algos.psrl import PSRL  # noqa: E402
from metaexp.algos.random import Random  # noqa: E402
from metaexp.evaluation.intervals import over_tasks  # noqa: E402
from metaexp.evaluation.scores import evaluate  # noqa: E402
from metaexp.tasks.mdp import MDP  # noqa: E402

FILE = ROOT / "scripts" / "results" / "mdps.json"
PLANNERS: dict[str, Any] = {
    "random": Random,
    "psrl": PSRL,
    "posterior means": lambda world: PSRL(world, planned="mean"),
    "informed": Informed,
}
# Duan and others 2016, table 2; SNAIL: Mishra and others 2018. Means of 1,000 MDPs, no intervals given.
PUBLISHED = {
    "random": (100.1, 250.2), "PSRL": (138.1, 408.8), "OPSRL": (144.1, 425.2), "UCRL2": (146.6, 424.1),
    "BEB": (150.2, 427.8), "epsilon-greedy": (132.8, 377.3), "greedy": (134.8, 368.8), "RL2": (156.2, 445.7),
    "SNAIL": (159.1, 447.2),
}  # fmt: skip
EPISODES = (10, 25)


def played(name: str, episodes: int, tasks: int) -> dict[str, Any]:
    """One number of the table."""
    began = time.process_time()
    found = evaluate(PLANNERS[name](MDP(episodes=episodes)), "test", tasks, ["queries"], chunk=500).arrays
    numbers = {}
    for metric in ("return", "regret"):
        interval = over_tasks(found[metric][:, 0])
        numbers[metric] = {"mean": round(float(interval.mean or 0), 3), "ci95": round(float(interval.half or 0), 3)}
    return {"episodes": episodes, "method": name, "tasks": tasks, **numbers,
            "deviation": round(float(found["return"].std()), 2), "seconds": round(time.process_time() - began, 1),
            "date": date.today().isoformat(), "torch": torch.__version__, "machine": platform.machine()}  # fmt: skip


def learned(folders: list[Path]) -> list[dict[str, Any]]:
    """A row for each method and number of episodes found in run folders, over its seeds."""
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for result in finished(folders, "mdp"):
        groups.setdefault((result["protocol"]["episodes"], result["algo"]), []).append(result)
    return [
        {"episodes": episodes, "method": algo, **over_seeds(results)}
        for (episodes, algo), results in sorted(groups.items())
    ]


def page(data: dict[str, Any]) -> str:
    """The page."""
    lines = []
    for r in sorted([*data["rows"], *data["learned"]], key=lambda r: r["episodes"]):
        cells = [f"{r[m]['mean']:.1f} ± {r[m]['ci95']:.1f}" for m in ("return", "regret")]
        lines.append(f"| {r['episodes']} | {r['method']} | {' | '.join(cells)} | {r['tasks']:,} |")
    published = [f"| {name} | {' | '.join(map(str, values))} |" for name, values in PUBLISHED.items()]
    errors = [1.96 * r["deviation"] / 1000**0.5 for r in data["rows"] if r["method"] == "psrl"]
    dates = sorted({r["date"] for r in data["rows"]})
    versions, machines = (", ".join(sorted({r[name] for r in data["rows"]})) for name in ("torch", "machine"))
    missing = [f"rl2 with {n} episodes" for n in EPISODES
               if (n, "rl2") not in {(r["episodes"], r["method"]) for r in data["learned"]}]  # fmt: skip
    return "\n".join([
        "# Random MDPs", "", "Made by `python scripts/mdps.py`; do not edit.", "",
        "Total reward of a trial in random tabular MDPs of 10 states, 5 actions and a horizon of 10: means over the "
        f"same test MDPs with 95 % intervals. {', '.join(dates)}; torch {versions}; one core ({machines}).", "",
        "| episodes | method | return | regret | MDPs |", "|---|---|---|---|---|", *lines, "",
        "`psrl` draws an MDP from the posterior before each episode, `posterior means` plans for the posterior's means "
        "(`algo=psrl algo.planned=mean`), `informed` knows the MDP: no learner gets more on average.",
        *([f"Not made: {', '.join(missing)}."] if missing else []), "",
        *notes(data["learned"], {"episodes": "episodes"}, 2),
        "## Published", "",
        "Duan and others 2016 (RL^2), table 2, and Mishra and others 2018 (SNAIL): means of 1,000 MDPs without "
        "intervals. From the deviation of our `psrl` row, the 95 % interval of such a mean is "
        f"± {', ± '.join(f'{e:.1f}' for e in errors)}. Their greedy method is another one than ours.", "",
        "| method | 10 episodes | 25 episodes |", "|---|---|---|", *published, "",
    ])  # fmt: skip


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--episodes", default="10,25")
    p.add_argument("--tasks", type=int, default=15_000)
    p.add_argument("--runs", type=Path, nargs="*", help="folders of runs")
    p.add_argument("--again", action="store_true")
    p.add_argument("--render", action="store_true")
    a = p.parse_args()
    data = json.loads(FILE.read_text()) if FILE.exists() else {"rows": [], "learned": []}
    if a.runs is not None:
        data["learned"] = learned(a.runs)
    for episodes in () if a.render else map(int, a.episodes.split(",")):
        for name in PLANNERS:
            old = [r for r in data["rows"] if (r["episodes"], r["method"]) == (episodes, name)]
            if old and not a.again:
                continue
            row = played(name, episodes, a.tasks)
            data["rows"] = [r for r in data["rows"] if r not in old] + [row]
            print(row, flush=True)
            FILE.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    FILE.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    FILE.with_suffix(".md").write_text(page(data), encoding="utf-8")


if __name__ == "__main__":
    main()
