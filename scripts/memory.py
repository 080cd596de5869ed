"""python scripts/memory.py: memory of one outer step of MAML, checkpointed MAML and iMAML by number of inner steps.

Every measurement is a process of its own: it takes one outer step, returns what it can to the system, and takes
another; the figure is how far the peak of its resident memory in the second step lies above where it was before. So
neither Python nor torch nor the optimiser's state counts. Writes scripts/results/memory.json and .md. Linux only.

--steps 1,5,20,100 and --set KEY=VALUE (any setting of metaexp.train) measure something else; --out says where.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benching.processes import ROOT, run, stamp

METHODS = {
    "maml": ["algo=maml"],
    "maml, checkpoint": ["algo=maml", "algo.checkpoint=true"],
    "imaml": ["algo=imaml"],
}
SETTINGS = [
    "task=sine", "task.shots=250", "task.queries=250", "model.hidden=[128,128]", "meta_batch=8", "compile=false",
    "device=cpu", "device.threads=1", "algo.inner_lr=0.001",
]  # fmt: skip
# Blocks from 64 KiB on come from the system and go back to it, so that what was freed does not hide what is needed.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def resident(name: str) -> int:
    """VmRSS or VmHWM (its peak) of this process in kB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def measure(overrides: list[str]) -> dict[str, float]:
    """MB by which the resident memory of this process grows in the second outer step."""
    from metaexp.config import load
    from metaexp.parts import Parts

    loop = Parts(load(overrides)).loop
    loop.step(0)
    idle = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    loop.step(1)
    return {"idle_mb": idle / 1e3, "growth_mb": (resident("VmHWM") - idle) / 1e3}


def table(data: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    steps = sorted({row["inner_steps"] for row in data["rows"]})
    found = {(row["method"], row["inner_steps"]): row for row in data["rows"]}
    lines = [
        "# Memory of one outer step",
        "",
        "Made by `scripts/memory.py`: MB by which the peak of resident memory in an outer step lies above the idle "
        "process, each in a process of its own, by number of inner steps.",
        "",
        f"Settings: `{' '.join(data['settings'])}`; {data['stamp']['cpu']}, {data['stamp']['date']}.",
        "",
        "| method | " + " | ".join(map(str, steps)) + " |",
        "| --- |" + " --- |" * len(steps),
    ]
    for method in dict.fromkeys(row["method"] for row in data["rows"]):
        cells = [found.get((method, n)) for n in steps]
        lines.append(f"| {method} | " + " | ".join(f"{c['growth_mb']:.1f}" if c else "-" for c in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", default="1,5,20,100", help="numbers of inner steps")
    p.add_argument("--methods", default=";".join(METHODS), help="of these, separated by ;")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a further setting of the runs")
    p.add_argument("--out", type=Path, default=ROOT / "scripts" / "results" / "memory.json", help="JSON; .md beside it")
    p.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child is not None:
        print(json.dumps(measure(a.child)))
        return
    rows = []
    for method in a.methods.split(";"):
        for steps in map(int, a.steps.split(",")):
            overrides = [*METHODS[method], *SETTINGS, f"algo.inner_steps={steps}", *a.set]
            done = run([sys.executable, "-W", "ignore", __file__, "--child", *overrides], threads=1, **MALLOC)
            answer = done.answer()
            if done.code != 0 or answer is None:
                sys.exit(f"{method}, {steps} inner steps: {done.reason()}")
            rows.append({"method": method, "inner_steps": steps, **answer})
            print(f"{method}, {steps} inner steps: {answer['growth_mb']:.1f} MB", flush=True)
    command = " ".join(["PYTHONPATH=. python scripts/memory.py", *(f"--set {word}" for word in a.set)])
    data = {"stamp": stamp(command), "settings": [*SETTINGS, *a.set], "rows": rows}
    a.out.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    a.out.with_suffix(".md").write_text(table(data), encoding="utf-8")


if __name__ == "__main__":
    main()
