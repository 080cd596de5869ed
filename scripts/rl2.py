"""python scripts/rl2.py FOLDER [--rows bandit-10-5,...] [--seeds 0]: the runs of learned policies in worlds' tables.

Trains and tests each row for each seed as `python -m metaexp.train` does, in FOLDER, one after the other; a finished
run is kept and an interrupted one goes on. Long trials are learned in several runs, each of which starts from the one
before; rows that begin alike share these runs. Then `python scripts/bandits.py --render --runs FOLDER` and
`python scripts/mdps.py --render --runs FOLDER` take them into the pages. One core; `--list` prints the commands.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMON = ["device=cpu", "device.threads=1", "compile=true"]
SHORT = ["algo=rl2", "algo.values=total", "steps=1000", "test.tasks=50000"]
# Settings of longer trials, chosen by returns in training tasks. First a policy that is greedy but not sure of itself:
# rewards soon after an action tell most of it, and entropy keeps it from one arm for ever. Then later rewards count.
LONG = ["algo=rl2", "optimizer.lr=0.005", "meta_batch=300", "val.tasks=1000", "val.every=25"]
FIRST = [*LONG, "algo.discount=0.97", "algo.smoothing=0.3", "algo.entropy=0.1", "steps=200", "test.tasks=1000"]
THEN = ["algo.discount=0.99", "algo.smoothing=0.9", "algo.entropy=0.01", "optimizer.schedule=linear", "steps=600"]
FIRST_MDP = [*LONG, "algo.discount=0.9", "algo.smoothing=0.3", "algo.entropy=0.03", "steps=350", "test.tasks=1000"]
THEN_MDP = ["algo.discount=0.97", "algo.smoothing=0.7", "algo.entropy=0.005", "optimizer.schedule=linear", "steps=550"]
LONGEST = ["algo.discount=0.995", "algo.smoothing=0.9", "algo.entropy=0.01", "optimizer.schedule=linear", "steps=500"]
DPT = ["algo=dpt", "meta_batch=100", "optimizer.lr=0.003", "optimizer.schedule=cosine", "val.tasks=1000"]
# Of each row, settings of a run and of those that start from it.
BANDIT_100_5 = [["task=bandit", "task.arms=5", "task.pulls=100", *FIRST], [*THEN, "test.tasks=20000"]]
MDP_10 = [["task=mdp", *FIRST_MDP], [*THEN_MDP, "test.tasks=15000"]]
ROWS = {
    **{f"bandit-10-{k}": [["task=bandit", f"task.arms={k}", "task.pulls=10", *SHORT]] for k in (5, 10, 50)},
    "bandit-100-5": BANDIT_100_5,
    **{f"bandit-100-{k}": [["task=bandit", f"task.arms={k}", "task.pulls=100", *FIRST], BANDIT_100_5[1]]
       for k in (10, 50)},
    "bandit-500-5": [BANDIT_100_5[0], ["task.pulls=500", *LONGEST, "test.tasks=20000"]],
    "dpt-bandit-10-5": [["task=bandit", "task.arms=5", "task.pulls=10", *DPT, "steps=1000", "val.every=250",
                         "test.tasks=50000"]],
    "dpt-mdp-10": [["task=mdp", *DPT, "steps=300", "val.every=100", "val.tasks=300", "test.tasks=3000"]],
    "mdp-10": MDP_10,
    "mdp-25": [MDP_10[0], ["task.episodes=25", *THEN_MDP, "steps=300", "test.tasks=15000"]],
}  # fmt: skip


def finished(folder: Path, name: str) -> Path | None:
    """The run of this name that has its result."""
    files = sorted(folder.glob(f"*_{name}_*/result.json"))
    return next((file.parent for file in files if json.loads(file.read_text()).get("test")), None)


def main() -> int:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path)
    p.add_argument("--rows", default=",".join(ROWS))
    p.add_argument("--seeds", default="0")
    p.add_argument("--list", action="store_true", help="print the commands")
    a = p.parse_args()
    if unknown := set(a.rows.split(",")) - set(ROWS):
        p.error(f"--rows {','.join(sorted(unknown))}: not among {', '.join(ROWS)}")
    listed = set()
    for seed in map(int, a.seeds.split(",")):
        for row in a.rows.split(","):
            before: Path | None = None
            for stage, settings in enumerate(ROWS[row], 1):
                owner = next(one for one in ROWS if ROWS[one][:stage] == ROWS[row][:stage])
                name = f"{owner}-s{seed}" + ("" if stage == len(ROWS[owner]) else f"-{stage}")
                start = [f"start={before}"] if stage > 1 else []
                words = [*COMMON, *start, *settings, f"seed={seed}", f"name={name}", f"out={a.folder}", "resume=auto"]
                before = finished(a.folder, name)
                if a.list:
                    if name not in listed:
                        print("python -m metaexp.train", *words)
                    listed.add(name)
                    before = before or a.folder / f"RUN_{name}"
                elif before is None:
                    command = [sys.executable, "-m", "metaexp.train", *words]
                    if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
                        return code
                    before = finished(a.folder, name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
