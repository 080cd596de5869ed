"""PYTHONPATH=. python scripts/step_speed.py [--works sine-maml,sine-reptile,...]: a compiled outer step, several ways.

The step of each work is compiled with small products as calls of a library, with them as code of the graph, and with
the kernels called without tensors between them too. The ways are timed in turn, a few steps at a time, on one core. The
smallest time is what the step costs where nothing disturbs it, so it can be compared on a busy machine too; only the
graph is timed, without Lightning, logging and drawing. The works are those of scripts/bench.py.
"""

import argparse
import os
import statistics
import tempfile
import time
from typing import Any

import torch
from benching.works import WORKS

from metaexp.algos.maml import MAML
from metaexp.algos.reptile import Reptile
from metaexp.models.mlp import MLP
from metaexp.outer import compiler, kernel_library
from metaexp.outer.compiled_step import CompiledStep
from metaexp.outer.meta_training import MetaTraining
from metaexp.outer.optimisers import make_optimizer
from metaexp.tasks.sine import Sine

NAMES = [name for name, work in WORKS.items() if not work.omniglot]
STEPS = 3  # of one timing: short enough to fit between two interruptions
WAYS = {  # name -> what writes products out, and what writes the calls of kernels
    "products by a library": (lambda graph: 0, lambda *given: None),
    "products in the graph": (compiler.write_out, lambda *given: None),
    "bare calls": (compiler.write_out, kernel_library.program),
}


def built(name: str) -> tuple[CompiledStep, float]:
    """The compiled step of a work, and the seconds that it took to make."""
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
    start = time.perf_counter()
    training.advance(0)
    step = training._step
    if not isinstance(step, CompiledStep):
        raise SystemExit(f"{name}: not compiled: {training.compile_reason}")
    return step, time.perf_counter() - start


def milliseconds(step: CompiledStep) -> float:
    """Of one step, over a few of them."""
    start = time.perf_counter()
    for _ in range(STEPS):
        step._graph(*step._args)
    return 1000 * (time.perf_counter() - start) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", default=",".join(NAMES))
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--repeats", type=int, default=1500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    ways = given.ways.split(",")
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, ms of an outer step")
    print(
        "| work | " + " | ".join(f"{way}: min, median (made in)" for way in ways) + " | first min / last min | bits |"
    )
    print("| --- |" + " --- |" * (len(ways) + 2))
    with tempfile.TemporaryDirectory() as folder:
        for name in given.works.split(","):
            steps: list[CompiledStep] = []
            seconds: list[float] = []
            for place, way in enumerate(ways):
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/{place}"
                compiler.write_out, kernel_library.program = WAYS[way]
                step, took = built(name)
                steps.append(step)
                seconds.append(took)
            times: list[list[float]] = [[] for _ in ways]
            for _ in range(given.repeats):
                for step, found in zip(steps, times, strict=True):
                    found.append(milliseconds(step))
            cells = [
                f"{min(t):.4f}, {statistics.median(t):.4f} ({s:.0f} s)" for t, s in zip(times, seconds, strict=True)
            ]
            same = "equal" if torch.equal(steps[-1].flat.theta, steps[max(len(ways) - 2, 0)].flat.theta) else "differ"
            ratio = min(times[0]) / min(times[-1])
            print(f"| {name} | {' | '.join(cells)} | {ratio:.2f} | {same} |", flush=True)


if __name__ == "__main__":
    main()
