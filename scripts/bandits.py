"""python scripts/bandits.py [--rows 10,5 ...] [--only gittins,...] [--runs FOLDER ...]: the bandits of RL^2's table.

Every planner of task=bandit plays the same test bandits: 50,000 with 10 pulls, 20,000 with more (Thompson sampling with
500 pulls 5,000). epsilon and c are chosen on 2,000 validation bandits. --runs adds learned methods from run folders
(result.json of task=bandit), all seeds of a method as one row. Writes scripts/results/bandits.json after each number
and keeps those that are there, so the command may be interrupted; --again makes them anew. Then writes bandits.md, with
the published numbers and the bounds of scripts/bandit_bound.py. --render only writes the page. One core is enough.
"""

import argparse
import json
import math
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

import numpy as np  # noqa: E402
import torch  # noqa: E402
from acting.learned import finished, notes, over_seeds  # noqa: E402
from benching.tables import paste  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from metaexp.algos.epsilon_greedy import EpsilonGreedy  # noqa: E402
from metaexp.algos.gittins import Gittins  # noqa: E402
from metaexp.algos.greedy import Greedy  # noqa: E402
from metaexp.algos.informed import Informed  # noqa: E402
from metaexp.algos.optimal import Optimal, solve  # noqa: E402
from metaexp.algos.random import Random  # noqa: E402
from metaexp.algos.thompson import Thompson  # noqa: E402
from metaexp.algos.ucb1 import UCB1  # noqa: E402
from metaexp.evaluation.intervals import over_tasks  # noqa: E402
from metaexp.evaluation.scores import evaluate  # noqa: E402
from metaexp.plots.style import BLUE, GREEN, ORANGE, PURPLE  # noqa: E402
from metaexp.tasks.bandit import Bandit  # noqa: E402

OUT, CURVE = ROOT / "scripts" / "results", "bandits_500.png"
ROWS = [(n, k) for n in (10, 100, 500) for k in (5, 10, 50)]
TASKS = {10: 50_000, 100: 20_000, 500: 20_000}  # test bandits of each row
PLANNERS: dict[str, Any] = {
    "random": Random,
    "greedy": Greedy,
    "epsilon_greedy": EpsilonGreedy,
    "ucb1": UCB1,
    "ucb1 chosen": lambda world, **more: UCB1(world, start="prior", **more),
    "thompson": Thompson,
    "gittins": Gittins,
    "optimal": Optimal,
    "informed": Informed,
}
GRIDS = {
    "epsilon_greedy": [{"epsilon": e} for e in (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)],
    "ucb1 chosen": [{"c": c} for c in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)],
}
# Duan and others 2016, table 1; SNAIL: Mishra and others 2018, table 1. Means of 1,000 bandits, no intervals given.
PUBLISHED = {
    "random": (5.0, 5.0, 5.1, 49.9, 49.9, 49.8, 249.8, 249.0, 249.6),
    "greedy": (6.6, 6.6, 6.5, 74.8, 77.1, 78.0, 380.6, 395.0, 402.8),
    "epsilon_greedy": (6.6, 6.6, 6.5, 75.4, 77.4, 78.3, 388.2, 408.0, 413.6),
    "ucb1": (6.7, 6.7, 6.6, 78.0, 82.4, 84.3, 405.8, 437.1, 457.6),
    "thompson": (5.7, 5.5, 5.2, 74.7, 76.7, 64.5, 402.0, 429.5, 427.2),
    "optimistic thompson": (6.5, 6.2, 5.5, 77.9, 81.4, 67.7, 406.7, 438.9, 437.6),
    "gittins": (6.6, 6.6, 6.5, 78.3, 82.8, 85.2, 405.8, 437.8, 463.7),
    "RL2": (6.7, 6.7, 6.8, 78.7, 83.5, 84.9, 401.6, 432.5, 438.9),
    "SNAIL": (6.6, 6.7, 6.7, 79.1, 83.5, 85.1, 408.1, 432.4, 442.6),
}


def played(name: str, pulls: int, arms: int, tasks: int) -> dict[str, Any]:
    """One number of the table."""
    began = time.process_time()
    world, chosen = Bandit(arms, pulls), {}
    chunk = max(500, min(10_000, 2**23 // (pulls * 10)))
    if name in GRIDS:

        def tried(settings: dict[str, float]) -> float:
            learner = PLANNERS[name](world, **settings)
            return float(evaluate(learner, "val", 2000, ["queries"], chunk=chunk).arrays["return"].mean())

        chosen = max(GRIDS[name], key=tried)
    found = evaluate(PLANNERS[name](world, **chosen), "test", tasks, ["queries"], chunk=chunk).arrays
    numbers = {}
    for metric in ("return", "regret"):
        interval = over_tasks(found[metric][:, 0])
        numbers[metric] = {"mean": round(float(interval.mean or 0), 4), "ci95": round(float(interval.half or 0), 4)}
    return {"pulls": pulls, "arms": arms, "method": name, "tasks": tasks, **numbers, "chosen": chosen,
            "deviation": round(float(found["return"].std()), 3), "seconds": round(time.process_time() - began, 1),
            "date": date.today().isoformat(), "torch": torch.__version__, "machine": platform.machine()}  # fmt: skip


def learned(folders: list[Path]) -> list[dict[str, Any]]:
    """A row for each method and bandit found in run folders, over its seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for result in finished(folders, "bandit"):
        protocol = result.get("protocol") or {}
        if protocol.get("kind") == "bernoulli":
            groups.setdefault((protocol["pulls"], protocol["arms"], result["algo"]), []).append(result)
    return [
        {"pulls": pulls, "arms": arms, "method": algo, **over_seeds(results)}
        for (pulls, arms, algo), results in sorted(groups.items())
    ]


def curve(folders: list[Path], lines: dict[str, float]) -> None:
    """Draws the validation return of runs of 500 pulls against their outer steps, with lines to compare with."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for result in finished(folders, "bandit"):
        if result["protocol"]["pulls"] == 500:
            told = [json.loads(row) for row in (Path(result["folder"]) / "metrics.jsonl").read_text().splitlines()]
            rows = [row for row in told if row["kind"] == "val"]
            step, mean = [row["step"] for row in rows], [row["return"]["mean"] for row in rows]
            half = np.array([row["return"]["ci95"] for row in rows])
            axes.plot(step, mean, color=BLUE, marker="o", markersize=3, label=f"rl2, seed {result['seed']}")
            axes.fill_between(step, mean - half, mean + half, color=BLUE, alpha=0.15, linewidth=0)
    for (name, value), colour in zip(lines.items(), (GREEN, ORANGE, PURPLE), strict=False):
        axes.axhline(value, color=colour, linestyle="--", label=name)
    axes.set(xlabel="outer steps with trials of 500 pulls", ylabel="return of a trial")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(OUT / CURVE, dpi=150)


def bounds() -> dict[tuple[int, int], tuple[float, str]]:
    """The smallest upper bound that is known of each row, and where it is from."""
    file = OUT / "bandit_bound.json"
    known = {(r["pulls"], r["arms"]): r["bound"] for r in json.loads(file.read_text())["rows"]} if file.exists() else {}
    found = {}
    for n, k in ROWS:
        if n == 10:
            found[n, k] = (solve(k, n)[0], "optimal")
        else:
            found[n, k] = min((n * k / (k + 1), "informed"), (known.get((n, k), math.inf), "Lagrangian"))
    return found


def page(data: dict[str, Any]) -> str:
    """The page."""
    rows = {(r["pulls"], r["arms"], r["method"]): r for r in [*data["rows"], *data["learned"]]}
    methods = [*PLANNERS, *dict.fromkeys(r["method"] for r in data["learned"])]
    top = bounds()
    head = ["n", "k", *methods, "at most"]

    def table(cell: Any, last: Any, names: list[str]) -> list[str]:
        lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
        return lines + [
            f"| {n} | {k} | {' | '.join([*(cell(n, k, m) for m in names[2:-1]), last(n, k)])} |" for n, k in ROWS
        ]

    def own(metric: str) -> Any:
        def cell(n: int, k: int, method: str) -> str:
            row = rows.get((n, k, method))
            digits = 3 if n == 10 else 2
            return "" if row is None else f"{row[metric]['mean']:.{digits}f} ± {row[metric]['ci95']:.{digits}f}"

        return cell

    def most(n: int, k: int) -> str:
        value, kind = top[n, k]
        return f"{value:.{3 if n == 10 else 2}f} ({kind})"

    def published(n: int, k: int, method: str) -> str:
        return str(PUBLISHED[method][ROWS.index((n, k))])

    def error(n: int, k: int) -> str:
        row = rows.get((n, k, "gittins"))
        return "" if row is None else f"{1.96 * row['deviation'] / math.sqrt(1000):.2f}"

    chosen = [
        (r, ", ".join(f"{name}={value}" for name, value in r["chosen"].items())) for r in data["rows"] if r["chosen"]
    ]
    settings = [f"{r['method']} at n={r['pulls']}, k={r['arms']}: {told}" for r, told in chosen]
    dates = sorted({r["date"] for r in data["rows"]})
    versions, machines = (", ".join(sorted({r[name] for r in data["rows"]})) for name in ("torch", "machine"))
    counts = "; ".join(
        f"n = {n}: {_counted({r['tasks'] for r in data['rows'] if r['pulls'] == n})}" for n in (10, 100, 500)
    )
    wide = max((r["return"]["ci95"] / r["return"]["mean"] for r in data["rows"]), default=0.0)
    return "\n".join([
        "# Bandits", "",
        "Made by `python scripts/bandits.py` and `python scripts/bandit_bound.py`; do not edit.", "",
        f"Total reward of n pulls of k coins whose probabilities are uniform: means over the same test bandits "
        f"({counts}), with 95 % intervals, at most "
        f"{100 * wide:.2f} % wide to each side. {', '.join(dates)}; torch {versions}, one core ({machines}); "
        f"{sum(r['seconds'] for r in data['rows']) / 60:.0f} minutes of it for all planners.", "",
        *table(own("return"), most, head), "",
        "At most: no rule gets more on average. n = 10: the exact optimum by dynamic programming (`algo=optimal`). "
        "Above: the smaller of a Lagrangian bound with a price for each pull and of what one gets who knows the arms, "
        "n k / (k + 1). Gittins: indices for the pulls that are left. `ucb1` is the published rule with c = 2; "
        "`ucb1 chosen` begins with the prior's pulls, and its c, like epsilon, is chosen on 2,000 validation bandits: "
        f"{'; '.join(settings)}.", "",
        "## Regret", "", "What one gets more who knows the arms, on the same bandits.", "",
        *table(own("regret"), lambda n, k: "", [*head[:-1], ""]), "",
        *notes(data["learned"], {"n": "pulls", "k": "arms"}, 3),
        *([f"![500 pulls of 5 arms: return in validation bandits]({CURVE})", ""] if (OUT / CURVE).exists() else []),
        "## Published", "",
        "Duan and others 2016 (RL^2), table 1, and Mishra and others 2018 (SNAIL), table 1: means of 1,000 bandits "
        "without intervals. The last column is the half-width of a 95 % interval of such a mean, from the deviation of "
        "the Gittins row above. So a mean one rounding unit above the optimum is noise.", "",
        *table(published, error, ["n", "k", *PUBLISHED, "± of 1,000"]), "",
    ])  # fmt: skip


def _counted(tasks: set[int]) -> str:
    """Numbers of test bandits in words."""
    return " or ".join(f"{number:,}" for number in sorted(tasks, reverse=True)) or "none"


def short(data: dict[str, Any]) -> str:
    """The table for the documentation."""
    text = page(data)
    return "\n".join(line for line in text.split("## Regret")[0].splitlines() if line.startswith("|"))


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", nargs="*", default=[f"{n},{k}" for n, k in ROWS], help="pulls,arms")
    p.add_argument("--only", help="these planners only")
    p.add_argument("--tasks", type=int, help="test bandits; default 50,000 for n = 10, 20,000 above")
    p.add_argument("--runs", type=Path, nargs="*", default=[], help="folders of runs of learned methods")
    p.add_argument("--again", action="store_true", help="make numbers that are there anew")
    p.add_argument("--render", action="store_true", help="only write the page")
    p.add_argument("--readme", type=Path, help="page to paste the table into: docs/worlds.md")
    a = p.parse_args()
    file = OUT / "bandits.json"
    data = json.loads(file.read_text()) if file.exists() else {"rows": [], "learned": []}

    def write() -> None:
        data["rows"].sort(key=lambda r: (r["pulls"], r["arms"], list(PLANNERS).index(r["method"])))
        lines = {name: ",\n".join(json.dumps(r) for r in data[name]) for name in ("rows", "learned")}
        file.write_text(f'{{"rows": [\n{lines["rows"]}\n], "learned": [\n{lines["learned"]}\n]}}\n')

    torch.set_num_threads(1)
    for word in [] if a.render else a.rows:
        n, k = map(int, word.split(","))
        for name in a.only.split(",") if a.only else PLANNERS:
            there = [r for r in data["rows"] if (r["pulls"], r["arms"], r["method"]) == (n, k, name)]
            if (there and not a.again) or (name == "optimal" and n > 10):
                continue
            row = played(name, n, k, a.tasks or TASKS[n])
            mean, half = row["return"].values()
            print(f"n={n} k={k} {name}: {mean:.3f} +- {half:.3f} ({row['seconds']:.0f} s)", flush=True)
            data["rows"] = [r for r in data["rows"] if r not in there] + [row]
            write()
    if a.runs:
        told = {r["method"]: r["return"]["mean"] for r in data["rows"] if (r["pulls"], r["arms"]) == (500, 5)}
        published = {f"{name}, published": PUBLISHED[name][ROWS.index((500, 5))] for name in ("RL2", "SNAIL")}
        curve(a.runs, {"gittins, test bandits": told["gittins"], **published})
        new = learned(a.runs)
        made = {(r["pulls"], r["arms"], r["method"]) for r in new}
        data["learned"] = [r for r in data["learned"] if (r["pulls"], r["arms"], r["method"]) not in made] + new
    write()
    (OUT / "bandits.md").write_text(page(data))
    if a.readme:
        paste(a.readme, short(data), "<!-- bandits -->", "<!-- /bandits -->")


if __name__ == "__main__":
    main()
