"""python scripts/memory.py: memory of one outer step of MAML, checkpointed MAML and iMAML by number of inner steps.

Beside them a loop over tasks in plain PyTorch, as in learn2learn and higher: torch.autograd with create_graph, one
backward pass per task. With --omniglot FOLDER also for the convolutional network, 5-way 1-shot, 32 tasks.

Each measurement is a process of its own. It takes one outer step, returns what it can to the system, and takes
another; the figure is the peak of its resident memory in the second step minus its resident memory before it. So
Python, torch and the optimiser's state do not count. Writes scripts/results/memory.json and .md. Linux only.

--steps 1,5,20,100 and --set KEY=VALUE (any setting of metaexp.train) measure other cases; --out says where to write.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benching.processes import ROOT, run, stamp

PLAIN = "plain PyTorch loop"
METHODS = {
    PLAIN: ["algo=maml"],
    "maml": ["algo=maml"],
    "maml, checkpoint": ["algo=maml", "algo.checkpoint=true"],
    "imaml": ["algo=imaml"],
}
SETTINGS = [
    "task=sine", "task.shots=250", "task.queries=250", "model.hidden=[128,128]", "meta_batch=8", "compile=false",
    "device=cpu", "device.threads=1", "algo.inner_lr=0.001",
]  # fmt: skip
OMNIGLOT = [
    "task=omniglot", "task.ways=5", "task.shots=1", "task.queries=15", "meta_batch=32", "compile=false", "device=cpu",
    "device.threads=1", "algo.inner_lr=0.1",
]  # fmt: skip
# Blocks of 64 KiB or more come from the system and return to it, so that freed memory does not hide what is needed.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def resident(name: str) -> int:
    """VmRSS or VmHWM (its peak) of this process in kB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def plain(parts: Any) -> Callable[[int], None]:
    """An outer step of second-order MAML as a loop over tasks, by its number."""
    import torch
    from torch.func import functional_call

    learner, tasks = parts.learner, parts.training.meta_batch

    def step(index: int) -> None:
        support, query, _, _ = learner.family.sample("train", torch.arange(index * tasks, (index + 1) * tasks))
        parts.optimizer.zero_grad()
        for i in range(tasks):
            fast = dict(learner.model.named_parameters())
            for _ in range(learner.inner_steps):
                loss = learner.loss(functional_call(learner.model, fast, (support.x[i],)), support.y[i])
                grads = torch.autograd.grad(loss, tuple(fast.values()), create_graph=True)
                fast = {name: p - learner.inner_lr * g for (name, p), g in zip(fast.items(), grads, strict=True)}
            (learner.loss(functional_call(learner.model, fast, (query.x[i],)), query.y[i]) / tasks).backward()
        parts.optimizer.step()

    return step


def measure(method: str, overrides: list[str]) -> dict[str, float]:
    """MB by which the resident memory of this process grows in the second outer step."""
    from metaexp.config.settings import load
    from metaexp.training.build import Experiment

    parts = Experiment(load(overrides))
    step = plain(parts) if method == PLAIN else parts.training.step
    step(0)
    idle = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    step(1)
    return {"idle_mb": idle / 1e3, "growth_mb": (resident("VmHWM") - idle) / 1e3}


def table(data: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    lines = [
        "# Memory of one outer step",
        "",
        "MB by which the peak of resident memory in an outer step lies above the idle process, each in a process of "
        "its own, by number of inner steps.",
        "",
        f"`{data['stamp']['command']}`; {data['stamp']['cpu']}, {data['stamp']['date']}, commit "
        f"{data['stamp']['commit']}.",
    ]
    for work, settings in data["settings"].items():
        part = [row for row in data["rows"] if row["work"] == work]
        steps = sorted({row["inner_steps"] for row in part})
        found = {(row["method"], row["inner_steps"]): row for row in part}
        lines += ["", f"`{' '.join(settings)}`", "", "| method | " + " | ".join(map(str, steps)) + " |"]
        lines.append("| --- |" + " --- |" * len(steps))
        for method in dict.fromkeys(row["method"] for row in part):
            cells = [found.get((method, n)) for n in steps]
            lines.append(f"| {method} | " + " | ".join(f"{c['growth_mb']:.1f}" if c else "-" for c in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", default="1,5,20,100", help="numbers of inner steps")
    p.add_argument("--methods", default=";".join(METHODS), help="of these, separated by ;")
    p.add_argument("--omniglot", type=Path, help="folder of the Omniglot data")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a further setting of the runs")
    p.add_argument("--out", type=Path, default=ROOT / "scripts" / "results" / "memory.json", help="JSON; .md beside it")
    p.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child is not None:
        print(json.dumps(measure(a.child[0], a.child[1:])))
        return
    works = {"sine": SETTINGS} | ({"omniglot": OMNIGLOT} if a.omniglot else {})
    rows = []
    for work, settings in works.items():
        place = [f'task.root="{a.omniglot.resolve()}"'] if work == "omniglot" else []
        for method in a.methods.split(";"):
            for steps in map(int, a.steps.split(",")):
                overrides = [*METHODS[method], *settings, f"algo.inner_steps={steps}", *a.set]
                words = [sys.executable, "-W", "ignore", __file__, "--child", method, *overrides, *place]
                done = run(words, threads=1, **MALLOC)
                answer = done.answer()
                if done.code != 0 or answer is None:
                    sys.exit(f"{work}, {method}, {steps} inner steps: {done.reason()}")
                rows.append({"work": work, "method": method, "inner_steps": steps, **answer})
                print(f"{work}, {method}, {steps} inner steps: {answer['growth_mb']:.1f} MB", flush=True)
    words = [f"--steps {a.steps}", *(["--omniglot FOLDER"] if a.omniglot else []), *(f"--set {w}" for w in a.set)]
    command = " ".join(["PYTHONPATH=. python scripts/memory.py", *words])
    every = {work: [*settings, *a.set] for work, settings in works.items()}
    data = {"stamp": stamp(command), "settings": every, "rows": rows}
    a.out.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    a.out.with_suffix(".md").write_text(table(data), encoding="utf-8")


if __name__ == "__main__":
    main()
