"""python scripts/acting_speed.py --jax PYTHON --gymnasium PYTHON [--repeats 3]: steps of worlds per second.

RL^2's loop in metaexp, in JAX (scripts/acting/in_jax.py) and on a gymnasium vector environment
(scripts/acting/in_gymnasium.py), with the same worlds, network, trials and updates. The programs run in turn, each in a
process of its own with one thread, `--repeats` rounds; of each the best rate counts. Time is processor time without
compiling, so that other work on the machine disturbs little. Writes scripts/results/acting_speed.json and .md.
"""

import argparse
import json
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OUT = HERE / "results"
WORLDS = {"bandit": (1000, 10), "mdp": (200, 100), "grid": (200, 60)}  # trials of an outer step, steps of a trial
PROGRAMS = ("metaexp", "jax", "gymnasium")


def measured(python: str, program: str, world: str) -> dict[str, Any]:
    """One process."""
    words = [python, str(HERE / "acting" / f"in_{program}.py"), world, *map(str, WORLDS[world]), "2"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def page(data: dict[str, Any]) -> str:
    """The page."""
    rows = []
    for world, (trials, steps) in WORLDS.items():
        for kind, told in (("train", "training"), ("act", "acting alone")):
            rates = {p: max(r["rates"][kind] for r in data["runs"] if (r["world"], r["program"]) == (world, p))
                     for p in PROGRAMS}  # fmt: skip
            ours = rates["metaexp"]
            cells = [f"{rates[p] / 1000:.0f}" for p in PROGRAMS]
            ratios = [f"{ours / rates[p]:.2f}" for p in PROGRAMS[1:]]
            rows.append(f"| {world} | {trials} x {steps} | {told} | {' | '.join(cells + ratios)} |")
    versions = ", ".join(sorted({r["version"] for r in data["runs"]}))
    return "\n".join([
        "# Steps of worlds per second", "",
        "Made by `python scripts/acting_speed.py --jax PYTHON --gymnasium PYTHON`; do not edit.", "",
        "RL^2's outer step (GRU of 64, PPO with 3 epochs of 4 minibatches) in metaexp, in JAX and on a gymnasium "
        "vector environment: thousands of steps of the world per second of processor time, one thread, without "
        "compiling; the "
        f"best of {data['repeats']} rounds in turn. {data['date']}; {versions}; {data['machine']}. "
        "The machine did other work at the same time, which changes rates, and ratios less.", "",
        "| world | trials x steps | what | metaexp | JAX | gymnasium | metaexp / JAX | metaexp / gymnasium |",
        "|---|---|---|---|---|---|---|---|", *rows, "",
    ])  # fmt: skip


def main() -> None:
    """Measure, write."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--jax", required=True, help="Python with jax")
    p.add_argument("--gymnasium", required=True, help="Python with gymnasium and metaexp's requirements")
    p.add_argument("--repeats", type=int, default=3)
    a = p.parse_args()
    pythons = {"metaexp": sys.executable, "jax": a.jax, "gymnasium": a.gymnasium}
    data: dict[str, Any] = {"date": date.today().isoformat(), "machine": platform.machine(), "repeats": a.repeats}
    data["runs"] = []
    for _ in range(a.repeats):
        for world in WORLDS:
            for program in PROGRAMS:
                found = {"world": world, "program": program, **measured(pythons[program], program, world)}
                data["runs"].append(found)
                print({**found, "rates": {k: round(v) for k, v in found["rates"].items()}}, flush=True)
    OUT.mkdir(exist_ok=True)
    (OUT / "acting_speed.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (OUT / "acting_speed.md").write_text(page(data), encoding="utf-8")


if __name__ == "__main__":
    main()
