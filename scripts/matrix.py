"""python scripts/matrix.py: does every method learn on every family with the settings that are typed by default?

For each cell of methods x families, both from scripts/matrix.yaml, this trains with default settings within the
family's budget of one core, keeps the best weights on validation tasks, and tests them on test tasks beside `mean`,
`neighbour`, `scratch` (whose rate is chosen on validation tasks) and the untrained network of the same method. A cell
learns if the 95 % intervals of its paired differences to `mean`, `scratch` and the untrained network exclude 0.

A finished cell is written at once to scripts/results/matrix.json and not made again unless its settings change (a
digest of its composed settings and budget is kept), so the command may be interrupted and called again. --cells
algo:task,... makes some, "*" stands for all: "--cells 'cavia:*,*:clusters'"; with --again also if they exist.
--budget scales all budgets. --search trains the chosen cells with other settings and prints validation scores only:
test tasks never play a part in the choice of a default. --render only writes docs/matrix.md from what exists.
"""

import argparse
import fnmatch
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "scripts/results/matrix.json"


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cells", default="*", help="patterns algo:task, separated by commas")
    p.add_argument("--again", action="store_true", help="make the chosen cells also if they exist")
    p.add_argument("--budget", type=float, default=1.0, help="factor on the budgets of matrix.yaml")
    p.add_argument("--data", type=Path, default=ROOT / "outputs/matrix", help="folder for the made data")
    p.add_argument("--omniglot", type=Path, help="folder of the Omniglot data; without it those cells are left out")
    p.add_argument("--out", type=Path, default=RESULT)
    p.add_argument(
        "--search",
        nargs="+",
        metavar="SETTINGS",
        help="only train the chosen cells with each of these settings, and print their validation scores",
    )
    p.add_argument("--render", action="store_true", help="make nothing, only write the page")
    p.add_argument("--page", type=Path, default=ROOT / "docs/matrix.md")
    a = p.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
    plan = yaml.safe_load((ROOT / "scripts/matrix.yaml").read_text(encoding="utf-8"))
    if not a.render:
        fill(plan, a)
    if a.search:
        return
    from crossing.page import page

    found = json.loads(a.out.read_text(encoding="utf-8"))
    a.page.write_text(page(plan, found), encoding="utf-8")
    print(f"written: {a.page}")


def fill(plan: dict[str, Any], a: argparse.Namespace) -> None:
    """Make the cells that are missing, one after the other."""
    import torch
    from crossing.cells import GROUPS, Cell, guarded
    from crossing.data import write_functions

    from metaexp.config.settings import Settings
    from metaexp.storage.checkpoint_file import versions
    from metaexp.system.machine import machine

    if not (file := a.data / "functions.npz").exists():
        write_functions(file)
    found = json.loads(a.out.read_text(encoding="utf-8")) if a.out.exists() else {}
    composer = Settings([], GROUPS).composer
    for task, family in plan["families"].items():
        if task == "omniglot" and a.omniglot is None:
            continue
        fill_in = {"DATA": str(a.data), "OMNIGLOT": str(a.omniglot)}
        words = tuple(_replaced(word, fill_in) for word in family.get("words", []))
        kind = (composer.content(f"task/{task}").get("gives") or {"kind": "classification"})["kind"]
        for algo in plan["methods"]:
            needs = (composer.content(f"algo/{algo}").get("needs") or {}).get("kind", [kind])
            name = f"{algo}:{task}"
            if kind not in needs or not any(fnmatch.fnmatchcase(name, one.strip()) for one in a.cells.split(",")):
                continue
            few = plan["few"].get(algo, 1.0)
            cell = Cell(
                algo,
                task,
                family["budget"] * a.budget,
                round(family["tasks"] * few),
                round(plan["validation"] * few),
                words,
                family["tasks"],
            )
            if a.search:
                search(cell, a.search)
                continue
            if not a.again and found.get(name, {}).get("digest") == cell.digest():
                continue
            row = guarded(cell)
            row |= {"date": time.strftime("%Y-%m-%d"), "budget": cell.budget, "versions": versions()}
            row |= {"machine": machine(torch.device("cpu")), "tasks": cell.tasks}
            found = json.loads(a.out.read_text(encoding="utf-8")) if a.out.exists() else {}
            found[name] = row
            a.out.parent.mkdir(parents=True, exist_ok=True)
            a.out.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n", encoding="utf-8")
            print(name, {k: row[k] for k in ("steps", "mean", "floors", "failed", "seconds") if k in row}, flush=True)


def search(cell: Any, candidates: list[str]) -> None:
    """Print the best validation mean of a cell with each of the candidates, "" for the defaults."""
    from crossing.cells import affordable, train

    from metaexp.errors import MetaexpError

    for settings in candidates:
        tried = cell._replace(words=cell.words + tuple(settings.split()))
        try:
            steps, _ = affordable(tried)
            shown = f"{train(tried, tried.config(steps))[2]:.5g}"
        except (MetaexpError, ValueError, RuntimeError) as error:
            steps, shown = 0, str(error).splitlines()[0]
        print(f"{cell.algo}:{cell.task} [{settings}] steps={steps} validation={shown}", flush=True)


def _replaced(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


if __name__ == "__main__":
    main()
