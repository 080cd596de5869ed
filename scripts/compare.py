"""python scripts/compare.py scripts/comparisons/NAME.yaml FOLDER [--jobs 2] [--omniglot FOLDER]: a fair comparison.

Runs `python -m metaexp.train` in three rounds, with the same budget for every method:
    search  every combination of a method's own settings (equally many for each method) in short runs, with a seed that
            is used for nothing else; the best one on VALIDATION tasks is taken. Test tasks play no part.
    tasks   each method with its best settings, for every seed, with the same number of training tasks for all
    time    the same with as many outer steps as fit into the same number of seconds, at the speed measured in `tasks`
            (sampling, outer steps and logging; without the compiler, validations, checkpoints and the test)
Then it writes NAME.md (both tables with intervals, paired differences, the claims of papers), NAME.json and pictures.
Runs that exist are not made again, so it may be interrupted and called again. --render only writes the pages from the
runs that exist; --rounds search,tasks leaves out the last round. --readme docs/methods.md pastes a short table into
that page.
"""

import argparse
import os
from pathlib import Path

from benching.tables import paste
from comparing.page import page, short
from comparing.plan import ROOT, TRAINED, Comparison, work


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("file", type=Path)
    p.add_argument("folder", type=Path, help="folder of the runs")
    p.add_argument("--jobs", type=int, default=2, help="runs at a time")
    p.add_argument("--omniglot", type=Path, help="folder of the Omniglot data")
    p.add_argument("--rounds", default="search,tasks,time")
    p.add_argument("--render", action="store_true", help="run nothing, only write the pages")
    p.add_argument("--out", type=Path, default=ROOT / "scripts" / "results")
    p.add_argument(
        "--readme",
        metavar="PAGE",
        type=Path,
        help="page to paste the short table into, between <!-- NAME --> and <!-- /NAME -->: docs/methods.md",
    )
    a = p.parse_args()
    c = Comparison(a.file, a.folder, a.omniglot)
    rounds = [] if a.render else a.rounds.split(",")
    if "search" in rounds:
        work([job for jobs in c.search().values() for job in jobs], a.jobs, "search")
    for round_ in TRAINED:
        if round_ in rounds:
            made = c.trained(round_)
            seeds = range(max((len(jobs) for jobs in made.values()), default=0))
            work([jobs[i] for i in seeds for jobs in made.values() if i < len(jobs)], a.jobs, round_)
    command = f"python scripts/compare.py scripts/comparisons/{a.file.name} FOLDER --jobs {a.jobs}"
    command += " --omniglot FOLDER" if a.omniglot else ""
    page(c, a.out, command)
    print(f"written: {a.out / c.name}.md, .json")
    if a.readme:
        link = Path(os.path.relpath(a.out / f"{c.name}.md", a.readme.parent)).as_posix()
        paste(a.readme, short(c, command, link), f"<!-- {c.name} -->", f"<!-- /{c.name} -->")


if __name__ == "__main__":
    main()
