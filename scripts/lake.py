"""python scripts/lake.py --omniglot FOLDER --runs FOLDER [--only maml] [--render]: Lake's one-shot benchmark.

Errors of methods on the 20 given runs of 20-way one-shot classification within alphabets (`task=omniglot_lake`), beside
the published ones: `hausdorff`, the authors' baseline on the full pictures; `protonet`, trained for 400 tasks of any 20
characters of the background set; `maml`, trained for 1,200 tasks of 20 characters of one alphabet, with the settings of
conf/pair/omniglot/maml.yaml. Weights are the best on alphabets held out of the background set; the 20 runs play no part
in any choice. Runs that are finished in --runs are taken as they are, one that was stopped goes on, so that the command
may be interrupted and called again. --budget scales the outer steps.

Writes scripts/results/lake.json and the table of docs/my_pictures.md.
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
TESTED = ["task=omniglot_lake", "test.tasks=20"]
PUBLISHED = [
    ("Bayesian program learning", 3.3, "Lake, Salakhutdinov, Tenenbaum 2015"),
    ("people", 4.5, "the same"),
    ("modified Hausdorff distance", 38.8, "the same"),
]
TRIALS = 400


class Row:
    """A method: what is typed to train it, for how many outer steps, and what is typed to test it."""

    def __init__(self, title: str, typed: str, steps: int = 0, tested: bool = False):
        self.title, self.typed, self.steps, self.tested = title, typed.split(), steps, tested

    def words(self, budget: float) -> list[str]:
        """What is typed, without folders."""
        return [*self.typed, *([f"steps={max(1, round(self.steps * budget))}"] if self.steps else [])]


ROWS = {
    "hausdorff": Row(
        "modified Hausdorff distance, `algo=hausdorff`",
        "algo=hausdorff task=omniglot_lake task.size=105 task.resize=nearest test.tasks=20",
    ),
    "protonet": Row(
        "prototypes, `algo=protonet`",
        "algo=protonet task=omniglot task.split=lake task.ways=20 task.queries=5 meta_batch=1 val.every=100 "
        "val.tasks=20 test.tasks=100",
        400,
        tested=True,
    ),
    "maml": Row(
        "MAML, `algo=maml`",
        'algo=maml task=omniglot_lake algo.inner_lr=2.0 algo.adapt=["*","!norms.*"] meta_batch=4 val.every=100 '
        "val.tasks=40 test.tasks=20",
        300,
    ),
}
MODES = {
    "accuracy": "",
    "accuracy_transductive": ", the 20 queries of a run in one batch",
}


def main(words: list[str] | None = None) -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--omniglot", type=Path, help="folder of the Omniglot data with all_runs.zip")
    p.add_argument("--runs", type=Path, help="folder for the runs")
    p.add_argument("--only", help="only these methods, separated by commas; the others stay as they are in lake.json")
    p.add_argument("--budget", type=float, default=1.0, help="factor on the outer steps")
    p.add_argument("--out", type=Path, default=ROOT / "scripts" / "results" / "lake.json")
    p.add_argument("--page", type=Path, default=ROOT / "docs" / "my_pictures.md")
    p.add_argument("--render", action="store_true", help="make nothing, only write the page")
    a = p.parse_args(words)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wanted = a.only.split(",") if a.only else list(ROWS)
    if unknown := [name for name in wanted if name not in ROWS]:
        p.error(f"--only {unknown[0]}: there are {', '.join(ROWS)}")
    found = json.loads(a.out.read_text(encoding="utf-8")) if a.out.exists() else {}
    if not a.render:
        if a.omniglot is None or a.runs is None:
            p.error("--omniglot and --runs are needed")
        for name in wanted:
            found[name] = made(name, a.omniglot, a.runs.resolve() / name, a.budget)
            a.out.write_text(json.dumps({key: found[key] for key in ROWS if key in found}, indent=1) + "\n")
    from benching.tables import paste

    paste(a.page, page(found), "<!-- lake -->", "<!-- /lake -->")
    print(f"written: {a.out}, {a.page}")


def made(name: str, data: Path, folder: Path, budget: float) -> dict[str, Any]:
    """The scores of a method on the 20 runs and what its result says of it."""
    import metaexp
    from metaexp.evaluate import evaluate

    row, places = ROWS[name], [f"task.root={data}"]
    typed = row.words(budget)
    run = finished(folder, typed)
    if run is None:
        metaexp.start(*typed, *places, "device=cpu", "device.threads=1", "resume=auto", f"out={folder}")
        run = finished(folder, typed)
        assert run is not None
    result = trained = json.loads((run / "result.json").read_text(encoding="utf-8"))
    if row.tested:
        file = run / "evaluations" / "1" / "result.json"
        if not file.exists() and (code := evaluate([f"run={run}", *TESTED, *places])):
            sys.exit(code)
        result = json.loads(file.read_text(encoding="utf-8"))
    return {
        "typed": typed,
        "test": {mode: {k: v[k] for k in ("mean", "ci95", "tasks")} for mode, v in result["test"].items()},
        "seconds": round(trained["speed"]["seconds"]),
        "date": time.strftime("%Y-%m-%d", time.localtime((run / "result.json").stat().st_mtime)),
        **{key: trained.get(key) for key in ("weights", "versions", "machine", "commit", "steps")},
    }


def finished(folder: Path, typed: list[str]) -> Path | None:
    """The newest finished run of a folder.

    Raises:
        SystemExit: it was made with other settings.
    """
    for file in sorted(folder.glob("*/result.json"), reverse=True):
        command = json.loads(file.read_text(encoding="utf-8"))["command"]
        if missing := [word for word in typed if not re.search(re.escape(word) + r"(?![\w.])", command)]:
            raise SystemExit(f"{file.parent}: made without {missing[0]}; move it away")
        return file.parent
    return None


def page(found: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = ["| | errors in percent | source |", "|---|---|---|"]
    lines += [f"| {what} | {error} | {source} |" for what, error, source in PUBLISHED]
    for name, row in ROWS.items():
        for mode, words in MODES.items():
            if name in found and mode in found[name]["test"]:
                lines.append(f"| {row.title}{words} | {told(found[name]['test'][mode])} | {source(found[name])} |")
    made = {name: " ".join(found[name]["typed"]) if name in found else None for name in ROWS}
    typed = "\n".join(
        f"- {n}: `{w or ' '.join(ROWS[n].words(1))}`{'' if w else ' (not run yet)'}" for n, w in made.items()
    )
    return "\n".join(lines) + f"\n\n`python scripts/lake.py --omniglot FOLDER --runs FOLDER`, which types\n\n{typed}\n"


def told(score: dict[str, float]) -> str:
    """Errors with their number and the 95 % interval over runs."""
    wrong = round((1 - score["mean"]) * TRIALS)
    return f"{100 * wrong / TRIALS:.2f} ({wrong} of {TRIALS} trials) ± {100 * score['ci95']:.1f} over the 20 runs"


def source(one: dict[str, Any]) -> str:
    """For how many tasks it was trained, when, and with what."""
    tasks = one["steps"] * int(next((w.split("=")[1] for w in one["typed"] if w.startswith("meta_batch=")), 1))
    trained = f"a short training of {tasks:,} tasks; " if tasks else ""
    return f"{trained}{one['date']}, torch {one['versions']['torch'].split('+')[0]}, one thread of a CPU"


if __name__ == "__main__":
    main()
