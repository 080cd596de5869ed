"""python scripts/rl2.py FOLDER [--rows bandit-10-5,...] [--seeds 0]: the runs of algo=rl2 in the tables of worlds.

Trains and tests each row for each seed as `python -m metaexp.train` does, in FOLDER, one after the other; a finished
run is kept and an interrupted one goes on. Then `python scripts/bandits.py --render --runs FOLDER` and
`python scripts/mdps.py --render --runs FOLDER` take them into the pages. One core; `--list` prints the commands.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMON = ["algo=rl2", "device=cpu", "device.threads=1"]
SHORT = ["steps=1000", "test.tasks=50000"]
# Settings of longer trials, chosen on validation tasks: the critic is of no use at first, so that a small lambda learns
# faster from it.
LONG = ["algo.discount=0.99", "algo.smoothing=0.3", "meta_batch=300", "val.tasks=1000"]
ROWS = {
    **{f"bandit-10-{k}": ["task=bandit", f"task.arms={k}", "task.pulls=10", *SHORT] for k in (5, 10, 50)},
    "bandit-100-5": ["task=bandit", "task.arms=5", "task.pulls=100", "steps=200", "optimizer.lr=0.005", "val.every=20",
                     "test.tasks=20000", *LONG],
    "mdp-10": ["task=mdp", "steps=300", "optimizer.lr=0.003", "val.every=25", "test.tasks=15000", *LONG],
}  # fmt: skip


def finished(folder: Path, name: str) -> bool:
    """Whether a run of this name has its result."""
    files = folder.glob(f"*_{name}_*/result.json")
    return any(json.loads(file.read_text()).get("test") for file in files)


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
    for seed in map(int, a.seeds.split(",")):
        for row in a.rows.split(","):
            name = f"{row}-s{seed}"
            words = [*COMMON, *ROWS[row], f"seed={seed}", f"name={name}", f"out={a.folder}", "resume=auto"]
            if a.list:
                print("python -m metaexp.train", *words)
            elif not finished(a.folder, name):
                code = subprocess.run([sys.executable, "-m", "metaexp.train", *words], cwd=ROOT, check=False).returncode
                if code:
                    return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
