"""PYTHONPATH=. python scripts/step_speed.py [--works sine-maml,sine-reptile,...]: a compiled outer step, two ways.

The step of each work is compiled with small products as calls of a library and as code of the graph, and both are timed
in turn, a few steps at a time, on one core. The smallest time is what the step costs where nothing disturbs it, so it
can be compared on a busy machine too; only the graph is timed, without Lightning, logging and drawing. The works are
those of scripts/bench.py.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from benching.works import WORKS

from metaexp.algos.maml import MAML
from metaexp.algos.reptile import Reptile
from metaexp.models.mlp import MLP
from metaexp.outer import compiler
from metaexp.outer.compiled_step import CompiledStep
from metaexp.outer.meta_training import MetaTraining
from metaexp.outer.optimisers import make_optimizer
from metaexp.tasks.sine import Sine

NAMES = [name for name, work in WORKS.items() if not work.omniglot]
STEPS = 3  # of one timing: short enough to fit between two interruptions


def built(name: str) -> CompiledStep:
    """The compiled step of a work."""
    given = WORKS[name].settings
    inner: dict[str, Any] = {"inner_lr": float(given["algo.inner_lr"]), "inner_steps": int(given["algo.inner_steps"])}
    if given["algo"] == "reptile":
        inner["inner_batch"] = int(given["algo.inner_batch"])
    elif given["algo"] == "fomaml":
        inner["first_order"] = True
    family = Sine(int(given["task.shots"]), int(given["task.queries"]))
    torch.manual_seed(0)
    kind = Reptile if given["algo"] == "reptile" else MAML
    learner: Any = kind(family, lambda *sizes: MLP(*sizes, hidden=[40, 40]), **inner)
    rate, adam = float(given["optimizer.lr"]), given["optimizer"] == "adam"
    optimizer = make_optimizer(lambda p: (torch.optim.Adam if adam else torch.optim.SGD)(p, lr=rate), learner)
    training = MetaTraining(learner, optimizer, meta_batch=int(given["meta_batch"]), compiled=True)
    training.advance(0)
    step = training._step
    if not isinstance(step, CompiledStep):
        raise SystemExit(f"{name}: not compiled: {training.compile_reason}")
    return step


def milliseconds(step: CompiledStep) -> float:
    """Of one step, over a few of them."""
    start = time.perf_counter()
    for _ in range(STEPS):
        step._graph(*step._args)
    return 1000 * (time.perf_counter() - start) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", default=",".join(NAMES))
    parser.add_argument("--repeats", type=int, default=1500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    written = compiler.write_out
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, ms of an outer step")
    print("| work | by a library: min, median | in the graph: min, median | min / min |")
    print("| --- | --- | --- | --- |")
    for name in given.works.split(","):
        steps: list[CompiledStep] = []
        times: tuple[list[float], list[float]] = ([], [])
        for way in (lambda graph: 0, written):
            compiler.write_out = way  # type: ignore[assignment]
            steps.append(built(name))
        for _ in range(given.repeats):
            for step, found in zip(steps, times, strict=True):
                found.append(milliseconds(step))
        cells = [f"{min(found):.4f}, {statistics.median(found):.4f}" for found in times]
        print(f"| {name} | {cells[0]} | {cells[1]} | {min(times[0]) / min(times[1]):.2f} |", flush=True)


if __name__ == "__main__":
    main()
