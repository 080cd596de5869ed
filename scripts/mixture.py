"""python scripts/mixture.py FOLDER [--rounds search,tasks] [--only r2d2,maml] [--seeds 0] [--minutes 60]: task=mixture.

Makes the runs of scripts/comparisons/mixture.yaml (--file: of another file) one after the other, each in a fork of one
process, so that torch is imported once; then writes NAME.md, NAME.json and the pictures into scripts/results: the
comparison as scripts/compare.py writes it, and what only this family has: every row's regret to the Bayes prediction,
errors per kind, the published table, and how the mother's children agree with the kinds. Runs that exist are not made
again, so the command may be interrupted and called again. --render only writes the page.
"""

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from benching.tables import paste  # noqa: E402
from comparing.page import page, short  # noqa: E402
from comparing.plan import Comparison, Job  # noqa: E402
from mixing.section import add  # noqa: E402

from metaexp.errors import ConfigError, NonFiniteError  # noqa: E402

FILE = ROOT / "scripts" / "comparisons" / "mixture.yaml"


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path, help="folder of the runs")
    p.add_argument("--file", type=Path, default=FILE, help="the comparison, all of whose tasks are a mixture")
    p.add_argument("--rounds", default="search,tasks")
    p.add_argument("--only", help="make runs of these methods only, in this order")
    p.add_argument("--seeds", help="make runs with these seeds only")
    p.add_argument("--minutes", type=float, help="begin no run after so many minutes")
    p.add_argument("--render", action="store_true", help="run nothing, only write the page")
    p.add_argument("--readme", type=Path, help="page to paste the short table into: docs/methods.md")
    p.add_argument("--no-page", action="store_true", help="only make runs")
    p.add_argument("--out", type=Path, default=ROOT / "scripts" / "results")
    a = p.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    c = Comparison(a.file, a.folder, None)
    until = time.monotonic() + 60 * a.minutes if a.minutes else float("inf")
    names = a.only.split(",") if a.only else list(c.methods)
    if not a.render:
        if "search" in a.rounds.split(","):
            make([job for name in names for job in c.search()[name]], "search", until)
        if "tasks" in a.rounds.split(","):
            made = c.trained("tasks")
            seeds = [int(s) for s in a.seeds.split(",")] if a.seeds else c.spec["seeds"]
            places = [c.spec["seeds"].index(seed) for seed in seeds]
            make([made[name][i] for i in places for name in names if made[name]], "tasks", until)
    if a.no_page:
        return
    other = "" if a.file == FILE else f" --file scripts/comparisons/{a.file.name}"
    command = f"python scripts/mixture.py FOLDER{other}"
    page(c, a.out, command)
    add(c, a.out)
    if a.readme:
        link = Path(os.path.relpath(a.out / f"{c.name}.md", a.readme.parent)).as_posix()
        paste(a.readme, short(c, command, link), f"<!-- {c.name} -->", f"<!-- /{c.name} -->")
    print(f"written: {a.out / c.name}.md, .json")


def make(jobs: list[Job], label: str, until: float) -> None:
    """Makes the missing runs, with a line for each."""
    for job in jobs:
        job.check()
    todo = [job for job in jobs if not job.done]
    begun = time.monotonic()
    for done, job in enumerate(todo, 1):
        if time.monotonic() > until:
            print(f"{label}: time is up, {len(todo) - done + 1} runs left", flush=True)
            return
        code = forked(job)
        left = (time.monotonic() - begun) / done * (len(todo) - done)
        result = job.result
        told = job.failure or (f"{result['speed']['seconds']:.0f} s" if result else f"exit code {code}")
        told += f", validation {result['val']['best']}" if result else ""
        place = "/".join(job.folder.parts[-2:])
        print(f"{label} {done}/{len(todo)} {place}: {told}; about {left / 60:.0f} min left", flush=True)
        if code not in (0, ConfigError.exit_code, NonFiniteError.exit_code):
            raise SystemExit(f"{job.folder}: exit code {code}, see log.txt there")


def forked(job: Job) -> int:
    """Makes a run in a child of this process; returns its exit code. What it prints goes to log.txt."""
    import json

    import matplotlib.pyplot  # noqa: F401  what every run imports, once and before the first fork

    import metaexp.loggers.tensorboard
    import metaexp.outer.meta_training
    import metaexp.plots.curves
    import metaexp.plots.pictures
    import metaexp.plots.views
    import metaexp.run.single
    import metaexp.training.train_and_test
    import metaexp.training.trainer  # noqa: F401

    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "asked.json").write_text(json.dumps(job.words, indent=1) + "\n", encoding="utf-8")
    child = os.fork()
    if not child:
        _child(job)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code in (ConfigError.exit_code, NonFiniteError.exit_code):
        last = (job.folder / "log.txt").read_text(encoding="utf-8").strip().splitlines()[-1:]
        (job.folder / "failed.txt").write_text((last or [f"exit code {code}"])[0] + "\n", encoding="utf-8")
    return code


def _child(job: Job) -> None:
    from metaexp.config.command_line import exit_code
    from metaexp.train import train

    log = os.open(job.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        code = exit_code(lambda: train([*job.words, f'out="{job.folder}"', "resume=auto"]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
